"""Verification of Standard Webhooks signatures (github.com/standard-webhooks/standard-webhooks, spec)."""

import re
import time
from collections.abc import Sequence

from starlette.datastructures import Headers

from app.errors import SignatureRefused
from app.signing_keys import Key, is_signed, signed_content

#: Svix, where the standard comes from, has names of its own for the same headers.
_PREFIXES = ("webhook", "svix")
_PARTS = ("id", "timestamp", "signature")
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
_ID = re.compile(r"[\x21-\x7e]{1,255}")
_TOLERANCE_SECONDS = 300
_MOST_SIGNATURES = 16


def must_be_signed(headers: Headers, body: bytes, keys: Sequence[Key]) -> None:
    """Raises `SignatureRefused` unless a signature over exactly this body fits one of the keys.

    The timestamp has to be within five minutes of now, before or after.
    """
    if not any(_is_signed(headers, prefix, body, keys) for prefix in _PREFIXES):
        raise SignatureRefused(
            "This needs a valid signature, as Standard Webhooks describe it, made within five minutes."
        )


def _is_signed(headers: Headers, prefix: str, body: bytes, keys: Sequence[Key]) -> bool:
    written = [headers.getlist(f"{prefix}-{part}") for part in _PARTS]
    if any(len(values) != 1 for values in written):
        return False
    [[id], [timestamp], [signatures]] = written
    if not _ID.fullmatch(id) or not _TIMESTAMP.fullmatch(timestamp):
        return False
    if abs(time.time() - int(timestamp)) > _TOLERANCE_SECONDS:
        return False
    shown = signatures.split(" ", _MOST_SIGNATURES)[:_MOST_SIGNATURES]
    return is_signed(keys, signed_content(id, timestamp, body), shown)
