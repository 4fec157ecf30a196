"""Numbers as people and vendors write them, in the plans of today."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.addresses import InvalidAddress, phone_address, sender_address, text_recipient, text_sender
from app.phone_numbers import compared_form, country_of, former_forms, is_assigned, todays_form
from tests.cases import each_case


@each_case(
    ("old", "today"),
    [
        ("+528112345678", "+528112345678"),
        ("+5218112345678", "+528112345678"),
        ("+520448112345678", "+528112345678"),
        ("+520458112345678", "+528112345678"),
        ("+52018112345678", "+528112345678"),
        ("+552176543210", "+5521976543210"),
        ("+558599887766", "+5585999887766"),
        ("+5585999887766", "+5585999887766"),
        ("+551140041234", "+551140041234"),
        ("+552125551234", "+552125551234"),
        ("+22549123456", "+2250749123456"),
        ("+22504123456", "+2250504123456"),
        ("+22502123456", "+2250102123456"),
        ("+22521612345", "+2252721612345"),
        ("+22520012345", "+2252520012345"),
        ("+22522812345", "+2252122812345"),
        ("+22580012345", "+22580012345"),
        ("+2250102123456", "+2250102123456"),
        ("+22961123456", "+2290161123456"),
        ("+22921301234", "+2290121301234"),
        ("+2290161123456", "+2290161123456"),
        ("+23777123456", "+237677123456"),
        ("+23799123456", "+237699123456"),
        ("+23733123456", "+237233123456"),
        ("+237677123456", "+237677123456"),
        ("+23788123456", "+23788123456"),
        ("+24107123456", "+24177123456"),
        ("+24104123456", "+24174123456"),
        ("+24106123456", "+24166123456"),
        ("+24101123456", "+24111123456"),
        ("+24177123456", "+24177123456"),
        ("+24162123456", "+24162123456"),
        ("+841201234567", "+84701234567"),
        ("+841689876543", "+84389876543"),
        ("+841991234567", "+84591234567"),
        ("+84912345678", "+84912345678"),
        ("+14155550100", "+14155550100"),
    ],
)
def test_a_number_that_its_country_has_replaced_is_todays(old: str, today: str) -> None:
    assert todays_form(old) == compared_form(old) == today
    assert old in {today, *former_forms(today)} or old.startswith("+520")
    assert country_of(today, "US") == country_of(today, "GB")


@each_case(
    ("written", "value"),
    [
        ("+54 351 234 5678", "+5493512345678"),
        ("+54 9 351 234 5678", "+5493512345678"),
        ("+54 351 15 234 5678", "+5493512345678"),
        ("+54 2966 15 42 1234", "+5492966421234"),
        ("+54 810 555 1234", "+548105551234"),
        ("+54 0800 555 1234", "+548005551234"),
    ],
)
def test_an_argentine_number_is_one_with_the_9_and_without(written: str, value: str) -> None:
    assert text_recipient(written, region="US").value == value
    assert text_recipient(written, region="US").spelling == value


def test_an_argentine_number_keeps_its_form_where_it_may_be_a_landline() -> None:
    ours = phone_address("+54 11 5984 1234", region="US", may_be_alphanumeric=False)
    assert (ours.value, ours.spelling) == ("+5491159841234", "+541159841234")


@each_case(
    ("region", "written", "value"),
    [
        ("MX", "044 55 1234 5678", "+525512345678"),
        ("MX", "1 81 1234 5678", "+528112345678"),
        ("BR", "(21) 8765-4321", "+5521987654321"),
        ("CI", "07 12 34 56", "+2250707123456"),
        ("GA", "07 12 34 56", "+24177123456"),
        ("CM", "77 12 34 56", "+237677123456"),
        ("US", "+241 7 12 34 56", "+24177123456"),
        ("BJ", "97 12 34 56", "+2290197123456"),
        ("AR", "11 2345 6789", "+5491123456789"),
    ],
)
def test_the_old_form_at_home_is_todays_number_too(region: str, written: str, value: str) -> None:
    assert text_recipient(written, region=region).value == value


@given(st.from_regex(r"\+(52|54|55|84|225|229|237|241)[0-9]{6,12}", fullmatch=True))
def test_todays_form_has_no_other(number: str) -> None:
    assert todays_form(todays_form(number)) == todays_form(number)
    assert compared_form(compared_form(number)) == compared_form(number)
    assert all(compared_form(former) == compared_form(number) for former in former_forms(compared_form(number)))


@given(
    st.from_regex(r"(\u202a|tel:|rcs:|\+|00)?[0-9][0-9 ()-]{0,16}", fullmatch=True),
    st.sampled_from(["US", "GB", "DE", "BR", "IN", "SG", "AR", "MX"]),
)
def test_a_sender_that_is_read_again_stays_the_same(written: str, region: str) -> None:
    value = sender_address(written, region=region).value
    assert sender_address(value, region=region).value == value


@each_case(
    "written",
    [
        "+49 30 abc",
        "+44 7911 12345b",
        "O2016661234",
        "201-666-I234",
        "+1 201 666 1234 mobile",
        "Tel. 2016661234",
        "+33 6 12 34 56 78 ou 79",
        "+7 916 Ж 1234567",
        "call 2016661234 now",
        "1-800-5a5b5c5d5",
        "+1 415 QWERTYU",
        "+48 601 zxcvbn",
        "+1201666123four",
    ],
)
def test_letters_make_no_number(written: str) -> None:
    with pytest.raises(InvalidAddress, match="letters"):
        text_recipient(written, region="US")


@each_case(
    ("region", "written", "value"),
    [
        ("US", "1-800-GOT-JUNK", "+18004685865"),
        ("US", "1.888.NEW.TEXT", "+18886398398"),
        ("US", "(877) 222-TAXI", "+18772228294"),
        ("US", "+1 800 flowers", "+18003569377"),
        ("US", "1\u2011800\u2011FLOWERS", "+18003569377"),
        ("AU", "1300 FLOWER", "+611300356937"),
        ("GB", "0800 REVERSE", "+448007383773"),
        ("US", "+44 800 REVERSE", "+448007383773"),
    ],
)
def test_a_vanity_number_is_a_number(region: str, written: str, value: str) -> None:
    assert text_recipient(written, region=region).value == value


@each_case(
    "written",
    [
        *("TEL:+1-201-666-1234", "sms:+12016661234", "callto:+12016661234", "whatsapp:+12016661234"),
        *(
            "rcs:+12016661234",
            "tel:201-666-1234;phone-context=+1",
            "+1 (201) 666\u20111234",
            "\uff0b\uff11\uff12\uff10\uff11\uff16\uff16\uff16\uff11\uff12\uff13\uff14",
        ),
    ],
)
def test_a_number_may_be_a_link(written: str) -> None:
    assert text_recipient(written, region="US").value == "+12016661234"


@each_case(
    ("written", "value"),
    [
        ("+5215598765432", "+525598765432"),
        ("+22508123456", "+2250708123456"),
        ("+266696687", "+266696687"),
        ("266696687", "266696687"),
        ("+86282452253", "+86282452253"),
        ("+999 1234 5678", "+99912345678"),
        ("anonymous", "anonymous"),
        ("Unknown", "Unknown"),
        ("M&S", "M&S"),
        ("O2-Info", "O2-Info"),
        ("Booking.com", "Booking.com"),
        ("Crédit Mutuel", "Crédit Mutuel"),
        ("Почта России", "Почта России"),
        ("セブン銀行", "セブン銀行"),
        ("Deutsche Telekom AG", "Deutsche Telekom AG"),
        ("Sale!", "Sale!"),
        ("447911123456", "+447911123456"),
        ("4915123456789", "+4915123456789"),
        ("8613812345678", "+8613812345678"),
        ("242733", "242733"),
        ("00447911123456", "+447911123456"),
        ("00 55 11 8765-4321", "+5511987654321"),
        ("+24273", "24273"),
        ("\u202aAMAZON\u202c", "AMAZON"),
        ("\u200eDHL", "DHL"),
        ("\ufeffHermes ", "Hermes"),
        ("\u200e \u200eDPD \u202c", "DPD"),
        ("tel:447911123456", "+447911123456"),
        ("rcs:8613812345678", "+8613812345678"),
        ("Cafe\u0301", "Café"),
    ],
)
def test_a_genuine_sender_of_a_text_is_never_refused(written: str, value: str) -> None:
    for read in (text_sender, sender_address):
        address = read(written, region="US")
        assert (address.type, address.value) == ("phone", value)
        assert read(address.value, region="US").value == value


@each_case(
    ("region", "written", "value", "is_sure"),
    [
        ("DE", "4915112345678", "+4915112345678", True),
        ("DE", "4917612345678", "+4917612345678", True),
        ("DE", "15112345678", "+4915112345678", True),
        ("DE", "49123456", "+4949123456", True),
        ("DE", "14155550123", "+14155550123", False),
        ("AT", "436641234567", "+436641234567", True),
        ("IN", "14155550123", "+14155550123", False),
        ("IN", "919876543210", "+919876543210", True),
        ("IN", "9191919191", "+919191919191", True),
        ("BR", "14155550123", "+14155550123", False),
        ("BR", "55998765432", "+5555998765432", True),
        ("SG", "60123456789", "+60123456789", False),
        ("SG", "6591234567", "+6591234567", True),
        ("MX", "15512345678", "+525512345678", True),
        ("GB", "447911123456", "+447911123456", True),
        ("US", "15551234567", "+15551234567", True),
        ("US", "5491234567", "+15491234567", True),
    ],
)
def test_a_country_code_without_a_plus_is_known_by_the_plans(
    region: str, written: str, value: str, is_sure: bool
) -> None:
    assert text_sender(written, region=region).value == value
    recipient = text_recipient(written, region=region)
    assert (recipient.value, recipient.doubt is None) == (value, is_sure)


@each_case(
    "written", ["*100#", "0", "??", "+", "+1201", "Line\nbreak", "x" * 400, "+49 30 abc", "+12016661234 ext 5"]
)
def test_a_vendor_may_report_any_text_as_the_sender(written: str) -> None:
    address = sender_address(written, region="US")
    assert "\n" not in address.value
    assert len(address.value) <= 320


@each_case(
    ("written", "value"),
    [
        ("+999 1234 5678", "+99912345678"),
        ("+120166612345678", "+120166612345678"),
        ("+1 201 666", "+1201666"),
        ("447911123456", "+447911123456"),
        ("266696687", "266696687"),
        ("+24273", "24273"),
        ("0014155550123", "+14155550123"),
    ],
)
def test_a_recipient_of_no_possible_length_is_in_doubt(written: str, value: str) -> None:
    address = text_recipient(written, region="US")
    assert (address.value, address.spelling) == (value, value)
    assert "not a phone number" in str(address.doubt)


def test_a_usual_recipient_is_in_no_doubt() -> None:
    assert text_recipient("+12016661234", region="US").doubt is None


@each_case(
    ("digits", "expected"),
    [
        ("6591234567", True),
        ("4798765432", True),
        ("5215512345678", True),
        ("554188887777", True),
        ("2016661234", False),
        ("8045551234", False),
        ("12", False),
    ],
)
def test_digits_with_a_country_code_are_known_by_the_plan(digits: str, expected: bool) -> None:
    assert is_assigned(f"+{digits}") is expected


def test_a_number_of_no_country_counts_for_none() -> None:
    assert country_of("+99912345678", "US") == "001"
