"""Plivo, as the contract test sees it."""

import base64
import hashlib
import hmac
from urllib.parse import parse_qsl

import httpx

from app.domain import MessageStatus
from app.providers.base import Callback
from app.testing.description import PICTURE, PUBLIC_URL, REFERENCE, Asked, Description, called, text
from tests.providers.vendors import basic, payload

ACCOUNT, TOKEN, NONCE = "MA" + "0" * 18, "p" * 40, "05429567804466091622"
SIGNATURE = "x-plivo-signature-v3"
CALLBACK = f"{PUBLIC_URL}/api/webhooks/plivo"


def sign(body: bytes) -> Callback:
    fields = "".join(name + value for name, value in sorted(parse_qsl(body.decode(), keep_blank_values=True)))
    signed = f"{CALLBACK}?ref={REFERENCE}.{fields}.{NONCE}".encode()
    signature = base64.b64encode(hmac.digest(TOKEN.encode(), signed, hashlib.sha256)).decode()
    return called("plivo", body, {SIGNATURE: signature, f"{SIGNATURE}-nonce": NONCE}, query=f"?ref={REFERENCE}")


def description() -> Description:
    return Description(
        environment={"PLIVO_AUTH_ID": ACCOUNT, "PLIVO_AUTH_TOKEN": TOKEN},
        secrets=[TOKEN],
        message=text(callback_url=CALLBACK),
        request=Asked(
            "POST",
            f"https://api.plivo.com/v1/Account/{ACCOUNT}/Message/",
            {"Authorization": basic(ACCOUNT, TOKEN), "Content-Type": "application/json"},
            {
                "src": "+12016661234",
                "dst": "+18045551234",
                "type": "sms",
                "text": "Hello!",
                "url": f"{CALLBACK}?ref={REFERENCE}",
                "method": "POST",
            },
        ),
        accepted=httpx.Response(202, json={"api_id": "a", "message": "queued", "message_uuid": ["8c5ba8f2"]}),
        id="8c5ba8f2",
        media=text(type="mms", attachments=[PICTURE]),
        sign=sign,
        signature=SIGNATURE,
        signed_by="HMAC-SHA256",
        verified_with=["PLIVO_AUTH_TOKEN"],
        receipt=lambda word: payload("plivo", "delivered.form").replace(
            b"Status=delivered", f"Status={word}".encode()
        ),
        words={
            "sent": MessageStatus.SENT,
            "delivered": MessageStatus.DELIVERED,
            "undelivered": MessageStatus.UNDELIVERED,
        },
        inbound=payload("plivo", "inbound_sms.form"),
        inbound_media=payload("plivo", "inbound_mms.form"),
    )
