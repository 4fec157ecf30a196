"""The simulator as WhatsApp's Cloud API: sending, statuses and inbound messages.

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
from app.providers.simulated.script import CarrierAnswer
from app.providers.toolbox.verification import first_secret
from app.providers.whatsapp import WhatsappSettings
from app.simulator.carrier import SendRequest
from app.simulator.ledger import Entry
from app.simulator.wire import WireFormat, call_back

_REFUSALS = {
    CarrierAnswer.THROTTLED: (429, 130429, "Rate limit hit"),
    CarrierAnswer.ERROR: (500, 1, "An unknown error occurred"),
    CarrierAnswer.REFUSED: (400, 131026, "Message undeliverable"),
    CarrierAnswer.UNAUTHORISED: (401, 190, "Access token has expired"),
}
#: WhatsApp has no status for queued messages.
_STATUSES = {MessageStatus.SENT: "sent", MessageStatus.DELIVERED: "delivered", MessageStatus.UNDELIVERED: "failed"}
_UNDELIVERABLE = {"code": 131026, "title": "Message undeliverable"}


class _Text(BaseModel):
    body: str


class _Submission(BaseModel):
    """The body of POST /messages. Types other than text are accepted unread."""

    messaging_product: str
    to: str
    type: str = "text"
    text: _Text | None = None
    biz_opaque_callback_data: str | None = None


class WhatsappFormat(WireFormat):
    """Any account. Statuses and inbound messages go to `webhook`, if it is set.

    Numbers have their ids from WHATSAPP_PHONE_NUMBER_IDS; any other id stands for the number itself. Callbacks are
    signed with the first WHATSAPP_APP_SECRET, or unsigned without one.
    """

    def __init__(self, settings: WhatsappSettings, webhook: str | None) -> None:
        self._webhook = webhook
        self._secret = first_secret(settings.app_secret).encode()
        self._numbers = {id_: number for number, id_ in settings.phone_number_ids.items()}

    def routes(self) -> Sequence[Route]:
        return [Route("/{version}/{phone_number_id:int}/messages", self._submit, methods=["POST"])]

    def accepted(self, request: SendRequest, entry: Entry) -> Response:
        number = entry.to.removeprefix("+")
        return JSONResponse(
            {
                "messaging_product": "whatsapp",
                "contacts": [{"input": number, "wa_id": number}],
                "messages": [{"id": request.id}],
            }
        )

    def refused(self, answer: CarrierAnswer, entry: Entry) -> Response:
        return _error(*_REFUSALS[answer])

    async def _submit(self, http_request: Request) -> Response:
        if "authorization" not in http_request.headers:
            return _error(*_REFUSALS[CarrierAnswer.UNAUTHORISED])
        content = await http_request.body()
        try:
            submission = _Submission.model_validate_json(content)
        except ValidationError:
            return _error(400, 100, "Invalid parameter")
        number_id = str(http_request.path_params["phone_number_id"])
        reference = submission.biz_opaque_callback_data
        message = OutboundMessage(
            message_id=0,  # the service's own, unknown to a carrier
            channel="whatsapp",
            type="whatsapp",
            from_address=self._numbers.get(number_id, f"+{number_id}"),
            to_address=f"+{submission.to.removeprefix('+')}",
            body=submission.text.body if submission.text else "",
            idempotency_key=reference or hashlib.sha256(content).hexdigest(),
        )
        sink = partial(self._call_back, http_request.state.client, number_id, reference, message)
        return await self.answer(http_request, SendRequest(message, id=_wamid(uuid4().hex), sink=sink))

    async def _call_back(
        self,
        client: httpx.AsyncClient,
        number_id: str,
        reference: str | None,
        message: OutboundMessage,
        item: CallbackItem,
    ) -> None:
        if self._webhook is None:
            return
        if isinstance(item, Receipt):
            if item.status not in _STATUSES:
                return
            content = {"statuses": [_status(item, message, reference)]}
        else:
            content = {
                "contacts": [{"wa_id": item.from_address.lstrip("+"), "profile": {"name": "Simulated"}}],
                "messages": [
                    {
                        "id": _wamid(item.provider_message_id),
                        "from": item.from_address.lstrip("+"),
                        "timestamp": _seconds(item),
                        "type": "text",
                        "text": {"body": item.body},
                    }
                ],
            }
        metadata = {"display_phone_number": message.from_address.lstrip("+"), "phone_number_id": number_id}
        value = {"messaging_product": "whatsapp", "metadata": metadata, **content}
        entry = {"id": "0", "changes": [{"field": "messages", "value": value}]}
        body = to_json({"object": "whatsapp_business_account", "entry": [entry]})
        headers = {"Content-Type": "application/json"}
        if self._secret:
            headers["X-Hub-Signature-256"] = f"sha256={hmac.new(self._secret, body, hashlib.sha256).hexdigest()}"
        await call_back(client, self._webhook, body, headers)


def _error(status: int, code: int, message: str) -> JSONResponse:
    error = {"message": f"(#{code}) {message}", "type": "OAuthException", "code": code, "fbtrace_id": "simulator"}
    return JSONResponse({"error": error}, status)


def _wamid(name: str) -> str:
    return f"wamid.{base64.b64encode(name.encode()).decode()}"


def _seconds(item: CallbackItem) -> str:
    at = item.occurred_at if isinstance(item, Receipt) else item.sent_at
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
