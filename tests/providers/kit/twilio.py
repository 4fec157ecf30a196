"""Twilio, as the contract test sees it."""

import base64
import hashlib
import hmac
from urllib.parse import parse_qsl

import httpx

from app.domain import MessageStatus
from app.providers.base import Callback
from app.testing.description import PICTURE, PUBLIC_URL, REFERENCE, Asked, Description, called, text
from tests.providers.vendors import basic, payload

ACCOUNT, TOKEN = "AC00000000000000000000000000000001", "f" * 32
SIGNATURE = "x-twilio-signature"
STATUS_CALLBACK = f"{PUBLIC_URL}/api/webhooks/twilio"


def sign(body: bytes) -> Callback:
    fields = "".join(name + value for name, value in sorted(parse_qsl(body.decode(), keep_blank_values=True)))
    signed = f"{STATUS_CALLBACK}?ref={REFERENCE}{fields}".encode()
    signature = base64.b64encode(hmac.digest(TOKEN.encode(), signed, hashlib.sha1)).decode()
    headers = {SIGNATURE: signature, "content-type": "application/x-www-form-urlencoded"}
    return called("twilio", body, headers, query=f"?ref={REFERENCE}")


def description() -> Description:
    return Description(
        environment={"TWILIO_ACCOUNT_SID": ACCOUNT, "TWILIO_AUTH_TOKEN": TOKEN},
        secrets=[TOKEN],
        message=text(callback_url=STATUS_CALLBACK),
        request=Asked(
            "POST",
            f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Messages.json",
            {"Authorization": basic(ACCOUNT, TOKEN), "Content-Type": "application/x-www-form-urlencoded"},
            [
                ("To", "+18045551234"),
                ("From", "+12016661234"),
                ("Body", "Hello!"),
                ("StatusCallback", f"{STATUS_CALLBACK}?ref={REFERENCE}"),
            ],
        ),
        accepted=httpx.Response(201, json={"sid": "SM2b6d8ae6ade43cb3c0ce4525424e4001", "status": "queued"}),
        id="SM2b6d8ae6ade43cb3c0ce4525424e4001",
        media=text(type="mms", attachments=[PICTURE]),
        sign=sign,
        signature=SIGNATURE,
        signed_by="HMAC-SHA1, HMAC-SHA256",
        verified_with=["TWILIO_AUTH_TOKEN"],
        receipt=lambda word: payload("twilio", "delivered.form").replace(
            b"MessageStatus=delivered", f"MessageStatus={word}".encode()
        ),
        words={
            "sent": MessageStatus.SENT,
            "delivered": MessageStatus.DELIVERED,
            "undelivered": MessageStatus.UNDELIVERED,
            "read": MessageStatus.READ,
        },
        not_understood=frozenset({"inbound_whatsapp.form"}),
        inbound=payload("twilio", "inbound_sms.form"),
        inbound_media=payload("twilio", "inbound_mms.form"),
    )
