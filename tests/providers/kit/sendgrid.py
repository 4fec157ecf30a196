"""SendGrid, as the contract test sees it."""

import base64
import json
from dataclasses import replace
from urllib.parse import quote

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.domain import MessageStatus
from app.providers.base import Callback
from app.providers.sendgrid import RETRIED_FOR
from app.providers.toolbox.verification import TOLERANCE
from app.testing.description import (
    PICTURE,
    REFERENCE,
    Asked,
    Description,
    called,
    content_type_of,
    form_data,
    mail,
    now,
)

API_KEY, TOKEN = "SG.key-of-sendgrid", "token-of-inbound-parse"
KEY = generate_private_key(SECP256R1())
_LONGEST = 8_000  # servers refuse longer addresses unread
SIGNATURE = "x-twilio-email-event-webhook-signature"
MAIL = {
    "headers": "From: jane@example.com\nTo: shop@example.com\nMessage-ID: <answer@example.com>",
    "envelope": '{"to":["shop@example.com"],"from":"jane@example.com"}',
    "text": "Thank you!",
}


def sign(body: bytes) -> Callback:
    timestamp, content_type = now(), content_type_of(body)
    if content_type != "application/json":
        return called("sendgrid", body, {"content-type": content_type}, query=f"?token={TOKEN}")
    signature = base64.b64encode(KEY.sign(timestamp.encode() + body, ECDSA(SHA256()))).decode()
    headers = {SIGNATURE: signature, "x-twilio-email-event-webhook-timestamp": timestamp}
    return called("sendgrid", body, {"content-type": content_type, **headers})


def forge(callback: Callback, value: str | None) -> Callback:
    url = callback.url.partition("?")[0]
    return replace(callback, url=url if value is None else f"{url}?token={quote(value[:_LONGEST])}")


def receipt(word: str) -> bytes:
    event = {
        "email": "jane@example.com",
        "timestamp": 1772366400,
        "sg_message_id": "14c5d75ce93.dfd.64b469.filterdrecv-5645d9c87f-4xk2p-1-5FF.0",
        "reference": REFERENCE,
        "event": word,
        "sg_event_id": f"sg_event_{word}",
    }
    return json.dumps([event]).encode()


def description() -> Description:
    public = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Description(
        environment={
            "SENDGRID_API_KEY": API_KEY,
            "SENDGRID_WEBHOOK_KEY": base64.b64encode(public).decode(),
            "SENDGRID_INBOUND_TOKEN": TOKEN,
        },
        secrets=[API_KEY, TOKEN],
        message=mail(),
        request=Asked(
            "POST",
            "https://api.sendgrid.com/v3/mail/send",
            {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"},
            {
                "personalizations": [
                    {"to": [{"email": "jane@example.com"}], "custom_args": {"reference": REFERENCE}}
                ],
                "from": {"email": "shop@example.com"},
                "subject": "Greetings",
                "content": [{"type": "text/plain", "value": "Hello!"}],
                "headers": {"Message-ID": f"<{REFERENCE}@example.com>"},
            },
        ),
        accepted=httpx.Response(202, headers={"X-Message-Id": "14c5d75ce93.dfd.64b469"}),
        id="14c5d75ce93.dfd.64b469",
        media=mail(attachments=[PICTURE]),
        sign=sign,
        signature=SIGNATURE,
        forge=forge,
        signed_by="ECDSA; mail: ECDSA, or a token in the address",
        verified_with=["SENDGRID_WEBHOOK_KEY", "SENDGRID_INBOUND_TOKEN"],
        good_for=RETRIED_FOR + TOLERANCE,
        receipt=receipt,
        words={
            "processed": MessageStatus.QUEUED,
            "delivered": MessageStatus.DELIVERED,
            "bounce": MessageStatus.UNDELIVERED,
            "open": MessageStatus.READ,
        },
        inbound=form_data(MAIL),
        inbound_media=form_data(MAIL, file="attachment1"),
    )
