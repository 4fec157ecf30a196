"""Secrets that verify signatures, and the keys of Standard Webhooks that they stand for.

The libraries (github.com/standard-webhooks/standard-webhooks) read a secret as base64, with `whsec_` before it or
without. Senders without a library often sign with the bytes of its text. A secret without `whsec_` therefore stands
for both keys: neither is known without the secret. `whpk_` begins the public key of a sender that signs with Ed25519.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Key = bytes | Ed25519PublicKey

_PREFIX, _PUBLIC, _PRIVATE = "whsec_", "whpk_", "whsk_"
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}", re.ASCII)
#: Characters that are not base64 are skipped by the libraries. What is left must not be easy to guess.
_FEWEST_BYTES = 16
_SHORTEST_SECRET = 24  # characters; `openssl rand -base64 32` gives 44
#: Random, but public: the secret of the test vector that Standard Webhooks publishes.
_PUBLISHED = {"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
_MADE_UP = re.compile(r"change|secret|example|password|placeholder|webhook|default", re.IGNORECASE)
_SPACE = re.compile(r"\s")


def secrets_of(setting: str) -> list[str]:
    """The secrets in a setting: during a rotation there are two, separated by a comma.

    Raises `ValueError` for a space within one. It would not tell whether a passphrase is meant, or two secrets.
    """
    secrets = [each for part in setting.split(",") if (each := part.strip())]
    if any(map(_SPACE.search, secrets)):
        raise ValueError("a secret has no spaces; if these are two, separate them by a comma")
    return secrets


def signing_keys(secret: str) -> list[Key]:
    """The keys of one secret. Raises `ValueError` where it is empty, or not what its beginning says."""
    if secret.startswith(_PRIVATE):
        raise ValueError("whsk_ begins the key that signs; here belongs the public one, which begins with whpk_")
    if secret.startswith(_PUBLIC):
        return [_public_key(secret.removeprefix(_PUBLIC))]
    written = secret.removeprefix(_PREFIX)
    key = _decoded(written)
    is_base64 = _BASE64.fullmatch(written) is not None and key != b""
    if written != secret:
        if not is_base64:
            raise ValueError("after whsec_ a secret is base64; `openssl rand -base64 32` makes a good one")
        return [key]
    if not secret:
        raise ValueError("a secret can't be empty; `openssl rand -base64 32` makes a good one")
    return [key, secret.encode()] if is_base64 or len(key) >= _FEWEST_BYTES else [secret.encode()]


def signatures(keys: Iterable[Key], signed: bytes) -> list[str]:
    """The signatures of some content by each secret key, as they stand in the header."""
    return [f"v1,{base64.b64encode(digest).decode()}" for digest in _digests(keys, signed)]


def is_signed(keys: Sequence[Key], signed: bytes, shown: Sequence[str]) -> bool:
    """Tell if one of the shown signatures is that of one of the keys: `v1,` by a secret one, `v1a,` by a public one.

    All pairs are compared, so that the time taken does not tell which fits.
    """
    found = [_signature(each) for each in shown]
    expected = _digests(keys, signed)
    public = [key for key in keys if isinstance(key, Ed25519PublicKey)]
    by_secret = [hmac.compare_digest(one, other) for version, one in found if version == "v1" for other in expected]
    by_public = [_verifies(key, one, signed) for version, one in found if version == "v1a" for key in public]
    return sum(by_secret) + sum(by_public) > 0


def signed_content(id: str, timestamp: int | str, body: bytes) -> bytes:
    """The bytes that a signature of Standard Webhooks covers."""
    return f"{id}.{timestamp}.".encode() + body


def is_random(secret: str) -> bool:
    """True for a secret that is long, not of an example, and not published; a public key is none to be guessed."""
    if secret.startswith(_PUBLIC):
        return True
    written = secret.removeprefix(_PREFIX)
    is_varied = len(written) >= _SHORTEST_SECRET and len(set(written)) >= 8
    return is_varied and written not in _PUBLISHED and not _MADE_UP.search(written)


def _decoded(written: str) -> bytes:
    """The bytes that the libraries take for the key, with padding or without; empty where they fail."""
    try:
        return base64.b64decode(written + "==")
    except ValueError:
        return b""


def _digests(keys: Iterable[Key], signed: bytes) -> list[bytes]:
    return [hmac.digest(key, signed, hashlib.sha256) for key in keys if isinstance(key, bytes)]


def _public_key(written: str) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(written, validate=True))
    except ValueError:
        raise ValueError("after whpk_ a public key is 32 bytes in base64") from None


def _signature(written: str) -> tuple[str, bytes]:
    """The version and the bytes of one signature; both empty for a malformed one."""
    version, _, signature = written.partition(",")
    try:
        return version, base64.b64decode(signature.encode("ascii"), validate=True)
    except ValueError:
        return "", b""


def _verifies(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True
