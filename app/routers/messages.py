"""Sending, and what became of what was sent."""

from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app.dependencies import Id, MessagesDep, TenantDep, message_service, preferred_wait
from app.models import Message
from app.routers.hot import HotRoute
from app.routers.problems import responses
from app.schemas import EmailSend, MessageDetail, SendAccepted, SmsSend

_PREFER = {
    "parameters": [
        {
            "name": "Prefer",
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "`wait=N` waits up to N seconds for the provider's id (RFC 7240).",
            "example": "wait=5",
        }
    ]
}
_SEND_ERRORS = responses(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)

hot = APIRouter(prefix="/api/messages", tags=["messages"], route_class=HotRoute, responses=_SEND_ERRORS)
router = APIRouter(prefix="/api/messages", tags=["messages"])


@hot.post("/sms", response_model=SendAccepted, openapi_extra=_PREFER)
async def send_sms(message: SmsSend, request: Request) -> SendAccepted | Response:
    """Send a text or a media message. Answered once it is durably stored."""
    return await _send(message, request)


@hot.post("/email", response_model=SendAccepted, openapi_extra=_PREFER)
async def send_email(message: EmailSend, request: Request) -> SendAccepted | Response:
    """Send a mail. Answered once it is durably stored."""
    return await _send(message, request)


async def _send(message: SmsSend | EmailSend, request: Request) -> SendAccepted | Response:
    service = message_service(request)
    new = message.new_message()
    stored = await service.accept(new)
    answer = SendAccepted(message_id=str(stored.id), provider_message_id=None, conversation_id=stored.conversation_id)
    seconds = preferred_wait(request)
    if not seconds:
        return answer
    answer.provider_message_id = await service.provider_message_id(new.tenant_id, stored.id, wait_seconds=seconds)
    return JSONResponse(answer.model_dump(), headers={"Preference-Applied": f"wait={seconds}"})


@router.get(
    "/{message_id}",
    response_model=MessageDetail,
    responses=responses(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_message(message_id: Id, service: MessagesDep, tenant: TenantDep) -> Message:
    """A message, its status, and every attempt to deliver it."""
    return await service.detail(tenant, message_id)
