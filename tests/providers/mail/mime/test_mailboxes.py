"""Address headers, as mail programs write them and as forgers do."""

from app.providers.mail.mime.mailboxes import mailboxes
from tests.cases import each_case


@each_case(
    ("written", "name", "address"),
    [
        ("Jane Roe <jane@example.com>", "Jane Roe", "jane@example.com"),
        ('"Roe, Jane (Sales)" <jane@example.com>', "Roe, Jane (Sales)", "jane@example.com"),
        ('"Roe \\"JJ\\" Jane" <jane@example.com>', 'Roe "JJ" Jane', "jane@example.com"),
        ("Roe, Jane <jane@example.com>", "Roe, Jane", "jane@example.com"),
        ("Jane's Shop, Inc. <jane@example.com>", "Jane's Shop, Inc.", "jane@example.com"),
        ("Jane (Sales, EU) <jane@example.com> (a, b)", "Jane", "jane@example.com"),
        ("(a (nested) comment) jane@example.com", "a (nested) comment", "jane@example.com"),
        ("jane(work)@example.com", "work", "jane@example.com"),
        ("[External] Jane <jane@example.com>", "[External] Jane", "jane@example.com"),
        ("Re: Jane <jane@example.com>", "Re: Jane", "jane@example.com"),
        ("Jane @ Shop <jane@example.com>", "Jane @ Shop", "jane@example.com"),
        ("'Jane Roe' <jane@example.com>", "Jane Roe", "jane@example.com"),
        ("<jane@example.com> Jane Roe", "Jane Roe", "jane@example.com"),
        ("Jane Roe [jane@example.com]", "Jane Roe", "jane@example.com"),
        ("Jane Roe jane@example.com", "Jane Roe", "jane@example.com"),
        ("jane @ example.com", "", "jane@example.com"),
        ("<jane@\r\n example.com>", "", "jane@example.com"),
        ("mailto:jane@example.com", "", "jane@example.com"),
        ("Jane <SMTP:jane@example.com>", "Jane", "jane@example.com"),
        ("Jane <'jane@example.com'>", "Jane", "jane@example.com"),
        ("Jane <jane@example.com.>", "Jane", "jane@example.com"),
        ("Jane <<jane@example.com>>", "Jane", "jane@example.com"),
        ("Jane <@relay.example,@other.example:jane@example.com>", "Jane", "jane@example.com"),
        ("Jane <jane@example.com", "Jane", "jane@example.com"),
        ("jane@example.com>", "", "jane@example.com"),
        ("jane@example.com,", "", "jane@example.com"),
        ("jane@example.com;", "", "jane@example.com"),
        ("Jane (Sales <jane@example.com>", "Jane (Sales", "jane@example.com"),
        ('"Jane <jane@example.com>', "Jane", "jane@example.com"),
        ('"OFFICE\\" <jane@example.com>', '"OFFICE\\"', "jane@example.com"),
        ("I <3 mail <jane@example.com>", "I <3 mail", "jane@example.com"),
        ('"jane roe"@example.com', "", '"jane roe"@example.com'),
        ('Jane <"a@b, c"@example.com>', "Jane", '"a@b, c"@example.com'),
        ("Jane <jane..roe.@docomo.example>", "Jane", "jane..roe.@docomo.example"),
        ("Jane <Jane.ROE@Example.COM>", "Jane", "Jane.ROE@Example.COM"),
        ("O'Brien <o'brien+tag@example.com>", "O'Brien", "o'brien+tag@example.com"),
        ("jane@[192.0.2.1]", "", "jane@[192.0.2.1]"),
        ("Jürgen <jürgen@bücher.example>", "Jürgen", "jürgen@bücher.example"),
        ("J\udcc3\udcbcrgen <j@example.com>", "Jürgen", "j@example.com"),
        ("=?utf-8?Q?J=C3=BCrgen?= =?utf-8?B?IFJvZQ==?= <j@example.com>", "Jürgen Roe", "j@example.com"),
        ('"=?utf-8?Q?Roe=2C_Jane?=" <jane@example.com>', "Roe, Jane", "jane@example.com"),
        ("=?utf-8?Q?Jane?=<jane@example.com>", "Jane", "jane@example.com"),
        ("Jane\x00 <jane@example.com>", "Jane\ufffd", "jane@example.com"),
    ],
)
def test_a_mailbox_is_read_however_it_is_written(written: str, name: str, address: str) -> None:
    assert mailboxes(written) == [(name, address)]


@each_case(
    "written",
    [
        "jane@bank.example <mallory@example.com>",
        "jane@bank.example<mallory@example.com>",
        '"jane@bank.example" <mallory@example.com>',
        "<jane@bank.example> <mallory@example.com>",
        '"<jane@bank.example>," <mallory@example.com>',
        "(jane@bank.example,) mallory@example.com",
        "mallory@example.com (jane@bank.example)",
        "jane@bank.example via Shop <mallory@example.com>",
        "=?utf-8?Q?jane=40bank.example=2C?= <mallory@example.com>",
        "=?utf-8?B?amFuZUBiYW5rLmV4YW1wbGUs?= <mallory@example.com>",
        "=?utf-8?Q?jane@bank.example,?= <mallory@example.com>",
        "=?utf-8?Q?<jane@bank.example>?= <mallory@example.com>",
        "=?utf-8*en?Q?=22jane=40bank.example=22_=3Cjane=40bank.example=3E?= <mallory@example.com>",
        '"=?utf-8?Q?=22_=3Cjane=40bank.example=3E?=" <mallory@example.com>',
        "<jane@bank.example\x00> <mallory@example.com>",
        "Jane <jane@bank.example <mallory@example.com>",
    ],
)
def test_a_name_never_decides_whose_mail_it_is(written: str) -> None:
    assert [mailbox.address for mailbox in mailboxes(written)] == ["mallory@example.com"]


@each_case(
    "written",
    [
        "",
        "Jane Roe",
        "<>",
        "undisclosed-recipients:;",
        "Info @ Shop",
        "jane@",
        "@example.com",
        "<jane roe@example.com>",
        "jane@example.com bob@example.com",
        "jane@bank.example <>",
        "a@b@example.com",
        '"jane@example.com"',
        "(jane@example.com)",
        "=?utf-8?Q?Jane_=3Cjane=40example.com=3E?=",
        "=?utf-8?Q?Jane <jane@example.com>?=",
        "<=?utf-8?Q?jane=40example.com?=>",
        "<=?utf-8?Q?jane?=@example.com>",
        "<jane@example.com\x00>",
        "x" * 100_000 + " <jane@example.com>",
    ],
)
def test_an_entry_without_a_clear_address_is_left_out(written: str) -> None:
    assert mailboxes(written) == []


@each_case(
    ("written", "addresses"),
    [
        ("a@example.com, b@example.com", "a@example.com b@example.com"),
        ("a@example.com; B <b@example.com>;", "a@example.com b@example.com"),
        ("Sales: a@example.com, B <b@example.com>;", "a@example.com b@example.com"),
        ("jane@bank.example: a@example.com; , c@example.com", "a@example.com c@example.com"),
        ("A: a@example.com;, C: c@example.com;", "a@example.com c@example.com"),
        (",, a@example.com,,\r\n\tb@example.com,", "a@example.com b@example.com"),
        ("A <a@example.com, B <b@example.com>", "a@example.com b@example.com"),
        ("nobody, a@example.com", "a@example.com"),
        ("mailto:a@example.com; mailto:b@example.com", "a@example.com b@example.com"),
    ],
)
def test_a_list_is_read_in_its_order(written: str, addresses: str) -> None:
    assert [mailbox.address for mailbox in mailboxes(written)] == addresses.split()


@each_case("piece", ["(", '"', "<", '<\\"', "=?a?q?", "<a,", "a,", ":;", "<(", "a@", "\\", " a"])
def test_the_time_is_linear(piece: str) -> None:
    assert mailboxes(piece * (20_000 // len(piece)) + " <") == []
