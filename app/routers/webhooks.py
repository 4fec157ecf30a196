"""What providers hand over. Answered after the commit; a repeat stores nothing and is answered the same."""

from http import HTTPStatus

from fastapi import APIRouter, Request

from app.dependencies import message_service
from app.routers.hot import HotRoute
from app.routers.problems import responses
from app.schemas import EmailInbound, SmsInbound, WebhookAccepted

hot = APIRouter(
    prefix="/api/webhooks",
    tags=["webhooks"],
    route_class=HotRoute,
    responses=responses(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ),
)


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
