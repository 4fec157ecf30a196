"""The simulator as SendGrid: sending mail, events, and inbound mail by Inbound Parse.

https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send
https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
"""

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar
from urllib.parse import urlencode

import httpx
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.domain import MessageStatus
from app.providers.base import CallbackItem, InboundMessage, OutboundMessage, Receipt
from app.providers.sendgrid import SendgridSettings
from app.providers.simulated.script import CarrierAnswer
from app.providers.toolbox.verification import first_secret
from app.simulator.carrier import SendRequest
from app.simulator.ledger import Entry
from app.simulator.wire import WireFormat, call_back

log = structlog.get_logger(__name__)

_REFUSALS = {
    CarrierAnswer.THROTTLED: (429, "too many requests"),
    CarrierAnswer.ERROR: (500, "internal server error"),
    CarrierAnswer.REFUSED: (400, "The to email does not contain a valid address."),
    CarrierAnswer.UNAUTHORISED: (401, "The provided authorization grant is invalid, expired, or revoked"),
}
#: SendGrid has no event for sent mail.
_EVENTS = {
    MessageStatus.QUEUED: {"event": "processed"},
    MessageStatus.SENT: {"event": "processed"},
    MessageStatus.DELIVERED: {"event": "delivered", "response": "250 OK"},
    MessageStatus.UNDELIVERED: {"event": "bounce", "type": "bounce", "reason": "550 5.1.1 The user is unknown"},
}


class _Address(BaseModel):
    email: str


class _Personalization(BaseModel):
    to: Annotated[list[_Address], Field(min_length=1, max_length=1)]
    custom_args: dict[str, str] = {}


class _Content(BaseModel):
    type: str
    value: Annotated[str, Field(min_length=1)]


class _Submission(BaseModel):
    """The body of POST /v3/mail/send, for one recipient."""

    personalizations: Annotated[list[_Personalization], Field(min_length=1, max_length=1)]
    sender: _Address = Field(alias="from")
    subject: Annotated[str, Field(min_length=1)]
    content: Annotated[list[_Content], Field(min_length=1)]
    headers: dict[str, str] = {}


class SendgridFormat(WireFormat):
    """Any account. Events and inbound mail go to `webhook`, if it is set.

    Events are signed with a key made at the start. Its public half is logged, and served at SendGrid's own path. The
    address for inbound mail carries the first SENDGRID_INBOUND_TOKEN.
    """

    accepted_status: ClassVar[int] = 202

    def __init__(self, settings: SendgridSettings, webhook: str | None) -> None:
        self._webhook = webhook
        token = first_secret(settings.inbound_token)
        self._parse = f"{webhook}?{urlencode({'token': token})}" if webhook and token else webhook
        self._key = generate_private_key(SECP256R1())
        public = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.public_key = base64.b64encode(public).decode()
        log.info("simulator_signs_as_sendgrid", public_key=self.public_key)

    def routes(self) -> Sequence[Route]:
        return [
            Route("/v3/mail/send", self._submit, methods=["POST"]),
            Route("/v3/user/webhooks/event/settings/signed", self._public_key, methods=["GET"]),
        ]

    def accepted(self, request: SendRequest, entry: Entry) -> Response:
        return Response(status_code=self.accepted_status, headers={"X-Message-Id": request.id})

    def refused(self, answer: CarrierAnswer, entry: Entry) -> Response:
        return _error(*_REFUSALS[answer])

    async def _public_key(self, request: Request) -> Response:
        return JSONResponse({"public_key": self.public_key})

    async def _submit(self, http_request: Request) -> Response:
        if "authorization" not in http_request.headers:
            return _error(*_REFUSALS[CarrierAnswer.UNAUTHORISED])
        content = await http_request.body()
        try:
            submission = _Submission.model_validate_json(content)
        except ValidationError as error:
            return _error(400, error.errors()[0]["msg"], ".".join(map(str, error.errors()[0]["loc"])))
        [personalization] = submission.personalizations
        message = OutboundMessage(
            message_id=0,  # the service's own, unknown to a carrier
            channel="email",
            type="email",
            from_address=submission.sender.email,
            to_address=personalization.to[0].email,
            body=submission.content[0].value,
            # A carrier can't tell which argument names the mail, so it takes the first.
            idempotency_key=next(iter(personalization.custom_args.values()), hashlib.sha256(content).hexdigest()),
            subject=submission.subject,
        )
        sink = partial(self._call_back, http_request.state.client, submission, message)
        return await self.answer(http_request, SendRequest(message, id=secrets.token_urlsafe(16), sink=sink))

    async def _call_back(
        self, client: httpx.AsyncClient, submission: _Submission, message: OutboundMessage, item: CallbackItem
    ) -> None:
        if self._webhook is None or self._parse is None:
            return
        if isinstance(item, Receipt):
            body = to_json([_event(item, message, submission.personalizations[0].custom_args)])
            await call_back(client, self._webhook, body, {"Content-Type": "application/json", **self._signed(body)})
        else:
            form = _parsed_mail(item, in_reply_to=submission.headers.get("Message-ID"))
            request = client.build_request("POST", self._parse, files={name: (None, form[name]) for name in form})
            headers = {"Content-Type": request.headers["content-type"]}
            await call_back(client, self._parse, await request.aread(), headers)

    def _signed(self, body: bytes) -> dict[str, str]:
        timestamp = str(int(time.time()))
        signature = self._key.sign(timestamp.encode() + body, ECDSA(SHA256()))
        return {
            "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
            "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
        }


def _error(status: int, message: str, field: str | None = None) -> JSONResponse:
    return JSONResponse({"errors": [{"message": message, "field": field, "help": None}]}, status)


def _event(receipt: Receipt, message: OutboundMessage, custom_args: dict[str, str]) -> dict[str, object]:
    assert receipt.status is not None
    assert receipt.occurred_at is not None
    return {
        "email": message.to_address,
        "timestamp": int(receipt.occurred_at.timestamp()),
        "sg_event_id": hashlib.sha256(receipt.event_id.encode()).hexdigest()[:32],
        "sg_message_id": f"{receipt.provider_message_id}.recvd-simulator-1-0",
        **_EVENTS[receipt.status],
        **custom_args,
    }


def _parsed_mail(message: InboundMessage, *, in_reply_to: str | None) -> dict[str, str]:
    """The form of Inbound Parse."""
    headers = [
        f"From: {message.from_address}",
        f"To: {message.to_address}",
        f"Subject: {message.subject or ''}",
        f"Message-ID: <{message.provider_message_id}@simulator.test>",
        *([f"In-Reply-To: {in_reply_to}"] if in_reply_to else []),
    ]
    return {
        "headers": "\n".join(headers) + "\n",
        "from": message.from_address,
        "to": message.to_address,
        "subject": message.subject or "",
        "text": message.body,
        "envelope": json.dumps({"to": [message.to_address], "from": message.from_address}),
        "charsets": json.dumps({"to": "UTF-8", "from": "UTF-8", "subject": "UTF-8", "text": "UTF-8"}),
        "attachments": "0",
        "sender_ip": "127.0.0.1",
        "SPF": "pass",
        "dkim": "{@simulator.test : pass}",
        "spam_score": "0.1",
    }
