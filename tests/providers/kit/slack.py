"""Slack, as the contract test sees it. It sends no receipts."""

import hashlib
import hmac

import httpx

from app.providers.base import Callback, OutboundMessage
from app.providers.toolbox.verification import TOLERANCE
from app.testing.description import PICTURE, REFERENCE, Asked, Description, called, now
from tests.providers import outbound
from tests.providers.vendors import payload

TOKEN, SECRET, APP = "xoxb-token-of-slack", "8f742231b10e8888abcd99yyyzzz85a5", "A0PNCHHK2"
SIGNATURE = "x-slack-signature"


def message(**values: object) -> OutboundMessage:
    return outbound(
        "slack:C024BE91L", key=REFERENCE, channel="slack", type="slack", from_address=f"slack:{APP}", **values
    )


def sign(body: bytes) -> Callback:
    timestamp = now()
    digest = hmac.new(SECRET.encode(), f"v0:{timestamp}:".encode() + body, hashlib.sha256).hexdigest()
    return called("slack", body, {SIGNATURE: f"v0={digest}", "x-slack-request-timestamp": timestamp})


def description() -> Description:
    return Description(
        environment={"SLACK_BOT_TOKEN": TOKEN, "SLACK_APP_ID": APP, "SLACK_SIGNING_SECRET": SECRET},
        secrets=[TOKEN, SECRET],
        message=message(),
        request=Asked(
            "POST",
            "https://slack.com/api/chat.postMessage",
            {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json; charset=utf-8"},
            {
                "channel": "C024BE91L",
                "text": "Hello!",
                "metadata": {"event_type": "message_sent", "event_payload": {"reference": REFERENCE}},
            },
        ),
        accepted=httpx.Response(200, json={"ok": True, "channel": "C024BE91L", "ts": "1503435956.000247"}),
        id="C024BE91L:1503435956.000247",
        media=message(attachments=[PICTURE]),
        sign=sign,
        signature=SIGNATURE,
        signed_by="HMAC-SHA256",
        verified_with=["SLACK_SIGNING_SECRET"],
        good_for=TOLERANCE,
        inbound=payload("slack", "message.json"),
        inbound_media=payload("slack", "file_share.json"),
    )
