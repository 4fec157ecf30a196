"""Telnyx, as the contract test sees it."""

import base64

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.domain import MessageStatus
from app.providers.base import Callback
from app.providers.toolbox.verification import TOLERANCE
from app.testing.description import PICTURE, PUBLIC_URL, REFERENCE, Asked, Description, called, now, text
from tests.providers.vendors import payload

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
API_KEY = "KEY-of-telnyx-0123456789"
SIGNATURE = "telnyx-signature-ed25519"
CALLBACK = f"{PUBLIC_URL}/api/webhooks/telnyx"


def sign(body: bytes) -> Callback:
    timestamp = now()
    signature = base64.b64encode(KEY.sign(f"{timestamp}|".encode() + body)).decode()
    return called("telnyx", body, {SIGNATURE: signature, "telnyx-timestamp": timestamp})


def description() -> Description:
    public = base64.b64encode(KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    return Description(
        environment={"TELNYX_API_KEY": API_KEY, "TELNYX_PUBLIC_KEY": public},
        secrets=[API_KEY],
        message=text(callback_url=CALLBACK),
        request=Asked(
            "POST",
            "https://api.telnyx.com/v2/messages",
            {
                "Authorization": f"Bearer {API_KEY}",
                "Idempotency-Key": REFERENCE,
                "Content-Type": "application/json",
            },
            {
                "from": "+12016661234",
                "to": "+18045551234",
                "type": "SMS",
                "text": "Hello!",
                "webhook_url": f"{CALLBACK}?ref={REFERENCE}",
            },
        ),
        accepted=httpx.Response(200, json={"data": {"id": "834f3d53", "record_type": "message"}}),
        id="834f3d53",
        media=text(type="mms", attachments=[PICTURE]),
        sign=sign,
        signature=SIGNATURE,
        signed_by="Ed25519",
        verified_with=["TELNYX_PUBLIC_KEY"],
        good_for=TOLERANCE,
        receipt=lambda word: payload("telnyx", "finalized.json").replace(
            b'"status": "delivered"', f'"status": "{word}"'.encode()
        ),
        words={
            "sent": MessageStatus.SENT,
            "delivered": MessageStatus.DELIVERED,
            "delivery_failed": MessageStatus.UNDELIVERED,
            "delivery_unconfirmed": MessageStatus.UNDELIVERED,
        },
        inbound=payload("telnyx", "inbound_mms.json").replace(b'"type": "MMS"', b'"type": "SMS"'),
        inbound_media=payload("telnyx", "inbound_mms.json"),
    )
