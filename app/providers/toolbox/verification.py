"""Steps of verifying a callback: secrets and their rotation, hostile headers, comparisons, the age of a signature."""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import SecretStr

from app.addresses import InvalidAddress, phone_address
from app.providers.base import Callback, CallbackRefused, CallbackUnverifiable, hint
from app.signing_keys import secrets_of

#: In either direction: clocks differ, and a captured callback must not be of use for long.
TOLERANCE = timedelta(minutes=5)
#: The parameter with our reference in the address of a callback, for vendors without a field for it.
_REFERENCE = "ref"
_TIMESTAMP = re.compile(r"[0-9]{1,11}", re.ASCII)
#: A country code and a number, longer than any short code.
_WITHOUT_PLUS = re.compile(r"[1-9][0-9]{8,14}", re.ASCII)
#: A long short code, or a number of one of the countries with short numbers.
_MAYBE_WITHOUT_PLUS = re.compile(r"[1-9][0-9]{6,7}", re.ASCII)


def secrets_in(**settings: SecretStr | None) -> list[bytes]:
    """The secrets that are set: during a rotation one setting has several, with a comma between them.

    The arguments are named as in the environment. Raises `CallbackUnverifiable`, which names them, if none is set.
    """
    secrets = [
        each.encode() for setting in settings.values() if setting for each in secrets_of(setting.get_secret_value())
    ]
    if not secrets:
        raise CallbackUnverifiable(f"{' or '.join(settings)} is not set.")
    return secrets


def first_secret(setting: SecretStr | None) -> str:
    """The first of the secrets in a setting, to send with; empty where there is none, which the vendor refuses."""
    return next(iter(secrets_of(setting.get_secret_value())), "") if setting else ""


def only_header(callback: Callback, name: str) -> str:
    """The value of a header that occurs exactly once. Raises `CallbackRefused` otherwise."""
    value = callback.header(name)
    if not value:
        raise CallbackRefused(f"The header {name} is missing, empty, or there twice.")
    return value


def only_parameter(callback: Callback, name: str) -> str:
    """The value of a parameter that occurs exactly once in the address. Raises `CallbackRefused` otherwise."""
    try:
        values = [value for known, value in callback.query() if known == name]
    except ValueError:
        raise CallbackRefused("The address can't be read.") from None
    if len(values) != 1 or not values[0]:
        raise CallbackRefused(f"The address has no {name}, or several.")
    return values[0]


def must_match(shown: Sequence[str], expected: Iterable[str]) -> None:
    """Raises `CallbackRefused` unless one of the shown signatures is an expected one, in the same encoding."""
    wanted = list(expected)
    # All pairs are compared, so that the time tells nothing about the secrets.
    found = [hmac.compare_digest(one.encode("utf-8", "replace"), other.encode()) for one in shown for other in wanted]
    if not any(found):
        raise CallbackRefused("The signature is another one.", seen=hint(" ".join(shown)), expected=hint(wanted[0]))


def must_be_secret(shown: str, secrets: Iterable[bytes], callback: Callback) -> None:
    """Raises `CallbackRefused` unless the shown text is one of the secrets; the error has no part of either.

    A kept callback has the hash of the text, which is compared instead and is no secret.
    """
    if not callback.is_kept:
        shown = hash_of(shown)
    if not any(hmac.compare_digest(shown.encode("utf-8", "replace"), hash_of(secret).encode()) for secret in secrets):
        raise CallbackRefused("The secret is missing, or another one.")


def must_be_hash_of_body(shown: str, callback: Callback) -> None:
    """Raises `CallbackRefused` unless the shown text is the SHA-256 of the body, in lower-case hex."""
    body = hashlib.sha256(callback.body).hexdigest()
    if not hmac.compare_digest(shown.encode("utf-8", "replace"), body.encode()):
        raise CallbackRefused("The body is another one.", seen=hint(shown), expected=hint(body))


def hash_of(secret: str | bytes) -> str:
    """The hash of a secret, which is kept in place of it."""
    content = secret if isinstance(secret, bytes) else secret.encode("utf-8", "replace")
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def kept_authorization(value: str) -> str:
    """The header `Authorization` as it is kept: with a hash, for basic authentication (RFC 7617) of the password."""
    scheme, _, written = value.partition(" ")
    if scheme.lower() == "basic" and (password := _password_in(written)) is not None:
        return f"Basic {hash_of(password)}"
    return hash_of(value)


def password_of(callback: Callback) -> str:
    """The password of HTTP's basic authentication, with any user; its hash for a kept callback.

    Empty without such a header. Raises `CallbackRefused` where it can't be read.
    """
    scheme, _, written = (callback.header("authorization") or "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    password = written if callback.is_kept else _password_in(written)
    if password is None:
        raise CallbackRefused("The authorization can't be read.")
    return password


def _password_in(written: str) -> str | None:
    try:
        return base64.b64decode(written.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return None


def must_be_recent(seconds: str, callback: Callback, *, retried_for: timedelta = timedelta()) -> None:
    """Raises `CallbackRefused` unless a written Unix time is within `TOLERANCE` of the callback's time.

    `retried_for` is the time for which a vendor retries a callback with its first signature.
    """
    if not _TIMESTAMP.fullmatch(seconds):
        raise CallbackRefused("The time of the signature can't be read.", seen=hint(seconds))
    age, oldest = callback.received_at - datetime.fromtimestamp(int(seconds), UTC), TOLERANCE + retried_for
    if not -TOLERANCE <= age <= oldest:
        raise CallbackRefused(
            f"The signature is {age.total_seconds():.0f} seconds old; "
            f"from {-TOLERANCE.total_seconds():.0f} to {oldest.total_seconds():.0f} are allowed."
        )


def with_reference(callback_url: str, reference: str) -> str:
    """The address for a message's receipts, with our reference in its query.

    So a receipt finds its message also when the answer with the vendor's id was lost.
    """
    return f"{callback_url}{'&' if urlsplit(callback_url).query else '?'}{urlencode({_REFERENCE: reference})}"


def reference_in(url: str | None) -> str | None:
    """The reference in an address of `with_reference`, or None."""
    return dict(parse_qsl(urlsplit(url).query)).get(_REFERENCE) if url else None


def with_plus(address: str) -> str:
    """A number in E.164 from a vendor that leaves the plus sign out; short codes and names stay as they are.

    Seven or eight digits are a number if they are valid in the country of their first digits.
    """
    if _WITHOUT_PLUS.fullmatch(address) or (_MAYBE_WITHOUT_PLUS.fullmatch(address) and _is_number(f"+{address}")):
        return f"+{address}"
    return address


def _is_number(number: str) -> bool:
    try:
        phone_address(number, region="ZZ", may_be_alphanumeric=False)
    except InvalidAddress:
        return False
    return True
