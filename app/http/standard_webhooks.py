"""Verification of Standard Webhooks signatures (github.com/standard-webhooks/standard-webhooks, spec)."""

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Sequence

from starlette.datastructures import Headers

from app.errors import SignatureRefused

_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
_ID = re.compile(r"[\x21-\x7e]{1,255}")
_TOLERANCE_SECONDS = 300
_MOST_SIGNATURES = 16


def must_be_signed(headers: Headers, body: bytes, secrets: Sequence[bytes]) -> None:
    """Raises `SignatureRefused` unless a signature over exactly this body fits one of the secrets.

    The timestamp has to be within five minutes of now, before or after.
    """
    if not _is_signed(headers, body, secrets):
        raise SignatureRefused(
            "This needs a valid signature, as Standard Webhooks describe it, made within five minutes."
        )


def _is_signed(headers: Headers, body: bytes, secrets: Sequence[bytes]) -> bool:
    written = [headers.getlist(name) for name in ("webhook-id", "webhook-timestamp", "webhook-signature")]
    if any(len(values) != 1 for values in written):
        return False
    [[id], [timestamp], [signatures]] = written
    if not _ID.fullmatch(id) or not _TIMESTAMP.fullmatch(timestamp):
        return False
    if abs(time.time() - int(timestamp)) > _TOLERANCE_SECONDS:
        return False
    signed = f"{id}.{timestamp}.".encode() + body
    expected = [hmac.digest(secret, signed, hashlib.sha256) for secret in secrets]
    shown = [_signature(each) for each in signatures.split(" ", _MOST_SIGNATURES)[:_MOST_SIGNATURES]]
    # All pairs are compared, so that the time taken does not tell which secret fits.
    return sum(hmac.compare_digest(one, other) for one in expected for other in shown) > 0


def _signature(written: str) -> bytes:
    """The bytes of one signature; empty for another version or a malformed one."""
    version, _, signature = written.partition(",")
    try:
        return base64.b64decode(signature.encode("ascii"), validate=True) if version == "v1" else b""
    except (binascii.Error, UnicodeEncodeError):
        return b""
