"""Phone numbers as people, callers and vendors write them, read to E.164 in today's numbering plans."""

import re
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumber, PhoneNumberFormat, PhoneNumberType, ValidationResult


class InvalidAddress(ValueError):
    """The text says what to write instead; it never repeats the input."""


#: Numbers of which libphonenumber's answer is remembered.
REMEMBERED = 16_384

_SCHEME = re.compile(r"(?:tel|sms|mms|callto|whatsapp|rcs):(?://)?(?=[+(]?\d)", re.IGNORECASE)
_SHORT_CODE = re.compile(r"[0-9]{3,6}")
#: No number in E.164 is that short. A gateway writes a plus before all that it has; fewer digits are a typo.
_SHORT_CODE_WITH_PLUS = re.compile(r"\+([0-9]{5,6})", re.ASCII)
_LONG_SHORT_CODE = re.compile(r"[0-9]{7,8}")
_SEPARATORS = re.compile(r"[\s().\-\u2010-\u2015]+")
_PLAIN_NUMBER = re.compile(r"\+?[0-9]{7,15}", re.ASCII)
#: Digits from the country code on; 00 is how most countries dial the plus.
_NO_PLUS = re.compile(r"(?:00)?([1-9][0-9]{7,14})", re.ASCII)
#: In digits. Plans such as Germany's allow fifteen without the country code, but no real number has so many.
_LONGEST_NATIONAL = 12
#: Digits that are longer than the numbers of most countries without their code.
_LONG = re.compile(r"[1-9][0-9]{10,14}", re.ASCII)
#: Letters, digits, space and `- + _ & .`, by the documentation of Twilio's alpha senders; the stop is Vonage's.
_NAME = re.compile(r"(?=.*[A-Za-z])(?!\+[0-9])(?!(?:.*[0-9]){7})[A-Za-z0-9 &+._-]{1,11}")
_LONG_NAME = re.compile(r"(?!\+\d)(?!(?:.*\d){7})[^@]*[^\W\d_][^@]*")
_VANITY = re.compile(r"[+(]*[0-9](?!.*[0-9][A-Za-z][0-9])(?:[^A-Za-z]*[A-Za-z]){4}.*", re.ASCII)
_VANITY_TYPES = {PhoneNumberType.TOLL_FREE, PhoneNumberType.SHARED_COST, PhoneNumberType.UAN}
_NO_NUMBER = "not a phone number; write it with + and country code, such as +12016661234"


class _Plan(NamedTuple):
    """Numbers that a country has replaced: their form, today's form, and the way back."""

    old: re.Pattern[str]
    today: str
    new: re.Pattern[str]
    former: str


def _plan(old: str, today: str, new: str, former: str) -> _Plan:
    return _Plan(re.compile(old, re.ASCII), today, re.compile(new, re.ASCII), former)


def _prefixed(country: str, old: str, added: str) -> _Plan:
    """A plan that has put digits in front of the old number."""
    return _plan(rf"\+{country}({old})", rf"+{country}{added}\1", rf"\+{country}{added}({old})", rf"+{country}\1")


#: Vietnam, 15 September 2018: mobile prefixes of three digits became two.
_VIETNAM = (
    "120:70 121:79 122:77 126:76 128:78 123:83 124:84 125:85 127:81 129:82 "
    "162:32 163:33 164:34 165:35 166:36 167:37 168:38 169:39 186:56 188:58 199:59"
)
#: By country code. The old numbers of these have no owner any more.
_REPLACED: dict[str, list[_Plan]] = {
    # Mexico, 3 August 2019: no 1 for mobiles from abroad, no 01, 044 and 045 at home.
    "+52": [_plan(r"\+52(?:1|01|044|045)([1-9]\d{9})", r"+52\1", r"\+52([1-9]\d{9})", r"+521\1")],
    # Brazil, until 2016: mobiles got a ninth digit, landlines (2 to 5) did not. WhatsApp still leaves it out.
    "+55": [_plan(r"\+55([1-9]{2})([6-9]\d{7})", r"+55\g<1>9\2", r"\+55([1-9]{2})9([6-9]\d{7})", r"+55\1\2")],
    # Côte d'Ivoire, 31 January 2021: the operator's two digits in front, for landlines by the third digit.
    "+225": [
        _prefixed("225", r"(?!80|90)[04-9][0-3]\d{6}", "01"),
        _prefixed("225", r"[04-9][4-6]\d{6}", "05"),
        _prefixed("225", r"[04-9][7-9]\d{6}", "07"),
        _prefixed("225", r"[23]\d8\d{5}", "21"),
        _prefixed("225", r"[23]\d0\d{5}", "25"),
        _prefixed("225", r"[23]\d[1-79]\d{5}", "27"),
    ],
    # Benin, 30 November 2024: 01 in front of every number.
    "+229": [_prefixed("229", r"[2-9]\d{7}", "01")],
    # Cameroon, 21 November 2014: 6 in front of mobiles, 2 in front of landlines.
    "+237": [_prefixed("237", r"[79]\d{7}", "6"), _prefixed("237", r"[23]\d{7}", "2")],
    # Gabon, 1 November 2019: the operator's digit in front, in place of a zero that was not always written.
    "+241": [
        _plan(rf"\+2410?({old}\d{{6}})", rf"+241{added}\1", rf"\+241{added}({old}\d{{6}})", r"+2410\1")
        for old, added in (("1", 1), ("[256]", 6), ("[47]", 7))
    ],
    "+84": [
        _plan(rf"\+84{old}(\d{{7}})", rf"+84{new}\1", rf"\+84{new}(\d{{7}})", rf"+84{old}\1")
        for old, new in (pair.split(":") for pair in _VIETNAM.split())
    ],
}
#: Argentina: the mobile 9 stands after the country code from abroad, and nowhere at home. A landline has none.
_ARGENTINA = _plan(r"\+54((?:11|2\d|3\d)\d{8})", r"+549\1", r"\+549((?:11|2\d|3\d)\d{8})", r"+54\1")


class Number(NamedTuple):
    """A number in E.164, or a short code: `value` is the same for all forms of a number, `spelling` is dialled."""

    value: str
    spelling: str


def todays_form(number: str) -> str:
    """A number in E.164 as its country writes it today."""
    for plan in _plans_of(_REPLACED, number):
        if match := plan.old.fullmatch(number):
            return match.expand(plan.today)
    return number


def compared_form(number: str) -> str:
    """The one form that all forms of a number in E.164 have: today's, in Argentina with the 9."""
    number = todays_form(number)
    match = _ARGENTINA.old.fullmatch(number) if number.startswith("+54") else None
    return match.expand(_ARGENTINA.today) if match else number


def former_forms(number: str) -> list[str]:
    """The other forms of a number that `compared_form` would turn into it."""
    plans = [*_plans_of(_REPLACED, number), _ARGENTINA]
    return [match.expand(plan.former) for plan in plans if (match := plan.new.fullmatch(number))]


def _plans_of(table: dict[str, list[_Plan]], number: str) -> list[_Plan]:
    return table.get(number[:3]) or table.get(number[:4]) or []


def is_sender_name(text: str) -> bool:
    """True for an alphanumeric sender: up to eleven characters with a letter, and not nearly a number."""
    return _NAME.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """True for a sender's name of any length and alphabet, as phones show them."""
    return _LONG_NAME.fullmatch(text) is not None


@lru_cache(maxsize=REMEMBERED)
def read_number(text: str, region: str) -> Number:
    """The number or short code in a text, read as one of `region` (ISO 3166) where it has no country code.

    Its length has to be possible, but no plan has to know it: fictional numbers are legal. Eleven digits or more that
    a plan knows only as those of another country are refused, and letters but for vanity numbers such as
    1-800-FLOWERS. Raises `InvalidAddress`.
    """
    text = _without_scheme(text)
    if _SHORT_CODE.fullmatch(text):
        return Number(text, text)
    number = _parsed(text, region)
    if _is_with_code_of(region, text):
        number = _parsed(f"+{text}", "ZZ")
    elif _LONG.fullmatch(text) and not _is_given_out(number) and is_assigned(f"+{text}"):
        raise InvalidAddress(_NO_NUMBER)
    if number is not None and number.extension:
        raise InvalidAddress("an extension can't receive messages; leave it out")
    if any(character.isalpha() for character in text.partition(";")[0]) and not _is_vanity(text, number):
        if is_sender_name(text):
            raise InvalidAddress("an alphanumeric sender can't receive messages; write a phone number")
        raise InvalidAddress("not a phone number; it has letters, so write it in digits, such as +12016661234")
    spelling = _todays(number)
    # Odd digits, such as zeros only, would parse as another number the next time.
    if spelling and _todays(_parsed(spelling, region)) == spelling:
        return Number(compared_form(spelling), spelling)
    if _LONG_SHORT_CODE.fullmatch(text):
        return Number(text, text)
    raise InvalidAddress(_NO_NUMBER)


def read_unlisted(text: str) -> str | None:
    """Seven to fifteen digits without the marks between them, perhaps after a plus; None for any other text.

    A plus before a short code goes.
    """
    text = _SEPARATORS.sub("", _without_scheme(text))
    if short := _SHORT_CODE_WITH_PLUS.fullmatch(text):
        return short[1]
    return text if _PLAIN_NUMBER.fullmatch(text) else None


def read_international(text: str) -> Number | None:
    """Digits without a plus as a number with its country code, if its length is possible."""
    written = _NO_PLUS.fullmatch(_SEPARATORS.sub("", _without_scheme(text)))
    if not written:
        return None
    try:
        return read_number(f"+{written[1]}", "ZZ")
    except InvalidAddress:
        return None


@lru_cache(maxsize=REMEMBERED)
def is_assigned(number: str) -> bool:
    """True for a number in E.164 that the numbering plan of its country has given out."""
    return _is_given_out(_parsed(number, "ZZ"))


@lru_cache(maxsize=REMEMBERED)
def country_of(number: str, region: str) -> str:
    """The country (ISO 3166, two letters) of a number in E.164, 001 if it has none.

    A number that no plan knows counts for the main country of its code, a short code for `region`.
    """
    if not number.startswith("+"):
        return region
    parsed = _parsed(number, "ZZ")
    if parsed is None or parsed.country_code is None:
        return "001"
    found = phonenumbers.region_code_for_number(parsed)
    return found or phonenumbers.region_code_for_country_code(parsed.country_code)


def time_zone_of(number: str, moment: datetime) -> ZoneInfo | None:
    """The time zone of a number in E.164, where it is certain: all of its zones show the same time at that moment.

    None for anything else, such as a short code or a mail address.
    """
    zones = [ZoneInfo(name) for name in _zones_of(number)]
    return zones[0] if len({moment.astimezone(zone).utcoffset() for zone in zones}) == 1 else None


@lru_cache(maxsize=REMEMBERED)
def _zones_of(number: str) -> tuple[str, ...]:
    from phonenumbers import timezone  # its table is large, and few installations need it

    parsed = _parsed(number, "ZZ") if number.startswith("+") else None
    found = timezone.time_zones_for_number(parsed) if parsed is not None else ()
    return tuple(name for name in found if name != timezone.UNKNOWN_TIMEZONE)


def _parsed(text: str, region: str) -> PhoneNumber | None:
    try:
        return phonenumbers.parse(text, region)
    except NumberParseException:
        return None


def _without_scheme(text: str) -> str:
    scheme = _SCHEME.match(text)
    return text[scheme.end() :] if scheme else text


def _is_with_code_of(region: str, text: str) -> bool:
    """True for twelve digits or more that begin with the code of their own country, though a plan may allow more."""
    code = str(phonenumbers.country_code_for_region(region))
    is_long = _LONG.fullmatch(text) is not None and len(text) >= _LONGEST_NATIONAL
    return is_long and text.startswith(code) and is_assigned(f"+{text}")


def _is_given_out(number: PhoneNumber | None) -> bool:
    """True for a number that is in the plan of its country, in today's form."""
    today = _todays(number)
    parsed = _parsed(today, "ZZ") if today else None
    return parsed is not None and phonenumbers.is_valid_number(parsed)


def _todays(number: PhoneNumber | None) -> str | None:
    """A number in today's form, if its length is possible in its country."""
    if number is None:
        return None
    written = phonenumbers.format_number(number, PhoneNumberFormat.E164)
    today = todays_form(written)
    parsed = number if today == written else _parsed(today, "ZZ")
    if parsed is None or phonenumbers.is_possible_number_with_reason(parsed) != ValidationResult.IS_POSSIBLE:
        return None
    return today


def _is_vanity(text: str, number: PhoneNumber | None) -> bool:
    """True for a service number that ends in words. Letters elsewhere are a mistake."""
    return (
        number is not None
        and _VANITY.fullmatch(text) is not None
        and phonenumbers.number_type(number) in _VANITY_TYPES
    )
