"""Signatures of requests to webhook endpoints (github.com/standard-webhooks/standard-webhooks, spec)."""

import base64
import secrets
from collections.abc import Sequence
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app import signing_keys
from app.signing_keys import signed_content

SignatureKind = Literal["hmac", "ed25519"]

_SHARED, _PRIVATE, _PUBLIC = "whsec_", "whsk_", "whpk_"
_KEY_BYTES = 32


def new_secret(kind: SignatureKind) -> str:
    """A random secret: `whsec_` and a key that both sides share, or `whsk_` and the seed of a private one."""
    prefix = _SHARED if kind == "hmac" else _PRIVATE
    return prefix + base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def kind_of(secret: str) -> SignatureKind:
    return "hmac" if secret.startswith(_SHARED) else "ed25519"


def public_key_of(secret: str) -> str | None:
    """The key that verifies what a private one signs, as `whpk_` and base64; None for a shared secret."""
    if kind_of(secret) == "hmac":
        return None
    return _PUBLIC + base64.b64encode(_private_key(secret).public_key().public_bytes_raw()).decode()


def signatures(given_secrets: Sequence[str], id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: a signature with each secret, separated by spaces."""
    signed = signed_content(id, timestamp, body)
    return " ".join(_signature(secret, signed) for secret in given_secrets)


def _signature(secret: str, signed: bytes) -> str:
    if kind_of(secret) == "hmac":
        return signing_keys.signatures(signing_keys.signing_keys(secret), signed)[0]
    return "v1a," + base64.b64encode(_private_key(secret).sign(signed)).decode()


def _private_key(secret: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(base64.b64decode(secret.removeprefix(_PRIVATE)))
