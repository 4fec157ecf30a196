"""Mailgun, as the contract test sees it. It signs a token beside the time, and puts both into the body."""

import hashlib
import hmac
import json
import secrets
from dataclasses import replace

import httpx

from app.domain import MessageStatus
from app.providers.base import Callback
from app.providers.mailgun import RETRIED_FOR
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
from tests.providers.vendors import basic, payload

API_KEY, KEY = "key-of-mailgun-0123", "signing-key-of-mailgun"
MAIL = {
    "recipient": "shop@example.com",
    "sender": "jane@example.com",
    "subject": "Re: Greetings",
    "body-plain": "Thank you!",
    "message-headers": '[["From", "jane@example.com"], ["Message-Id", "<answer@example.com>"]]',
}


def with_signature(body: bytes, signature: dict[str, str]) -> bytes:
    if content_type_of(body) != "application/json":
        return form_data(signature).removesuffix(b"--kit--\r\n") + body
    return json.dumps({**json.loads(body), "signature": signature}).encode()


def sign(body: bytes) -> Callback:
    timestamp, token = now(), secrets.token_hex(25)
    digest = hmac.new(KEY.encode(), (timestamp + token).encode(), hashlib.sha256).hexdigest()
    signed = with_signature(body, {"timestamp": timestamp, "token": token, "signature": digest})
    return called("mailgun", signed, {"content-type": content_type_of(body)})


def forge(callback: Callback, value: str | None) -> Callback:
    shown = {"timestamp": now(), "token": "a" * 50} | ({} if value is None else {"signature": value})
    is_mail = content_type_of(callback.body) != "application/json"
    return replace(callback, body=with_signature(form_data(MAIL) if is_mail else callback.body, shown))


def description() -> Description:
    return Description(
        environment={
            "MAILGUN_API_KEY": API_KEY,
            "MAILGUN_DOMAIN": "mg.example.com",
            "MAILGUN_SIGNING_KEY": KEY,
        },
        secrets=[API_KEY, KEY],
        message=mail(),
        request=Asked(
            "POST",
            "https://api.mailgun.net/v3/mg.example.com/messages",
            {"Authorization": basic("api", API_KEY), "Content-Type": "application/x-www-form-urlencoded"},
            [
                ("from", "shop@example.com"),
                ("to", "jane@example.com"),
                ("subject", "Greetings"),
                ("text", "Hello!"),
                ("h:Message-Id", f"<{REFERENCE}@example.com>"),
                ("v:reference", REFERENCE),
            ],
        ),
        accepted=httpx.Response(200, json={"id": f"<{REFERENCE}@example.com>", "message": "Queued. Thank you."}),
        id=f"{REFERENCE}@example.com",
        media=mail(attachments=[PICTURE]),
        sign=sign,
        forge=forge,
        signed_by="HMAC-SHA256 of a token",
        verified_with=["MAILGUN_SIGNING_KEY"],
        good_for=RETRIED_FOR + TOLERANCE,
        receipt=lambda word: payload("mailgun", "delivered.json").replace(
            b'"event": "delivered"', f'"event": "{word}"'.encode()
        ),
        words={
            "accepted": MessageStatus.QUEUED,
            "delivered": MessageStatus.DELIVERED,
            "failed": MessageStatus.UNDELIVERED,
            "opened": MessageStatus.READ,
        },
        inbound=form_data(MAIL),
        inbound_media=form_data(MAIL, file="attachment-1"),
    )
