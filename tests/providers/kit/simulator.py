"""The carrier simulator's own format, as the contract test sees it. It has no secrets, and signs nothing."""

import json

import httpx

from app.domain import MessageStatus
from app.providers.base import Callback
from app.testing.description import PICTURE, REFERENCE, Asked, Description, called, text


def sign(body: bytes) -> Callback:
    return called("simulator", body, {"content-type": "application/json"})


def receipt(word: str) -> bytes:
    event = {"event": "receipt", "event_id": f"sim-1:{word}", "status": word, "id": "sim-1", "reference": REFERENCE}
    return json.dumps(event).encode()


def inbound(*attachments: str) -> bytes:
    message = {
        "event": "message",
        "id": "sim-1-in-1",
        "channel": "sms",
        "type": "sms",
        "from": "+18045551234",
        "to": "+12016661234",
        "body": "STOP",
        "attachments": list(attachments),
    }
    return json.dumps(message).encode()


def description() -> Description:
    return Description(
        environment={"SIMULATOR_URL": "http://127.0.0.1:9100"},
        secrets=[],
        message=text(),
        request=Asked(
            "POST",
            "http://127.0.0.1:9100/messages",
            {"Idempotency-Key": REFERENCE, "Content-Type": "application/json"},
            {
                "channel": "sms",
                "type": "sms",
                "from": "+12016661234",
                "to": "+18045551234",
                "body": "Hello!",
                "subject": None,
                "attachments": [],
                "reference": REFERENCE,
            },
        ),
        accepted=httpx.Response(200, json={"id": "sim-1", "status": "accepted", "duplicate": False}),
        id="sim-1",
        media=text(type="mms", attachments=[PICTURE]),
        sign=sign,
        receipt=receipt,
        words={
            "queued": MessageStatus.QUEUED,
            "sent": MessageStatus.SENT,
            "delivered": MessageStatus.DELIVERED,
            "undelivered": MessageStatus.UNDELIVERED,
        },
        inbound=inbound(),
        inbound_media=inbound(PICTURE),
    )
