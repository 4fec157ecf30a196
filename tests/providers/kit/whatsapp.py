"""WhatsApp, as the contract test sees it."""

import hashlib
import hmac

import httpx

from app.domain import MessageStatus
from app.providers.base import Callback, OutboundMessage
from app.testing.description import PICTURE, REFERENCE, Asked, Description, called
from tests.providers import outbound
from tests.providers.vendors import payload

TOKEN, SECRET, VERIFY = "EAA-token-of-whatsapp", "app-secret-of-whatsapp", "verify-token-of-whatsapp"
SIGNATURE = "x-hub-signature-256"
OURS, OUR_ID = "+15550783881", "106540352242922"


def message(**values: object) -> OutboundMessage:
    return outbound("+16505551234", key=REFERENCE, channel="whatsapp", type="whatsapp", from_address=OURS, **values)


def sign(body: bytes) -> Callback:
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return called("whatsapp", body, {SIGNATURE: f"sha256={digest}"})


def description() -> Description:
    return Description(
        environment={
            "WHATSAPP_ACCESS_TOKEN": TOKEN,
            "WHATSAPP_PHONE_NUMBER_IDS": f"{OURS}:{OUR_ID}",
            "WHATSAPP_APP_SECRET": SECRET,
            "WHATSAPP_VERIFY_TOKEN": VERIFY,
        },
        secrets=[TOKEN, SECRET, VERIFY],
        message=message(),
        request=Asked(
            "POST",
            f"https://graph.facebook.com/v23.0/{OUR_ID}/messages",
            {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
            {
                "messaging_product": "whatsapp",
                "recipient_type": "individual",
                "to": "16505551234",
                "type": "text",
                "text": {"preview_url": False, "body": "Hello!"},
                "biz_opaque_callback_data": REFERENCE,
            },
        ),
        accepted=httpx.Response(200, json={"messaging_product": "whatsapp", "messages": [{"id": "wamid.1"}]}),
        id="wamid.1",
        media=message(attachments=[PICTURE]),
        sign=sign,
        signature=SIGNATURE,
        signed_by="HMAC-SHA256",
        verified_with=["WHATSAPP_APP_SECRET"],
        receipt=lambda word: payload("whatsapp", "delivered.json").replace(
            b'"status": "delivered"', f'"status": "{word}"'.encode()
        ),
        words={
            "sent": MessageStatus.SENT,
            "delivered": MessageStatus.DELIVERED,
            "failed": MessageStatus.UNDELIVERED,
            "read": MessageStatus.READ,
        },
        inbound=payload("whatsapp", "text.json"),
        inbound_media=payload("whatsapp", "image.json"),
    )
