"""Callbacks and inbound messages of providers. They are answered after the commit, and a duplicate alike."""

from dataclasses import replace
from typing import Any

import structlog
from fastapi import APIRouter, Request, Response
from starlette.types import Message, Receive, Scope, Send

from app.dependencies import services_of
from app.errors import InvalidRequest, NotVerifiable, SignatureRefused, UnsupportedMediaType
from app.http.access import client_address
from app.http.body_budget import BodyBudget
from app.http.hot_route import HotRoute, whole_body
from app.http.problems import responses
from app.http.standard_webhooks import must_be_signed
from app.providers.base import Callback, CallbackRefused, CallbackUnverifiable
from app.providers.toolbox.json_documents import mended
from app.schemas.receiving import EmailInbound, SmsInbound, WebhookAccepted
from app.services.callbacks.service import provider_of
from app.services.limits.failed_keys import address_block

log = structlog.get_logger(__name__)

_ERRORS = responses(413, 415, 422, 503)


class SignedRoute(HotRoute):
    """A hot route that checks the signature before it parses the body, where there is a `WEBHOOK_SECRET`.

    A provider can't correct what it hands over, so one bad character costs no more than itself.
    """

    def read(self, content: bytes, context: dict[str, Any]) -> Any:
        try:
            return super().read(content, context)
        except (InvalidRequest, UnsupportedMediaType):
            if (better := mended(content)) == content:
                raise
            return super().read(better, context)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["app"].state
        if state.webhook_keys:
            request = Request(scope, receive)
            body = await whole_body(receive)
            try:
                must_be_signed(request.headers, body, state.webhook_keys)
            except SignatureRefused:
                client = client_address(request.scope)
                state.services.refusals.refused("signature_refused", client=client, path=scope["path"])
                raise
            receive = _replayed(body)
        await super().serve(scope, receive, send)


#: Bytes of large callbacks: enough for some mails of 30 MB. Parsing takes two or three times as much memory. What
#: strangers leave is enough for a mail of an authenticated provider.
_large_bodies = BodyBudget(150_000_000, of_one=50_000_000, of_strangers=100_000_000)


def _replayed(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


hot = APIRouter(
    prefix="/api/webhooks", tags=["webhooks"], route_class=SignedRoute, responses=_ERRORS | responses(401)
)
router = APIRouter(prefix="/api/webhooks", tags=["webhooks"], responses=_ERRORS)


@hot.post("/sms", response_model=WebhookAccepted)
async def receive_sms(message: SmsInbound, request: Request) -> WebhookAccepted:
    """A text or media message came in. Stored exactly once per `messaging_provider_id`."""
    return await _accepted(message, request)


@hot.post("/email", response_model=WebhookAccepted)
async def receive_email(message: EmailInbound, request: Request) -> WebhookAccepted:
    """A mail came in. Stored exactly once per `xillio_id`."""
    return await _accepted(message, request)


async def _accepted(message: SmsInbound | EmailInbound, request: Request) -> WebhookAccepted:
    """Store a message for the tenant that owns the address it was sent to, which its sender can't choose."""
    services = services_of(request)
    await services.messages.accept(message.new_message(await services.addresses.tenant_of(message.to)))
    return WebhookAccepted()


_CALLBACK: dict[str, Any] = {
    "response_model": WebhookAccepted,
    "response_description": "Stored, now or before. Some providers get a reply in a format of their own.",
    "responses": responses(401, 404),
}


@router.get("/{provider}", **_CALLBACK)
async def confirm_callback(provider: str, request: Request) -> Response:
    """A provider's check that we are there, before it sends callbacks."""
    return await receive_callback(provider, request)


@router.post("/{provider}", **_CALLBACK)
async def receive_callback(provider: str, request: Request) -> Response:
    """A callback in the provider's own format: receipts or inbound messages.

    Each receipt and message is stored once. A genuine callback that can't be parsed is kept as it came and answered
    like any other.
    """
    vendor = provider_of(provider)
    services = services_of(request)
    client = client_address(request.scope)
    head = Callback(request.method, _called_at(request), _headers_of(request), b"")

    def sender() -> str | None:
        return None if vendor.is_known_by_head(head) else address_block(client)

    with _large_bodies.metered(request.receive, sender) as receive:
        try:
            callback = replace(head, body=await whole_body(receive))
            reply = await services.callbacks.receive(provider, callback)
        except CallbackRefused as refusal:
            services.refusals.refused(
                "signature_refused",
                client=client,
                path=request.scope["path"],
                reason=str(refusal),
                seen=refusal.seen,
                expected=refusal.expected,
            )
            raise SignatureRefused(
                "This is not a call of this provider: its signature is missing, wrong, or out of date."
            ) from None
        except CallbackUnverifiable as trouble:
            log.error("callback_unverifiable", provider=provider, reason=str(trouble))
            raise NotVerifiable("Whether this is a call of this provider can't be told just now.") from None
    return Response(reply.content, reply.status, media_type=reply.media_type)


def _called_at(request: Request) -> str:
    """The address as the provider wrote it, still escaped, because its signature may cover it.

    Scheme and host are those of PUBLIC_URL, if set, and else those of the request.
    """
    path: str = request.scope["raw_path"].decode("latin-1")
    query = request.scope["query_string"].decode("latin-1")
    origin = request.app.state.settings.public_url or f"{request.url.scheme}://{request.url.netloc}"
    return f"{origin.rstrip('/')}{path}?{query}".removesuffix("?")


def _headers_of(request: Request) -> list[tuple[str, str]]:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in request.scope["headers"]]
