"""The carrier simulator as a vendor: a client for `python -m app simulate` (docs/simulator.md)."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import httpx
from pydantic import Field, TypeAdapter, ValidationError

from app.domain import MessageStatus
from app.providers import base
from app.providers.simulated.behaviours import SimulatorSettings
from app.providers.toolbox.http_client import HttpProvider, outcome_of, reason_in
from app.providers.toolbox.models import EventTime, VendorId, VendorModel

STATUSES = {
    "queued": MessageStatus.QUEUED,
    "sent": MessageStatus.SENT,
    "delivered": MessageStatus.DELIVERED,
    "undelivered": MessageStatus.UNDELIVERED,
}


class _Message(VendorModel):
    id: VendorId


class _Found(VendorModel):
    """The answer to GET /messages?reference=."""

    messages: list[_Message]


class _ReceiptBody(VendorModel, validate_by_name=True):
    event_id: VendorId
    status: str
    provider_message_id: VendorId | None = Field(None, alias="id")
    idempotency_key: VendorId | None = Field(None, alias="reference")
    detail: str | None = None
    occurred_at: EventTime = None


class MessageBody(VendorModel, validate_by_name=True):
    """A message in either direction."""

    channel: str
    type: str
    from_address: str = Field(alias="from")
    to_address: str = Field(alias="to")
    body: str
    subject: str | None = None
    attachments: list[str] = Field(default_factory=list)


class _InboundBody(MessageBody):
    provider_message_id: VendorId = Field(alias="id")
    sent_at: EventTime = None


_CALLBACK = TypeAdapter(list[dict[str, Any]])


class SimulatorProvider(HttpProvider[SimulatorSettings]):
    """A client of the carrier simulator at `SIMULATOR_URL`. `close` it; a `client` from outside stays open."""

    channels: ClassVar = {"sms": "phone", "email": "email"}
    simulated: ClassVar[bool] = True
    takes_mail_fields: ClassVar = True
    receipts_carry_key: ClassVar = True

    def __init__(self, client: httpx.AsyncClient | None = None, settings: SimulatorSettings | None = None) -> None:
        settings = settings or SimulatorSettings()
        super().__init__(settings, client)
        self._url = httpx.URL(f"{(settings.url or '').rstrip('/')}/messages")  # parsed once, not for every message
        self.honours_idempotency_key = settings.honours_idempotency_key

    async def send(self, payload: base.OutboundMessage) -> base.ProviderResult:
        headers = {"Idempotency-Key": payload.idempotency_key}
        submission = {
            "channel": payload.channel,
            "type": payload.type,
            "from": payload.from_address,
            "to": payload.to_address,
            "body": payload.body,
            "subject": payload.subject,
            "attachments": payload.attachments,
            "reference": payload.idempotency_key,
            **({"mail": asdict(payload.mail)} if payload.mail.change_the_mail else {}),
        }
        request = self.client.build_request("POST", self._url, json=submission, headers=headers)
        return base.ProviderResult(await self.submit(request, "id", failure=_failure))

    async def look_up(self, payload: base.OutboundMessage) -> base.ProviderResult | None:
        """As `BaseProvider` promises. Raises `TemporaryFailure` where the simulator gives no usable answer."""
        request = self.client.build_request("GET", self._url, params={"reference": payload.idempotency_key})
        try:
            response = await self.answer(request, _failure)
            found = _Found.model_validate_json(response.content)
        except (base.UnknownOutcome, base.PermanentFailure, ValidationError) as error:
            # It is about the look-up, not about the message.
            raise base.TemporaryFailure(f"The look-up failed: {error}") from error
        return base.ProviderResult(found.messages[0].id) if found.messages else None

    def verify(self, callback: base.Callback) -> None:
        """Nothing is signed: it is a simulator."""

    def parse(self, callback: base.Callback) -> Sequence[base.CallbackItem]:
        """The receipts and messages of a callback, which holds one or a list of them."""
        content = callback.json()
        items = content if isinstance(content, list) else [content]
        return [_item(each) for each in _CALLBACK.validate_python(items)]


def configured() -> SimulatorProvider | None:
    """The provider if SIMULATOR_URL is set; never in production."""
    settings = SimulatorSettings()
    return None if settings.url is None or settings.in_production else SimulatorProvider(settings=settings)


def callback_body(item: base.CallbackItem) -> dict[str, object]:
    """The JSON that the simulator posts for a receipt or message, and that `parse` reads."""
    event, body = ("receipt", _ReceiptBody) if isinstance(item, base.Receipt) else ("message", _InboundBody)
    return {"event": event, **body.model_validate(item, from_attributes=True).model_dump(mode="json", by_alias=True)}


def _item(content: dict[str, Any]) -> base.CallbackItem:
    if content.get("event") == "message":
        return base.InboundMessage(**dict(_InboundBody.model_validate(content)))
    receipt = dict(_ReceiptBody.model_validate(content))
    receipt["status"] = STATUSES.get(receipt["status"])
    return base.Receipt(**receipt, raw=content)


def _failure(response: httpx.Response) -> base.ProviderFailure | None:
    return outcome_of(response, reason_in(response, "error"))
