"""Addresses as servers and vendors take them."""

from app.providers.mail.envelope import ascii_domain, mailbox_of
from tests.cases import each_case

ODD = [
    ("taro..yama@docomo.example", '"taro..yama"@docomo.example'),
    (".taro@ezweb.example", '".taro"@ezweb.example'),
    ("taro.@vodafone.example", '"taro."@vodafone.example'),
    ('"jane roe"@example.org', '"jane roe"@example.org'),
    ('"jane@home"@example.org', '"jane@home"@example.org'),
    ('"a<b>,c;d:(e)"@example.org', '"a<b>,c;d:(e)"@example.org'),
    (r'"say \"hi\" \\o/"@example.org', r'"say \"hi\" \\o/"@example.org'),
    (r'"an\ escaped\@sign"@example.org', '"an escaped@sign"@example.org'),
    ('"jane.roe"@example.org', "jane.roe@example.org"),
    ('""@example.org', '""@example.org'),
    ("a,b@example.org", '"a,b"@example.org'),
    ("o'brien+tag=1/2@example.org", "o'brien+tag=1/2@example.org"),
    ("root@localhost", "root@localhost"),
    ("cron@web_01.example.org", "cron@web_01.example.org"),
    ("postmaster@[192.0.2.7]", "postmaster@[192.0.2.7]"),
    ("x" * 90 + "@reply.example.org", "x" * 90 + "@reply.example.org"),
    ("jörg..@bücher.example", '"jörg.."@xn--bcher-kva.example'),
    ("用户@例子.example", "用户@xn--fsqu00a.example"),
    ("Jane.Roe@EXAMPLE.org", "Jane.Roe@example.org"),
]


@each_case(("address", "mailbox"), ODD)
def test_whoever_can_write_can_be_answered(address: str, mailbox: str) -> None:
    assert mailbox_of(address) == mailbox
    assert mailbox_of(mailbox) == mailbox


@each_case(
    "address",
    [
        "", "jane", "@example.org", "jane@", "jane@a b.example", "jane roe@example.org", 'jane"@example.org',
        '"jane@example.org', '"a"b"@example.org', "a <b@example.org", "a@b.example>", '"a\nb"@example.org',
        '"a\x00"@b.example', "a\u2028b@example.org", "a@b.example\r\n", "a@-b.example", "a@b..example",
        "a@[nonsense]", "a@" + "b" * 260,
    ],
)  # fmt: skip
def test_what_could_end_a_line_or_an_address_is_none(address: str) -> None:
    assert mailbox_of(address) is None


@each_case(("written", "ascii"), [("MÜNCHEN.example", "xn--mnchen-3ya.example"), ("a b", None), ("[::1]", None)])
def test_a_domain_is_in_ascii(written: str, ascii: str | None) -> None:
    assert ascii_domain(written) == ascii
