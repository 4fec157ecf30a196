"""One address, however it is written; and nothing that a message could not be sent to."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from app.addresses import (
    InvalidAddress,
    any_address,
    channel_address,
    email_address,
    folded,
    mail_recipient,
    phone_address,
    sender_address,
)
from app.domain import Address, AddressType
from tests.cases import each_case


def phone(written: str, *, region: str = "US", may_be_alphanumeric: bool = False) -> Address:
    return phone_address(written, region=region, may_be_alphanumeric=may_be_alphanumeric)


@each_case(
    "written",
    [
        "+12016661234",
        " +12016661234 ",
        "+1 201 666 1234",
        "+1 (201) 666-1234",
        "+1.201.666.1234",
        "12016661234",
        "2016661234",
        "(201) 666-1234",
        "tel:+12016661234",
        "+1201６６６1234",  # noqa: RUF001 - full-width digits, as some keyboards write them
        "+١٢٠١٦٦٦١٢٣٤",
        "\u200e+12016661234",  # with the invisible mark that comes along when it is copied from a contact list
    ],
)
def test_every_spelling_of_a_phone_number_is_one_address(written: str) -> None:
    address = phone(written)
    assert (address.type, address.value) == (AddressType.PHONE, "+12016661234")


@each_case(
    ("region", "written", "value"),
    [
        ("GB", "020 7946 0958", "+442079460958"),
        ("GB", "07911 123456", "+447911123456"),
        ("DE", "0151 23456789", "+4915123456789"),
        ("FR", "01 23 45 67 89", "+33123456789"),
        ("AU", "0412 345 678", "+61412345678"),
        ("IT", "02 36618300", "+390236618300"),  # Italy keeps the zero
        ("GB", "+1 201 666 1234", "+12016661234"),
        ("US", "+44 20 7946 0958", "+442079460958"),
        ("US", "011 44 20 7946 0958", "+442079460958"),
        ("GB", "00 1 201 666 1234", "+12016661234"),
    ],
)
def test_a_number_without_country_code_is_one_of_the_default_region(region: str, written: str, value: str) -> None:
    assert phone(written, region=region).value == value


@each_case("written", ["123", "911", "12345", "242733", " 12345 "])
@each_case("region", ["US", "GB", "DE"])
def test_a_short_code_is_an_address_as_it_is(region: str, written: str) -> None:
    assert phone(written, region=region).value == written.strip()


@each_case(
    ("region", "written", "value"),
    [
        ("US", "1234567", "1234567"),
        ("US", "12345678", "12345678"),
        ("GB", "1234567", "+441234567"),
        ("DE", "12345678", "+4912345678"),
    ],
)
def test_seven_or_eight_digits_are_a_short_code_only_where_no_number_of_the_region_is_so_short(
    region: str, written: str, value: str
) -> None:
    assert phone(written, region=region).value == value


@each_case(
    "written",
    ["ALERTS", "Alerts", "A", "1A", "My Bank 24", "ALERTS LTD1", "AT&T", "B-Online", "Booking.com", "A_B", "Info+"],
)
def test_an_alphanumeric_sender_can_send_and_is_not_folded(written: str) -> None:
    assert phone(written, may_be_alphanumeric=True).value == written


@each_case("written", ["ALERTS", "A", "1A", "My Bank 24"])
def test_an_alphanumeric_sender_can_not_receive(written: str) -> None:
    with pytest.raises(InvalidAddress, match="can't receive"):
        phone(written)


@each_case(
    ("written", "says"),
    [
        pytest.param("+12016661234 ext 5", "extension", id="extension"),
        pytest.param("+12016661234x5", "extension", id="extension, short"),
        pytest.param("tel:+1-201-666-1234;ext=5", "extension", id="extension in a URI"),
        pytest.param("12", "not a phone number", id="two digits"),
        pytest.param("+1201666", "not a phone number", id="too short"),
        pytest.param("+120166612345678", "not a phone number", id="too long"),
        pytest.param("123456789", "not a phone number", id="neither short code nor number"),
        pytest.param("+999123456789", "not a phone number", id="unknown country"),
        pytest.param("+0123456789", "not a phone number", id="country zero"),
        pytest.param("+", "not a phone number", id="only a plus"),
        pytest.param("ALERT!", "not a phone number", id="a sender with punctuation"),
        pytest.param("+12016661234 or", "letters", id="a word behind it"),
        pytest.param("a5305551212", "letters", id="letters around it"),
        pytest.param("ÜBER", "not a phone number", id="a sender beyond ASCII"),
        pytest.param("ALERTSALERTS", "not a phone number", id="a sender of twelve characters"),
        pytest.param("user@example.com", "not a phone number", id="an email address"),
        pytest.param("+12016661234\n", "control characters", id="line feed"),
        pytest.param("+1201\r\n6661234", "control characters", id="line break"),
        pytest.param("+12016661234\x00", "control characters", id="NUL"),
        pytest.param("+1201\t6661234", "control characters", id="tabulator"),
        pytest.param("+12016661234\x85", "control characters", id="next line"),
        pytest.param("+12016661234\u2028", "control characters", id="line separator"),
        pytest.param("", "empty", id="empty"),
        pytest.param("   ", "empty", id="spaces"),
        pytest.param("\u00a0", "empty", id="no-break space"),
        pytest.param("1" * 65, "64 characters", id="65 characters"),
        pytest.param("+1" + "2" * 100_000, "64 characters", id="100,000 digits"),
    ],
)
def test_what_no_phone_could_have_is_refused_with_a_reason(written: str, says: str) -> None:
    with pytest.raises(InvalidAddress, match=says):
        phone(written, may_be_alphanumeric=True)


@each_case(
    ("written", "value"),
    [
        ("user@example.com", "user@example.com"),
        (" user@example.com ", "user@example.com"),
        ("User.Name@EXAMPLE.Com", "user.name@example.com"),
        ("user+tag@example.com", "user+tag@example.com"),
        ("user@bücher.example", "user@bücher.example"),
        ("user@BÜCHER.example", "user@bücher.example"),
        ("user@bu\u0308cher.example", "user@bücher.example"),
        ("user@xn--bcher-kva.example", "user@bücher.example"),
        ("user@XN--BCHER-KVA.example", "user@bücher.example"),
        ("user@faß.example", "user@faß.example"),  # another name than fass.example
        ("user@example\u3002com", "user@example.com"),
        ("jose\u0301@example.com", "jos\u00e9@example.com"),
        ("用户@例子.广告", "用户@例子.广告"),
        ("ｕser@example.com", "ｕser@example.com"),  # noqa: RUF001 - another mailbox than user@
        ("INFO@example.com", "info@example.com"),
        ("jane..x.@docomo.example", "jane..x.@docomo.example"),
        (".Jane@ezweb.example", ".jane@ezweb.example"),
        ('"Jane Doe"@example.com', '"jane doe"@example.com'),
        ('"jane..doe"@example.com', "jane..doe@example.com"),
        ('"Jane..X."@docomo.example', "jane..x.@docomo.example"),
        ("\u200ejane@example.com\u200f", "jane@example.com"),
        ("...a...@example.com", "...a...@example.com"),
        ("user@device.test", "user@device.test"),
        ("a" * 64 + "@example.com", "a" * 64 + "@example.com"),
    ],
)
def test_an_email_address_is_compared_without_case(written: str, value: str) -> None:
    address = email_address(written)
    assert (address.type, address.value) == (AddressType.EMAIL, value)


@each_case(
    ("written", "says"),
    [
        pytest.param("a" * 65 + "@example.com", "not an email", id="local part of 65 characters"),
        pytest.param("user@" + "b" * 64 + ".com", "not an email", id="label of 64 characters"),
        pytest.param("user@localhost", "not an email", id="localhost"),
        pytest.param("user@example", "not an email", id="domain without a dot"),
        pytest.param('"quoted@example.com', "not an email", id="half a quotation"),
        pytest.param("..@example.com", "not an email", id="only dots"),
        pytest.param("user@[127.0.0.1]", "not an email", id="address literal"),
        pytest.param("user@1.2.3.4", "not an email", id="number as domain"),
        pytest.param("user@example.invalid", "not an email", id="domain that can't be"),
        pytest.param("user@exam_ple.com", "not an email", id="underscore in domain"),
        pytest.param("user@-example.com", "not an email", id="hyphen in front"),
        pytest.param("user@example..com", "not an email", id="two dots in the domain"),
        pytest.param("user@example.com.", "not an email", id="dot at the end"),
        pytest.param("user@exa mple.com", "not an email", id="space inside"),
        pytest.param("us\u200ber@example.com", "not an email", id="invisible character"),
        pytest.param("@example.com", "not an email", id="no local part"),
        pytest.param("user@", "not an email", id="no domain"),
        pytest.param("user", "not an email", id="no at"),
        pytest.param("user@example@example.com", "not an email", id="two ats"),
        pytest.param("a@example.com,b@example.com", "not an email", id="two addresses"),
        pytest.param("mailto:user@example.com;", "not an email", id="URI"),
        pytest.param("+12016661234", "not an email", id="phone number"),
        pytest.param("user@example.com\n", "control characters", id="line feed"),
        pytest.param("user\r\nBcc: other@example.com", "control characters", id="header injection"),
        pytest.param("us\x00er@example.com", "control characters", id="NUL"),
        pytest.param("us\x85er@example.com", "control characters", id="next line"),
        pytest.param("us\u2029er@example.com", "control characters", id="paragraph separator"),
        pytest.param("", "empty", id="empty"),
        pytest.param(" ", "empty", id="space"),
        pytest.param("a" * 400_000 + "@example.com", "320 characters", id="400,000 characters"),
    ],
)
def test_what_no_mail_could_reach_is_refused_with_a_reason(written: str, says: str) -> None:
    with pytest.raises(InvalidAddress, match=says):
        email_address(written)


@each_case(
    "written",
    [
        "Jane <jane@example.com>",
        '"Doe, Jane" <jane@EXAMPLE.com>',
        "<jane@example.com>",
        "Jane<jane@example.com>",
        '"Jöhn Dö" <jane@example.com>',
        # Not to the letter of RFC 5322, but what mail programs write.
        "Jöhn Dö <jane@example.com>",
        "Jane Q. Doe <jane@example.com>",
    ],
)
def test_a_display_name_is_taken_off_where_it_may_stand_and_refused_elsewhere(written: str) -> None:
    assert email_address(written, may_have_display_name=True).value == "jane@example.com"
    with pytest.raises(InvalidAddress):
        email_address(written)


@each_case(
    "written", ["Jane", "Jane <>", "Jane <jane@example.com> <b@example.com>", "Jane\r\nBcc: x <jane@example.com>"]
)
def test_a_display_name_does_not_make_an_address_of_what_is_none(written: str) -> None:
    with pytest.raises(InvalidAddress):
        email_address(written, may_have_display_name=True)


@each_case(
    "address",
    [
        phone(" +1 (201) 666-1234 "),
        phone("  ALERTS ", may_be_alphanumeric=True),
        email_address(" User@EXAMPLE.com "),
        email_address(" Jane <jane@EXAMPLE.com> ", may_have_display_name=True),
    ],
)
def test_what_was_written_is_kept_without_the_spaces_around_it(address: Address) -> None:
    assert address.written in {"+1 (201) 666-1234", "ALERTS", "User@EXAMPLE.com", "Jane <jane@EXAMPLE.com>"}


def test_two_spellings_seen_one_after_the_other_each_keep_their_own() -> None:
    first, second = phone("+12016661234"), phone("(201) 666-1234")
    assert (first.value, first.written) == ("+12016661234", "+12016661234")
    assert (second.value, second.written) == ("+12016661234", "(201) 666-1234")


def test_a_refusal_does_not_repeat_what_was_written() -> None:
    for refused in (phone, email_address):
        with pytest.raises(InvalidAddress) as raised:
            refused("marker-4711")
        assert "4711" not in str(raised.value)
        assert raised.value.__cause__ is None


REGIONS = st.sampled_from(["US", "GB", "DE", "IT", "BR", "IN"])
ANY_TEXT = st.text(st.characters(), max_size=70)
NUMBER_LIKE = st.from_regex(r"[+0]{0,2}[0-9 ().-]{2,20}", fullmatch=True)
EMAIL_LIKE = st.builds("{}@{}.{}".format, ANY_TEXT, st.text(max_size=20), st.sampled_from(["com", "例子", "DE"]))


@given(written=ANY_TEXT | NUMBER_LIKE, region=REGIONS, may_be_alphanumeric=st.booleans())
@example(written="+390236618300", region="US", may_be_alphanumeric=False)
@example(written="+44 00 20 7946 0958", region="US", may_be_alphanumeric=False)
@example(written="0000000", region="DE", may_be_alphanumeric=False)
def test_any_text_is_a_phone_address_that_stays_itself_or_is_refused(
    written: str, region: str, may_be_alphanumeric: bool
) -> None:
    try:
        address = phone(written, region=region, may_be_alphanumeric=may_be_alphanumeric)
    except InvalidAddress:
        return
    again = phone(address.value, region=region, may_be_alphanumeric=may_be_alphanumeric)
    assert again.value == address.value
    assert address.written == written.strip()


@given(
    country=st.sampled_from(["1", "44", "49", "39", "61", "91"]),
    rest=st.from_regex(r"[1-9][0-9]{6,10}", fullmatch=True),
)
def test_the_region_does_not_matter_once_the_country_is_given(country: str, rest: str) -> None:
    try:
        value = phone(f"+{country}{rest}", region="US").value
    except InvalidAddress:
        assume(False)
    assert phone(f"+{country}{rest}", region="DE").value == value


@given(written=ANY_TEXT | EMAIL_LIKE | st.emails(), may_have_display_name=st.booleans())
def test_any_text_is_an_email_address_that_stays_itself_or_is_refused(
    written: str, may_have_display_name: bool
) -> None:
    try:
        address = email_address(written, may_have_display_name=may_have_display_name)
    except InvalidAddress:
        return
    assert email_address(address.value).value == address.value
    assert address.written == written.strip()


@each_case(
    ("written", "kind"),
    [
        ("slack:C024BE91L", "slack"),
        (" slack:C024BE91L ", "slack"),
        ("whatsapp:US.13491208655302741918", "whatsapp"),
        ("x-1_y:jürgen@example.com", "x-1_y"),
        ("sip:" + "a" * 200, "sip"),
    ],
)
def test_an_address_of_another_kind_is_kept_as_it_is_written(written: str, kind: str) -> None:
    address = any_address(written, region="US")
    assert (address.type, address.value) == (kind, written.strip())


@each_case(
    "written",
    [
        "slack:",
        "slack:C1 C2",
        "slack:C1\x00",
        "slack:\u200b",
        "slack:" + "a" * 201,
        "Slack:C024BE91L",
        "1lack:C024BE91L",
        ":C024BE91L",
        "http:example.com",
        "https://example.com/",
        "email:jane@example.com",
        "mailto:jane@example.com",
    ],
)
def test_what_only_looks_like_another_kind_is_refused(written: str) -> None:
    with pytest.raises(InvalidAddress):
        any_address(written, region="US")


def test_phone_numbers_and_mail_addresses_stay_what_they_were() -> None:
    assert any_address("tel:+12016661234", region="US").value == "+12016661234"
    assert any_address("Jane: <jane@example.com>", region="US").value == "jane@example.com"


def on_channel(written: str, channel: str, kind: str | None) -> Address:
    return channel_address(written, channel=channel, kind=kind, region="US")


def test_a_channel_has_addresses_of_its_kind_and_of_its_own_name() -> None:
    assert on_channel("(201) 666-1234", "whatsapp", "phone").value == "+12016661234"
    assert on_channel("whatsapp:US.1349", "whatsapp", "phone").type == "whatsapp"
    assert on_channel("jane@Example.com", "chat", "email").value == "jane@example.com"
    assert on_channel("slack:C024BE91L", "slack", "slack").type == "slack"
    assert on_channel("anything:goes", "fax", None).type == "anything"


@each_case(
    ("written", "channel", "kind"),
    [
        ("slack:C024BE91L", "whatsapp", "phone"),
        ("jane@example.com", "whatsapp", "phone"),
        ("+12016661234", "slack", "slack"),
        ("C024BE91L", "slack", "slack"),
        ("+12016661234", "chat", "email"),
    ],
)
def test_an_address_of_another_channel_is_refused(written: str, channel: str, kind: str) -> None:
    with pytest.raises(InvalidAddress):
        on_channel(written, channel, kind)


@each_case(
    ("written", "value"),
    [
        ("a..b@Docomo.NE.jp", "a..b@docomo.ne.jp"),
        ("Root <root@localhost>", "root@localhost"),
        ('"john doe"@example.com', '"john doe"@example.com'),
        (f"{'x' * 65}@example.com", f"{'x' * 65}@example.com"),
        ("+1 201 666 1234", "+12016661234"),
    ],
)
def test_who_really_sent_something_is_taken_as_they_are(written: str, value: str) -> None:
    assert sender_address(written, region="US").value == value


@each_case("written", ["@example.com", "no address at all", "a@b c", "a@", "a\n@example.com", "", "+12016661234"])
def test_a_mail_without_a_sender_is_refused(written: str) -> None:
    with pytest.raises(InvalidAddress):
        sender_address(written, region="US", is_mail=True)


@each_case(
    ("one", "other"),
    [
        ("Jane.Doe", "JANE.doe"),
        ("JOSE\u0301", "jos\u00e9"),
        ("ÄÖÜ", "äöü"),
        ("ΟΔΟΣ", "οδος"),
        ("ΟΔΟΣ", "οδοσ"),
        ("ИВАН", "иван"),
        ("STRAẞE", "straße"),
        ('"Jane Doe"', '"JANE DOE"'),
    ],
)
def test_local_parts_without_case_are_one(one: str, other: str) -> None:
    assert folded(one) == folded(other)


@each_case(
    ("one", "other"), [("straße", "strasse"), ("İ", "i"), ("I", "\u0131"), ("a.b", "ab"), ("a+b", "a"), ("é", "e")]
)
def test_different_letters_stay_apart(one: str, other: str) -> None:
    assert folded(one) != folded(other)


@given(st.text())
def test_folding_again_changes_nothing(local_part: str) -> None:
    assert folded(folded(local_part)) == folded(local_part)


@each_case(
    ("written", "spelling"),
    [
        ("Jane.Doe@EXAMPLE.com", "Jane.Doe@example.com"),
        ("INFO@Example.com", "INFO@example.com"),
        ("Jane..X.@docomo.example", "Jane..X.@docomo.example"),
        ('"Jane Doe"@example.com', '"Jane Doe"@example.com'),
        ("ÄRGER@BÜCHER.example", "ÄRGER@bücher.example"),
    ],
)
def test_a_mail_address_is_shown_and_sent_to_as_it_was_written(written: str, spelling: str) -> None:
    for read in (email_address, mail_recipient):
        address = read(written)
        assert (address.spelling, address.doubt) == (spelling, None)
        assert email_address(spelling).value == address.value


@each_case(
    ("written", "value"),
    [
        ("Root@LOCALHOST", "root@localhost"),
        ("x" * 65 + "@example.com", "x" * 65 + "@example.com"),
        ("user@exam_ple.com", "user@exam_ple.com"),
        ("user@[127.0.0.1]", "user@[127.0.0.1]"),
        ("user@x.invalid", "user@x.invalid"),
    ],
)
def test_a_recipient_that_only_a_sender_can_be_is_in_doubt(written: str, value: str) -> None:
    address = mail_recipient(written)
    assert address.value == value
    assert "not an email address" in str(address.doubt)
    assert sender_address(written, region="US", is_mail=True).value == value
