"""Normalise addresses: phone numbers to E.164 in today's plans, email addresses without regard to case."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

from email_validator import EmailNotValidError, validate_email

from app.details import LONGEST_NAME
from app.domain import Address, AddressType
from app.phone_numbers import REMEMBERED, is_name, is_sender_name, read_international, read_number, read_unlisted
from app.phone_numbers import InvalidAddress as InvalidAddress  # callers know it from here

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029]")
_OF_A_KIND = re.compile(r"([a-z][a-z0-9_-]{0,30}):(\S{1,200})")
#: Prefixes that are no kinds: schemes of URIs, and kinds whose addresses are written without a prefix.
_NO_KINDS = {"email", "http", "https", "mailto", "phone", "sms", "tel"}
#: A number with the name of its channel in front is the number.
_NUMBER_OF_A_CHANNEL = re.compile(r"(?:rcs|whatsapp):\+?[0-9]{7,15}", re.ASCII)
_ODD_LOCAL_PART = re.compile(r'"[^\r\n]*"|[^\s<>"]+')
_NOT_IN_A_DOMAIN = re.compile(r"[\s<>]")
#: Invisible marks: of the direction of writing, of no width, of an optional hyphen, of the order of bytes.
_INVISIBLE = "\u00ad\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
_AROUND = _INVISIBLE + "".join(filter(str.isspace, map(chr, range(0x3001))))
#: A quoted local part that needs no quotes but for its dots.
_QUOTED_FOR_DOTS = re.compile(r'"([^\s"(),:;<>@\[\\\]]+)"')
#: A name in quotes (RFC 5322, 3.2.4), and a character in it behind a backslash.
_QUOTED_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"')
_QUOTED_PAIR = re.compile(r"\\(.)")
_LONGEST_PHONE, _LONGEST_LOCAL_PART = 64, 64
_LONGEST_EMAIL = 320


class _Mailbox(NamedTuple):
    value: str
    spelling: str


def folded(local_part: str) -> str:
    """The part of an email address before the @, as it is compared: composed, without case.

    `ß` stays apart from `ss`, and a dotted `İ` from `i`. The two small sigmas are one, because only one of them has
    a capital. Folding again changes nothing.
    """
    composed = unicodedata.normalize("NFC", local_part)
    return unicodedata.normalize("NFC", composed.lower().replace("ς", "σ"))  # noqa: RUF001 - the letter is meant


@lru_cache(maxsize=REMEMBERED)
def phone_address(written: str, *, region: str, may_be_alphanumeric: bool) -> Address:
    """The address behind a phone number, a short code or, where it is legal, an alphanumeric sender.

    Numbers are checked for a *possible* length, not against the numbering plan: fictional ones are legal.
    A number without a country code is read as one of `region` (ISO 3166, two letters).
    """
    text = _plain(written, _LONGEST_PHONE)
    if may_be_alphanumeric and is_sender_name(text):
        return Address(AddressType.PHONE, text, written.strip())
    number = read_number(text, region)
    return Address(AddressType.PHONE, number.value, written.strip(), number.spelling)


@lru_cache(maxsize=REMEMBERED)
def text_recipient(written: str, *, region: str) -> Address:
    """The address that a text is sent to, in the form that mobiles have.

    Digits that are no number are in doubt (`Address.doubt`): only a person who has written may have them.
    """
    address = _recipient(written, AddressType.PHONE, partial(phone_address, region=region, may_be_alphanumeric=False))
    return address if address.spelling == address.value else replace(address, spelling=address.value)


def mail_sender(written: str) -> Address:
    """The address that a mail is sent from, also as `Jane Doe <jane@example.com>` (RFC 5322)."""
    name, mailbox = _display_name(written)
    address = email_address(mailbox)
    return replace(address, name=name) if name else address


def mail_recipient(written: str) -> Address:
    """The address that a mail is sent to, with a name or without. One that is not valid is in doubt."""
    name, mailbox = _display_name(written)
    address = _recipient(mailbox, AddressType.EMAIL, email_address)
    return replace(address, name=name) if name else address


def _display_name(written: str) -> tuple[str | None, str]:
    """The name in front of an address in angle brackets, without its quotes, and the address alone.

    Raises `InvalidAddress` for a name that is too long, or that has quotes of which one is missing.
    """
    text = _seen(written)
    if not text.endswith(">") or "<" not in text:
        return None, written
    if _CONTROL.search(written):
        raise InvalidAddress("an address can't hold line breaks or control characters")
    before, _, mailbox = text[:-1].rpartition("<")
    name = before.strip()
    if quoted := _QUOTED_NAME.fullmatch(name):
        name = _QUOTED_PAIR.sub(r"\1", quoted[1]).strip()
    elif '"' in name or "<" in name or ">" in name:
        raise InvalidAddress("not a name with an address; write it like Jane Doe <jane@example.com>")
    if len(name) > LONGEST_NAME:
        raise InvalidAddress(f"a name has at most {LONGEST_NAME} characters")
    return name or None, mailbox


def channel_recipient(written: str, *, channel: str, kind: str | None, region: str) -> Address:
    """The address that a message on a channel is sent to, as `channel_address`, or in doubt (`Address.doubt`)."""
    return _recipient(written, kind, partial(channel_address, channel=channel, kind=kind, region=region))


@lru_cache(maxsize=REMEMBERED)
def email_address(written: str, *, may_have_display_name: bool = False) -> Address:
    """The address with its domain in lower case and Unicode, compared without regard to case.

    Quoted local parts are legal, and so are dots in odd places, because people have such addresses. No DNS look-up is
    made. `may_have_display_name` accepts `Jane <jane@example.com>`.
    """
    mailbox = _mailbox(_plain(written, _LONGEST_EMAIL), may_have_display_name)
    return Address(AddressType.EMAIL, mailbox.value, written.strip(), mailbox.spelling)


def address_of_a_kind(written: str) -> Address | None:
    """An address written `kind:value`, such as `slack:C024BE91L`; None for any other text.

    A kind is a lower-case name of up to 31 letters, digits, `-` and `_`, a value up to 200 visible characters. Phone
    numbers and email addresses are written without a kind.
    """
    text = _seen(written)
    match = _OF_A_KIND.fullmatch(text)
    if match is None or match[1] in _NO_KINDS or not match[2].isprintable():
        return None
    return Address(match[1], text, text)


def group_address(written: str) -> Address | None:
    """The address of a group of numbers, as its messages name it; None for any other text."""
    address = address_of_a_kind(written)
    return address if address is not None and address.type == AddressType.GROUP else None


def sender_address(written: str, *, region: str, is_mail: bool = False) -> Address:
    """The address that a provider reports, never refused for being odd.

    Mail comes from `root@localhost` too, and texts from senders that are neither a number nor a usual name. Raises
    `InvalidAddress` for an empty text, and in mail for a text without an address.
    """
    text = _seen(_CONTROL.sub(" ", written))[:_LONGEST_EMAIL]
    try:
        return email_address(text, may_have_display_name=True) if is_mail else contact_address(text, region=region)
    except InvalidAddress:
        if is_mail and (mailbox := _odd_mailbox(text)):
            return Address(AddressType.EMAIL, mailbox.value, text, mailbox.spelling)
        if is_mail or not text:
            raise
    return Address(AddressType.PHONE, text, text)


def contact_address(written: str, *, region: str) -> Address:
    """The address of a contact, in any of its spellings: as `any_address`, and any that a person may have."""
    try:
        return any_address(written, region=region)
    except InvalidAddress:
        if mailbox := _odd_mailbox(_plain(written, _LONGEST_EMAIL)):
            return Address(AddressType.EMAIL, mailbox.value, written.strip(), mailbox.spelling)
    return text_sender(written, region=region)


@lru_cache(maxsize=REMEMBERED)
def text_sender(written: str, *, region: str) -> Address:
    """The sender of a text that has come in: a number, also one that no plan knows, or a name.

    Digits that can't be a number of `region` may begin with a country code.
    """
    try:
        return phone_address(written, region=region, may_be_alphanumeric=True)
    except InvalidAddress:
        text = _plain(written, _LONGEST_PHONE)
        if number := read_international(text):
            return Address(AddressType.PHONE, number.value, text, number.spelling)
        if value := read_unlisted(text) or (text if is_name(text) else None):
            return Address(AddressType.PHONE, value, text)
        raise


def channel_address(
    written: str, *, channel: str, kind: str | None, region: str, may_be_alphanumeric: bool = False
) -> Address:
    """The address at one end of a message on a channel with addresses of a kind: `phone`, `email`, or its own.

    An address with the name of the channel is valid too: `whatsapp:US.1349` has no number. If `kind` is None, any
    address is valid.
    """
    of_a_kind = address_of_a_kind(written)
    if of_a_kind is not None and of_a_kind.type in {kind, channel} and not _is_number(of_a_kind, kind):
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
    of_a_kind = address_of_a_kind(written)
    if of_a_kind is not None and not _is_number(of_a_kind, AddressType.PHONE):
        return of_a_kind
    if "@" in written:
        return email_address(written, may_have_display_name=True)
    return phone_address(written, region=region, may_be_alphanumeric=True)


def _recipient(written: str, kind: str | None, read: Callable[[str], Address]) -> Address:
    """The address that `read` returns, or one in doubt with the reason why it was refused."""
    try:
        return read(written)
    except InvalidAddress as error:
        text = _plain(written, _LONGEST_PHONE if kind == AddressType.PHONE else _LONGEST_EMAIL)
        if kind == AddressType.EMAIL and (mailbox := _odd_mailbox(text)):
            return Address(kind, mailbox.value, text, mailbox.spelling, str(error))
        if kind == AddressType.PHONE and (number := read_international(text)):
            return Address(kind, number.value, text, number.spelling, str(error))
        if kind == AddressType.PHONE and (digits := read_unlisted(text)):
            return Address(kind, digits, text, digits, str(error))
        raise


def _is_number(address: Address, kind: str | None) -> bool:
    """True for a number behind the name of a channel whose addresses are numbers."""
    return kind == AddressType.PHONE and _NUMBER_OF_A_CHANNEL.fullmatch(address.value) is not None


def _mailbox(text: str, may_have_display_name: bool) -> _Mailbox:
    if may_have_display_name and text.endswith(">") and text.count("<") == 1:
        text = text[text.find("<") + 1 : -1]
    local, domain = _parts(text)
    is_quoted = local.startswith('"')
    # Japanese carriers gave out addresses such as `jane..x.@docomo.example`.
    has_odd_dots = not is_quoted and len(local) <= _LONGEST_LOCAL_PART and "@" not in local
    checked = f"{'.'.join(filter(None, local.split('.')))}@{domain}" if has_odd_dots else f"{local}@{domain}"
    try:
        # `test_environment` only admits the reserved domain .test, which reaches nobody.
        valid = validate_email(
            checked, check_deliverability=False, test_environment=True, strict=True, allow_quoted_local=True
        ).normalized
    except EmailNotValidError:
        raise InvalidAddress("not an email address; write it like name@example.com") from None
    valid_local, _, domain = valid.rpartition("@")
    local = valid_local if is_quoted else unicodedata.normalize("NFC", local)
    return _Mailbox(f"{folded(local)}@{domain}", f"{local}@{domain}")


def _odd_mailbox(text: str) -> _Mailbox | None:
    """The mailbox in a text that is no valid address, as real mail has them."""
    local, domain = _parts(text[text.find("<") + 1 :].removesuffix(">"))
    if not _ODD_LOCAL_PART.fullmatch(local) or domain in {"", "."} or _NOT_IN_A_DOMAIN.search(domain):
        return None
    domain = domain.lower().removesuffix(".")  # that of the root
    return _Mailbox(f"{folded(local)}@{domain}", f"{local}@{domain}")


def _parts(mailbox: str) -> tuple[str, str]:
    """The local part, without quotes that only its dots need, and the domain."""
    local, _, domain = mailbox.rpartition("@")
    quoted = _QUOTED_FOR_DOTS.fullmatch(local)
    return quoted[1] if quoted else local, domain


def _seen(text: str) -> str:
    """The text as people see it: composed, and without space and invisible marks around it."""
    return unicodedata.normalize("NFC", text).strip(_AROUND)


def _plain(written: str, longest: int) -> str:
    if _CONTROL.search(written):
        raise InvalidAddress("an address can't hold line breaks or control characters")
    text = _seen(written)
    if not text:
        raise InvalidAddress("an address can't be empty")
    if len(text) > longest:
        raise InvalidAddress(f"an address has at most {longest} characters")
    return text
