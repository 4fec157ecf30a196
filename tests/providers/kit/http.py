"""The generic provider, set up for a gateway as there are many, as the contract test sees it."""

import base64
import hashlib
import hmac
import json

import httpx

from app.domain import MessageStatus
from app.providers.base import Callback
from app.providers.toolbox.verification import TOLERANCE
from app.testing.description import PICTURE, REFERENCE, Asked, Description, called, now, text

API_KEY, SECRET = "key-of-the-gateway", "k" * 32


def sign(body: bytes) -> Callback:
    timestamp = now()
    digest = hmac.digest(SECRET.encode(), f"msg_1.{timestamp}.".encode() + body, hashlib.sha256)
    signature = f"v1,{base64.b64encode(digest).decode()}"
    headers = {"webhook-id": "msg_1", "webhook-timestamp": timestamp, "webhook-signature": signature}
    return called("http", body, headers)


def receipt(word: str) -> bytes:
    return json.dumps({"id": "4711", "ref": REFERENCE, "state": word}).encode()


def description() -> Description:
    message = {"id": "in-1", "from": "+18045551234", "to": "+12016661234", "text": "Hello!"}
    return Description(
        environment={
            "HTTP_URL": "https://sms.example/v1/messages?to={to}",
            "HTTP_HEADERS": json.dumps({"Authorization": f"Bearer {API_KEY}"}),
            "HTTP_BODY": json.dumps(
                {"text": "{body}", "from": "{from}", "ref": "{reference}", "media": "{attachments}"}
            ),
            "HTTP_ID_PATH": "id",
            "HTTP_STATUSES": json.dumps({"DELIVRD": "delivered", "UNDELIV": "undelivered"}),
            "HTTP_SECRET": SECRET,
            "HTTP_RECEIPT_ID_PATH": "id",
            "HTTP_RECEIPT_REFERENCE_PATH": "ref",
            "HTTP_RECEIPT_STATUS_PATH": "state",
            "HTTP_INBOUND_ID_PATH": "message.id",
            "HTTP_INBOUND_FROM_PATH": "message.from",
            "HTTP_INBOUND_TO_PATH": "message.to",
            "HTTP_INBOUND_BODY_PATH": "message.text",
        },
        secrets=[API_KEY, SECRET],
        message=text(),
        request=Asked(
            "POST",
            "https://sms.example/v1/messages?to=%2B18045551234",
            {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"},
            {"text": "Hello!", "from": "+12016661234", "ref": REFERENCE, "media": []},
        ),
        accepted=httpx.Response(200, json={"id": 4711}),
        id="4711",
        media=text(attachments=[PICTURE]),
        sign=sign,
        signature="webhook-signature",
        signed_by="HMAC-SHA256 (Standard Webhooks)",
        verified_with=["HTTP_SECRET"],
        good_for=TOLERANCE,
        receipt=receipt,
        words={"DELIVRD": MessageStatus.DELIVERED, "UNDELIV": MessageStatus.UNDELIVERED},
        inbound=json.dumps({"message": message}).encode(),
    )
