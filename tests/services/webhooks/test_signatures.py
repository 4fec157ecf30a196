"""Signatures, as other libraries verify them."""

import base64
from datetime import UTC, datetime

import pytest
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey
from standardwebhooks import Webhook, WebhookVerificationError

from app.services.webhooks.signatures import kind_of, new_secret, public_key_of, signatures

_BODY = '{"id":"evt_1","text":"Grüße"}'.encode()


def _headers(*secrets: str) -> dict[str, str]:
    now = int(datetime.now(UTC).timestamp())
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(now),
        "webhook-signature": signatures(secrets, "evt_1", now, _BODY),
    }


def test_the_official_library_verifies_a_shared_secret_and_both_during_a_rotation() -> None:
    old, new, other = (new_secret("hmac") for _ in range(3))
    headers = _headers(new, old)
    assert [part[:3] for part in headers["webhook-signature"].split()] == ["v1,", "v1,"]
    for secret in (old, new):
        assert Webhook(secret).verify(_BODY, headers)["id"] == "evt_1"
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(_BODY, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(_BODY + b" ", headers)


def test_a_public_key_verifies_what_is_signed_with_the_private_one() -> None:
    secret = new_secret("ed25519")
    public = public_key_of(secret)
    assert public is not None
    assert (secret[:5], public[:5], kind_of(secret)) == ("whsk_", "whpk_", "ed25519")
    headers = _headers(secret)
    version, signature = headers["webhook-signature"].split(",")
    signed = f"evt_1.{headers['webhook-timestamp']}.".encode() + _BODY
    key = VerifyKey(base64.b64decode(public.removeprefix("whpk_")))
    assert version == "v1a"
    assert key.verify(signed, base64.b64decode(signature)) == signed
    with pytest.raises(BadSignatureError):
        key.verify(signed + b" ", base64.b64decode(signature))


def test_a_shared_secret_has_no_public_key() -> None:
    assert public_key_of(new_secret("hmac")) is None
