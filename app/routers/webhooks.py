"""What providers hand over. Answered after the commit; a repeat stores nothing and is answered the same."""

from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.types import Message, Receive, Scope, Send

from app.addresses import InvalidAddress
from app.assembly import Services
from app.errors import InvalidRequest, ProviderNotFound, SignatureRefused
from app.providers.base import Callback
from app.providers.registry import provider_registry
from app.routers.hot import HotRoute, whole_body
from app.routers.problems import responses
from app.routers.webhook_signature import must_be_signed
from app.schemas import EmailInbound, SmsInbound, WebhookAccepted

_ERRORS = responses(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


class SignedRoute(HotRoute):
    """A hot route that, where there is a `WEBHOOK_SECRET`, looks at the signature before it reads anything else."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["app"].state
        if state.webhook_keys:
            request = Request(scope, receive)
            body = await whole_body(receive)
            try:
                must_be_signed(request.headers, body, state.webhook_keys)
            except SignatureRefused:
                client = request.client.host if request.client else None
                state.services.refusals.refused("signature_refused", client=client, path=scope["path"])
                raise
            receive = _again(body)
        await super().serve(scope, receive, send)


def _again(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


hot = APIRouter(
    prefix="/api/webhooks",
    tags=["webhooks"],
    route_class=SignedRoute,
    responses=_ERRORS | responses(HTTPStatus.UNAUTHORIZED),
)
router = APIRouter(prefix="/api/webhooks", tags=["webhooks"], responses=_ERRORS)


@hot.post("/sms", response_model=WebhookAccepted)
async def receive_sms(message: SmsInbound, request: Request) -> WebhookAccepted:
    """A text or media message came in. Stored exactly once per `messaging_provider_id`."""
    await _accept(message, request)
    return WebhookAccepted()


@hot.post("/email", response_model=WebhookAccepted)
async def receive_email(message: EmailInbound, request: Request) -> WebhookAccepted:
    """A mail came in. Stored exactly once per `xillio_id`."""
    await _accept(message, request)
    return WebhookAccepted()


async def _accept(message: SmsInbound | EmailInbound, request: Request) -> None:
    """Whose it is says the address that it was sent to, which the one who sends it can't claim as its own."""
    services: Services = request.app.state.services
    await services.messages.accept(message.new_message(await services.addresses.tenant_of(message.to)))


@router.post("/{provider}", responses=responses(HTTPStatus.NOT_FOUND))
async def receive_callback(provider: str, request: Request) -> WebhookAccepted:
    """What a provider calls back with, in its own format: receipts, and messages that came in. Each is kept once."""
    vendor = provider_registry.get(provider)
    if vendor is None:
        raise ProviderNotFound("There is no provider of this name.")
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.scope["headers"]]
    callback = Callback(request.method, str(request.url), headers, await request.body())
    try:
        vendor.verify(callback)
        events = vendor.parse(callback)
        await request.app.state.services.provider_events.accept(provider, *events)
    except NotImplementedError:
        raise ProviderNotFound("This provider does not call back.") from None
    except (InvalidAddress, ValueError) as error:
        raise InvalidRequest("This is not a callback of this provider.") from error
    return WebhookAccepted()
