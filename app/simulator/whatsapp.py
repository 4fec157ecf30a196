"""The simulator as WhatsApp's Cloud API: messages to send, statuses, and messages that come in.

https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/send-messages
https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/overview
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.domain import MessageStatus
from app.providers.base import CallbackItem, OutboundMessage, Receipt
from app.providers.simulated.script import Reply
from app.providers.toolbox.verification import first_secret
from app.providers.whatsapp import WhatsappSettings
from app.simulator.carrier import Order
from app.simulator.ledger import Entry
from app.simulator.wire import WireFormat, call

_REFUSALS = {
    Reply.THROTTLED: (429, 130429, "Rate limit hit"),
    Reply.ERROR: (500, 131000, "Something went wrong"),
    Reply.REFUSED: (400, 131026, "Message undeliverable"),
    Reply.UNAUTHORISED: (401, 190, "Access token has expired"),
}
#: WhatsApp has no word for what is only queued.
_STATUSES = {MessageStatus.SENT: "sent", MessageStatus.DELIVERED: "delivered", MessageStatus.UNDELIVERED: "failed"}
_UNDELIVERABLE = {"code": 131026, "title": "Message undeliverable"}


class _Words(BaseModel):
    body: str


class _Submission(BaseModel):
    """The body of POST /messages: a text, or whatever else, which is taken as it is."""

    messaging_product: str
    to: str
    type: str = "text"
    text: _Words | None = None
    biz_opaque_callback_data: str | None = None


class WhatsappFormat(WireFormat):
    """Any account. Statuses and messages that come in go to `webhook`, if there is one.

    A number's id is that of WHATSAPP_PHONE_NUMBER_IDS, and otherwise stands for the number too. Calls are signed with
    the first WHATSAPP_APP_SECRET, and not at all where there is none.
    """

    def __init__(self, settings: WhatsappSettings, webhook: str | None) -> None:
        self._webhook = webhook
        self._secret = first_secret(settings.app_secret).encode()
        self._numbers = {id_: number for number, id_ in settings.phone_number_ids.items()}

    def routes(self) -> Sequence[Route]:
        return [Route("/{version}/{phone_number_id:int}/messages", self._submit, methods=["POST"])]

    def accepted(self, order: Order, entry: Entry) -> Response:
        number = entry.to.removeprefix("+")
        return JSONResponse(
            {
                "messaging_product": "whatsapp",
                "contacts": [{"input": number, "wa_id": number}],
                "messages": [{"id": order.id}],
            }
        )

    def refused(self, reply: Reply, entry: Entry) -> Response:
        return _error(*_REFUSALS[reply])

    async def _submit(self, request: Request) -> Response:
        if "authorization" not in request.headers:
            return _error(*_REFUSALS[Reply.UNAUTHORISED])
        content = await request.body()
        try:
            submission = _Submission.model_validate_json(content)
        except ValidationError:
            return _error(400, 100, "Invalid parameter")
        number_id = str(request.path_params["phone_number_id"])
        message = OutboundMessage(
            message_id=0,  # the service's own, which a carrier never learns
            channel="whatsapp",
            type="whatsapp",
            from_address=self._numbers.get(number_id, f"+{number_id}"),
            to_address=f"+{submission.to.removeprefix('+')}",
            body=submission.text.body if submission.text else "",
            idempotency_key=submission.biz_opaque_callback_data or hashlib.sha256(content).hexdigest(),
        )
        sink = partial(self._call_back, request.state.client, number_id, submission.biz_opaque_callback_data, message)
        return await self.answer(request, Order(message, id=_wamid(uuid4().hex), sink=sink))

    async def _call_back(
        self,
        client: httpx.AsyncClient,
        number_id: str,
        reference: str | None,
        message: OutboundMessage,
        event: CallbackItem,
    ) -> None:
        if self._webhook is None:
            return
        if isinstance(event, Receipt):
            if event.status not in _STATUSES:
                return
            said = {"statuses": [_status(event, message, reference)]}
        else:
            said = {
                "contacts": [{"wa_id": event.from_address.lstrip("+"), "profile": {"name": "Simulated"}}],
                "messages": [
                    {
                        "id": _wamid(event.provider_message_id),
                        "from": event.from_address.lstrip("+"),
                        "timestamp": _seconds(event),
                        "type": "text",
                        "text": {"body": event.body},
                    }
                ],
            }
        metadata = {"display_phone_number": message.from_address.lstrip("+"), "phone_number_id": number_id}
        value = {"messaging_product": "whatsapp", "metadata": metadata, **said}
        entry = {"id": "0", "changes": [{"field": "messages", "value": value}]}
        body = to_json({"object": "whatsapp_business_account", "entry": [entry]})
        headers = {"Content-Type": "application/json"}
        if self._secret:
            headers["X-Hub-Signature-256"] = f"sha256={hmac.new(self._secret, body, hashlib.sha256).hexdigest()}"
        await call(client, self._webhook, body, headers)


def _error(status: int, code: int, message: str) -> JSONResponse:
    said = {"message": f"(#{code}) {message}", "type": "OAuthException", "code": code, "fbtrace_id": "simulator"}
    return JSONResponse({"error": said}, status)


def _wamid(name: str) -> str:
    return f"wamid.{base64.b64encode(name.encode()).decode()}"


def _seconds(event: CallbackItem) -> str:
    at = event.occurred_at if isinstance(event, Receipt) else event.sent_at
    assert at is not None
    return str(int(at.timestamp()))


def _status(receipt: Receipt, message: OutboundMessage, reference: str | None) -> dict[str, Any]:
    assert receipt.status is not None
    status: dict[str, Any] = {
        "id": receipt.provider_message_id,
        "status": _STATUSES[receipt.status],
        "timestamp": _seconds(receipt),
        "recipient_id": message.to_address.lstrip("+"),
    }
    if reference:
        status["biz_opaque_callback_data"] = reference
    if receipt.status is MessageStatus.UNDELIVERED:
        status["errors"] = [_UNDELIVERABLE]
    return status
