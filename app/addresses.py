"""Normalise addresses: phone numbers to E.164, email addresses as mail systems compare them."""

import re
from functools import lru_cache

import phonenumbers
from email_validator import EmailNotValidError, validate_email
from phonenumbers import NumberParseException, PhoneNumber, PhoneNumberFormat, ValidationResult

from app.domain import Address, AddressType

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029]")
_ALPHANUMERIC_SENDER = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 ]{1,11}")
_SHORT_CODE = re.compile(r"[0-9]{3,6}")
_LONG_SHORT_CODE = re.compile(r"[0-9]{7,8}")
_OF_A_KIND = re.compile(r"([a-z][a-z0-9_-]{0,30}):(\S{1,200})")
#: Prefixes that are no kinds: schemes of URIs, and kinds whose addresses are written without a prefix.
_NO_KINDS = {"email", "http", "https", "mailto", "phone", "sms", "tel"}
_LONGEST_PHONE = 64
_LONGEST_EMAIL = 320
_REMEMBERED = 16_384


class InvalidAddress(ValueError):
    """The text says what to write instead; it never repeats the input."""


def phone_address(written: str, *, region: str, may_be_alphanumeric: bool) -> Address:
    """The address behind a phone number, a short code or, where it is legal, an alphanumeric sender.

    Numbers are checked for a *possible* length, not against the numbering plan: fictional ones are legal.
    A number without a country code is read as one of `region` (ISO 3166, two letters).
    """
    value, is_alphanumeric = _phone_value(written, region)
    if is_alphanumeric and not may_be_alphanumeric:
        raise InvalidAddress("an alphanumeric sender can't receive messages; write a phone number")
    return Address(AddressType.PHONE, value, written.strip())


def email_address(written: str, *, may_have_display_name: bool = False) -> Address:
    """The address with its domain in lower case and Unicode; the part before the @ keeps its case.

    Role names that RFC 2142 reserves, such as INFO, are the exception: they have no case. No DNS look-up is made.
    `may_have_display_name` accepts `Jane <jane@example.com>`.
    """
    return Address(AddressType.EMAIL, _email_value(written, may_have_display_name), written.strip())


def address_of_a_kind(written: str) -> Address | None:
    """An address written `kind:value`, such as `slack:C024BE91L`; None for any other text.

    A kind is a lower-case name of up to 31 letters, digits, `-` and `_`, a value up to 200 visible characters. Phone
    numbers and email addresses are written without a kind.
    """
    text = written.strip()
    match = _OF_A_KIND.fullmatch(text)
    if match is None or match[1] in _NO_KINDS or not match[2].isprintable():
        return None
    return Address(match[1], text, text)


def sender_address(written: str, *, region: str) -> Address:
    """The address of a sender that a provider reports. Unlike `any_address` it accepts odd senders of real mail, such
    as `a..b@example.com` or `root@localhost`."""
    try:
        return any_address(written, region=region)
    except InvalidAddress:
        text = _plain(written, _LONGEST_EMAIL)
        local, at, domain = text[text.find("<") + 1 :].removesuffix(">").rpartition("@")
        if not (at and local and domain) or re.search(r"[\s<>]", domain):
            raise
        return Address(AddressType.EMAIL, f"{local}@{domain.lower()}", written.strip())


def channel_address(
    written: str, *, channel: str, kind: str | None, region: str, may_be_alphanumeric: bool = False
) -> Address:
    """The address at one end of a message on a channel with addresses of a kind: `phone`, `email`, or its own.

    An address with the name of the channel is valid too: `whatsapp:US.1349` has no number. If `kind` is None, any
    address is valid.
    """
    of_a_kind = address_of_a_kind(written)
    if of_a_kind is not None and of_a_kind.type in {kind, channel}:
        return of_a_kind
    if kind == AddressType.PHONE:
        return phone_address(written, region=region, may_be_alphanumeric=may_be_alphanumeric)
    if kind == AddressType.EMAIL:
        return email_address(written)
    if kind is None:
        return any_address(written, region=region)
    raise InvalidAddress(f"not an address of {channel}; write it as {kind}: and what it is called there")


def any_address(written: str, *, region: str) -> Address:
    """The address in any text: an email address, also with a display name, `kind:value`, or a sender of texts."""
    if of_a_kind := address_of_a_kind(written):
        return of_a_kind
    if "@" in written:
        return email_address(written, may_have_display_name=True)
    return phone_address(written, region=region, may_be_alphanumeric=True)


@lru_cache(maxsize=_REMEMBERED)
def country_of(number: str, region: str) -> str:
    """The country (ISO 3166, two letters) of a number in E.164, 001 if it has none.

    A number that no plan knows counts for the main country of its code, a short code for `region`.
    """
    if not number.startswith("+"):
        return region
    parsed = phonenumbers.parse(number)
    assert parsed.country_code is not None
    found = phonenumbers.region_code_for_number(parsed)
    return found or phonenumbers.region_code_for_country_code(parsed.country_code)


@lru_cache(maxsize=_REMEMBERED)
def _phone_value(written: str, region: str) -> tuple[str, bool]:
    text = _plain(written, _LONGEST_PHONE)
    if _ALPHANUMERIC_SENDER.fullmatch(text):
        return text, True
    if _SHORT_CODE.fullmatch(text):
        return text, False
    number = _parsed(text, region)
    if number is not None and number.extension:
        raise InvalidAddress("an extension can't receive messages; leave it out")
    value = phonenumbers.format_number(number, PhoneNumberFormat.E164) if number is not None else ""
    # Odd digits, such as zeros only, would parse as another number the next time.
    if number is not None and _parsed(value, region) == number:
        return value, False
    if _LONG_SHORT_CODE.fullmatch(text):
        return text, False
    raise InvalidAddress("not a phone number; write it with + and country code, such as +12016661234")


def _parsed(text: str, region: str) -> PhoneNumber | None:
    """The number in a text, if its length is possible in its country."""
    try:
        number = phonenumbers.parse(text, region)
    except NumberParseException:
        return None
    possible = phonenumbers.is_possible_number_with_reason(number) == ValidationResult.IS_POSSIBLE
    return number if possible else None


@lru_cache(maxsize=_REMEMBERED)
def _email_value(written: str, may_have_display_name: bool) -> str:
    text = _plain(written, _LONGEST_EMAIL)
    if may_have_display_name and text.endswith(">") and text.count("<") == 1:
        text = text[text.find("<") + 1 : -1]
    try:
        # `test_environment` only admits the reserved domain .test, which reaches nobody.
        return validate_email(text, check_deliverability=False, test_environment=True, strict=True).normalized
    except EmailNotValidError:
        raise InvalidAddress("not an email address; write it like name@example.com") from None


def _plain(written: str, longest: int) -> str:
    if _CONTROL.search(written):
        raise InvalidAddress("an address can't hold line breaks or control characters")
    text = written.strip()
    if not text:
        raise InvalidAddress("an address can't be empty")
    if len(text) > longest:
        raise InvalidAddress(f"an address has at most {longest} characters")
    return text
