"""Postmark, as the contract test sees it. It signs nothing, and shows a password instead."""

import base64
import json

import httpx

from app.domain import MessageStatus
from app.providers.base import Callback
from app.testing.description import PICTURE, REFERENCE, Asked, Description, called, mail
from tests.providers.vendors import basic, payload

SERVER_TOKEN, TOKEN = "server-token-of-postmark", "webhook-token-of-postmark"


def sign(body: bytes) -> Callback:
    return called("postmark", body, {"authorization": basic("postmark", TOKEN)})


def with_file() -> bytes:
    content = base64.b64encode(b"attached").decode()
    file = {"Name": "a.txt", "Content": content, "ContentType": "text/plain", "ContentLength": 8}
    return json.dumps({**json.loads(payload("postmark", "inbound.json")), "Attachments": [file]}).encode()


def description() -> Description:
    return Description(
        environment={"POSTMARK_SERVER_TOKEN": SERVER_TOKEN, "POSTMARK_WEBHOOK_TOKEN": TOKEN},
        secrets=[SERVER_TOKEN, TOKEN],
        message=mail(),
        request=Asked(
            "POST",
            "https://api.postmarkapp.com/email",
            {"X-Postmark-Server-Token": SERVER_TOKEN, "Content-Type": "application/json"},
            {
                "From": "shop@example.com",
                "To": "jane@example.com",
                "Subject": "Greetings",
                "TextBody": "Hello!",
                "MessageStream": "outbound",
                "Headers": [
                    {"Name": "Message-ID", "Value": f"<{REFERENCE}@example.com>"},
                    {"Name": "X-PM-KeepID", "Value": "true"},
                ],
                "Metadata": {"reference": REFERENCE},
            },
        ),
        accepted=httpx.Response(200, json={"MessageID": "883953f4", "ErrorCode": 0, "Message": "OK"}),
        id="883953f4",
        media=mail(attachments=[PICTURE]),
        sign=sign,
        signature="authorization",
        signed_by="password",
        verified_with=["POSTMARK_WEBHOOK_TOKEN"],
        receipt=lambda word: payload("postmark", "delivery.json").replace(
            b'"RecordType": "Delivery"', f'"RecordType": "{word}"'.encode()
        ),
        words={"Delivery": MessageStatus.DELIVERED, "Open": MessageStatus.READ},
        inbound=payload("postmark", "inbound.json"),
        inbound_media=with_file(),
    )
