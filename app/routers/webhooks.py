"""What providers hand over. Answered after the commit; a repeat stores nothing and is answered the same."""

from http import HTTPStatus

from fastapi import APIRouter, Request

from app.addresses import InvalidAddress
from app.dependencies import message_service
from app.errors import InvalidRequest, ProviderNotFound
from app.providers.registry import provider_registry
from app.routers.hot import HotRoute
from app.routers.problems import responses
from app.schemas import EmailInbound, SmsInbound, WebhookAccepted

_ERRORS = responses(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
hot = APIRouter(prefix="/api/webhooks", tags=["webhooks"], route_class=HotRoute, responses=_ERRORS)
router = APIRouter(prefix="/api/webhooks", tags=["webhooks"], responses=_ERRORS)


@hot.post("/sms", response_model=WebhookAccepted)
async def receive_sms(message: SmsInbound, request: Request) -> WebhookAccepted:
    """A text or media message came in. Stored exactly once per `messaging_provider_id`."""
    await message_service(request).accept(message.new_message())
    return WebhookAccepted()


@hot.post("/email", response_model=WebhookAccepted)
async def receive_email(message: EmailInbound, request: Request) -> WebhookAccepted:
    """A mail came in. Stored exactly once per `xillio_id`."""
    await message_service(request).accept(message.new_message())
    return WebhookAccepted()


@router.post("/{provider}", responses=responses(HTTPStatus.NOT_FOUND))
async def receive_callback(provider: str, request: Request) -> WebhookAccepted:
    """What a provider calls back with, in its own format: receipts, and messages that came in. Each is kept once."""
    vendor = provider_registry.get(provider)
    if vendor is None:
        raise ProviderNotFound("There is no provider of this name.")
    try:
        events = vendor.parse(request.headers, await request.body())
        await request.app.state.services.provider_events.accept(provider, *events)
    except NotImplementedError:
        raise ProviderNotFound("This provider does not call back.") from None
    except (InvalidAddress, ValueError) as error:
        raise InvalidRequest("This is not a callback of this provider.") from error
    return WebhookAccepted()
