"""Vonage, as the contract test sees it."""

import base64
import hashlib
import hmac
import json
import re

import httpx
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.domain import MessageStatus
from app.providers.base import Callback
from app.providers.toolbox.verification import TOLERANCE
from app.providers.vonage import RETRIED_FOR
from app.testing.description import PICTURE, PUBLIC_URL, REFERENCE, Asked, Description, called, now, text
from tests.providers.vendors import payload

APPLICATION, SIGNING = "aaaaaaaa-bbbb-cccc-dddd-0123456789ab", "s" * 32
PEM = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
CALLBACK = f"{PUBLIC_URL}/api/webhooks/vonage"


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def sign(body: bytes) -> Callback:
    claims = {"iat": int(now()), "iss": "Vonage", "payload_hash": hashlib.sha256(body).hexdigest()}
    signed = ".".join(_encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    token = f"{signed}.{_encoded(hmac.digest(SIGNING.encode(), signed.encode(), hashlib.sha256))}"
    return called("vonage", body, {"authorization": f"Bearer {token}"})


def description() -> Description:
    return Description(
        environment={
            "VONAGE_APPLICATION_ID": APPLICATION,
            "VONAGE_PRIVATE_KEY": PEM,
            "VONAGE_SIGNATURE_SECRET": SIGNING,
        },
        secrets=[PEM.splitlines()[1], SIGNING],
        message=text(callback_url=CALLBACK),
        request=Asked(
            "POST",
            "https://api.nexmo.com/v1/messages",
            {
                "Authorization": re.compile(r"Bearer [\w-]+\.[\w-]+\.[\w-]+"),
                "Content-Type": "application/json",
            },
            {
                "channel": "sms",
                "message_type": "text",
                "from": "12016661234",
                "to": "18045551234",
                "text": "Hello!",
                "client_ref": REFERENCE,
                "webhook_url": CALLBACK,
            },
        ),
        accepted=httpx.Response(202, json={"message_uuid": "cccccccc-bbbb-4ccc-8ddd-0123456789ab"}),
        id="cccccccc-bbbb-4ccc-8ddd-0123456789ab",
        media=text(type="mms", attachments=[PICTURE]),
        sign=sign,
        signature="authorization",
        signed_by="JWT, HMAC-SHA256",
        verified_with=["VONAGE_SIGNATURE_SECRET"],
        may_come_unsigned=True,
        good_for=RETRIED_FOR + TOLERANCE,
        receipt=lambda word: payload("vonage", "delivered.json").replace(
            b'"status": "delivered"', f'"status": "{word}"'.encode()
        ),
        words={
            "submitted": MessageStatus.SENT,
            "delivered": MessageStatus.DELIVERED,
            "undeliverable": MessageStatus.UNDELIVERED,
            "read": MessageStatus.READ,
        },
        inbound=payload("vonage", "inbound_sms.json"),
        inbound_media=payload("vonage", "inbound_mms.json"),
    )
