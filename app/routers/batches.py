"""Batches: many messages in one request, one on each line."""

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from app.batches import Priority
from app.db.engine import is_unavailable
from app.dependencies import Id, PagesDep, TenantDep, services_of
from app.domain import WAITING, NewMessage
from app.errors import FieldError, InvalidRequest, ServiceError
from app.http.access import client_address
from app.http.json_body import read_json
from app.http.json_lines import Lines, LineStream, must_be_json_lines
from app.http.problems import responses
from app.installation import KeyScope
from app.routers.messages import IDEMPOTENCY_KEY, channel_context, idempotency_key
from app.schemas.batches import (
    BatchDetail,
    BatchLine,
    BatchSummary,
    BatchView,
    LineAccepted,
    LineChannel,
    LineRefused,
    LineUnavailable,
)
from app.schemas.fields import Topic, Words
from app.schemas.sending import ChannelSend, EmailSend, send_of
from app.schemas.views import FieldProblem, PriorityWord
from app.services.batches.receiving import Accepted, LineResult, Receiver, Refused, Sender
from app.services.batches.service import BatchService, Progress
from app.services.batches.store import NewBatch

router = APIRouter(prefix="/api/batches", tags=["batches"], responses=responses(422, 503))

_CHANNEL: Any = LineChannel.__pydantic_validator__
_NEEDS_KEY = FieldError("header.Idempotency-Key", "a batch needs one, so that it can be sent again after a cut")
_ONE_RECIPIENT = FieldError("body.to", "a line of a batch has one recipient; write a line for each")
_EXAMPLE = (
    '{"channel":"sms","from":"+12016661234","to":"+18045551234","type":"sms","body":"Hello!"}\n'
    '{"channel":"email","from":"user@example.com","to":"contact@example.com","body":"Hello!"}\n'
)
_LINES: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": True,
            "schema": {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY.pattern}$"},
            "description": "The name of the batch for you. The same key with the same lines stores nothing twice.",
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string", "description": "On each line what a send takes, and its `channel`."},
                "example": _EXAMPLE,
            }
        },
    },
}
_RESULTS: dict[int | str, dict[str, Any]] = {
    "200": {
        "description": "For each line a `LineAccepted`, `LineRefused` or `LineUnavailable`, and a `BatchSummary`",
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
    }
}


@router.post("", responses=_RESULTS | responses(413, 415), openapi_extra=_LINES, response_class=Response)
async def create_batch(
    request: Request,
    tenant: TenantDep,
    name: Annotated[Words | None, Query(max_length=200, description="For people.")] = None,
    priority: Annotated[PriorityWord, Query(description="Of lines that name none.")] = "bulk",
    topic: Annotated[Topic | None, Query(description="Of lines that name none.")] = None,
) -> Response:
    """Send up to 100,000 messages, one on each line, each judged as a single send.

    The answer has a line for each, in order, as soon as it is stored, and a summary. Unless that says `complete`,
    send the same lines with the same key again: what is stored is not stored twice.
    """
    must_be_json_lines(request.scope)
    key = idempotency_key(request)
    if key is None:
        raise InvalidRequest("A batch needs the header Idempotency-Key.", errors=[_NEEDS_KEY])
    service, access = services_of(request).batches, request.state.access
    batch, is_known = await service.open(tenant, NewBatch(key, name, Priority.of(priority), topic))
    sender = Sender(access.prefix, client_address(request.scope), KeyScope.SERVICE in access.scopes, access.name)
    read = partial(_message, request, tenant)

    async def answer(lines: Lines) -> AsyncIterator[bytes]:
        with service.receiving(batch, sender, read) as receiver:
            async for piece in _answered(service, receiver, lines):
                yield piece

    headers = {"Location": f"/api/batches/{batch.id}"} | ({"Idempotent-Replayed": "true"} if is_known else {})
    return LineStream(answer, longest=request.app.state.settings.max_body_bytes, headers=headers)


async def _answered(service: BatchService, receiver: Receiver, lines: Lines) -> AsyncIterator[bytes]:
    try:
        async for result in receiver.results(lines):
            yield _line(_shown(result))
        if not receiver.summary.interrupted:
            await service.complete(receiver)
    except ServiceError as error:  # the body is too large, or the end could not be noted
        receiver.stop(error.detail)
    except Exception as error:
        if not is_unavailable(error):
            raise
        receiver.stop("The database could not be reached at the end. Send the same lines with the same key again.")
    summary = receiver.summary
    yield _line(
        BatchSummary(
            batch_id=receiver.batch.id,
            status="interrupted" if summary.interrupted else "complete",
            accepted=summary.accepted,
            refused=summary.refused,
            detail=summary.interrupted,
        )
    )


def _message(request: Request, tenant: int, line: bytes) -> NewMessage:
    """The message on a line. Raises what the route of its channel would."""
    settings = request.app.state.settings
    channel: str = read_json(line, _CHANNEL).channel
    context = request.app.state.reading_context | channel_context(settings, channel)
    validator: Any = send_of(channel).__pydantic_validator__
    send = read_json(line, validator, context)
    if isinstance(send, EmailSend) and len(send.recipients) > 1:
        raise InvalidRequest("A line is one message.", errors=[_ONE_RECIPIENT])
    key = "of the line"  # lets it make a fingerprint
    if isinstance(send, ChannelSend):
        message = send.new_message(channel, tenant, key)
    else:
        message = send.new_message(tenant, key)
    return replace(message, fingerprint=f"{channel} {message.fingerprint}")


def _shown(result: LineResult) -> BaseModel:
    if isinstance(result, Accepted):
        return LineAccepted(
            line=result.line, message_id=str(result.message_id), conversation_id=result.conversation_id
        )
    if isinstance(result, Refused):
        errors = [FieldProblem(location=each.location, message=each.message) for each in result.errors]
        return LineRefused(line=result.line, errors=errors)
    return LineUnavailable(line=result.line)


def _line(content: BaseModel) -> bytes:
    return content.model_dump_json().encode() + b"\n"


@router.get("")
async def list_batches(request: Request, tenant: TenantDep, pages: PagesDep) -> list[BatchView]:
    """Batches, the newest first."""
    page = await services_of(request).batches.page(tenant, limit=pages.limit, cursor=pages.cursor)
    return [BatchView.model_validate(each) for each in pages.linked(page)]


@router.get("/{batch_id}", responses=responses(404))
async def get_batch(batch_id: Id, request: Request, tenant: TenantDep) -> BatchDetail:
    """A batch, and how far its messages are."""
    return _detail(await services_of(request).batches.progress(tenant, batch_id))


@router.get("/{batch_id}/results", responses=responses(404))
async def list_batch_results(batch_id: Id, request: Request, tenant: TenantDep, pages: PagesDep) -> list[BatchLine]:
    """The messages of a batch in the order of its lines, each with its status."""
    page = await services_of(request).batches.lines(tenant, batch_id, limit=pages.limit, cursor=pages.cursor)
    return [BatchLine.model_validate(each) for each in pages.linked(page)]


@router.post("/{batch_id}/pause", responses=responses(404, 409))
async def pause_batch(batch_id: Id, request: Request, tenant: TenantDep) -> BatchDetail:
    """Hold the messages of a batch that have not left, and the lines that are still to come."""
    return _detail(await services_of(request).batches.pause(tenant, batch_id))


@router.post("/{batch_id}/resume", responses=responses(404, 409))
async def resume_batch(batch_id: Id, request: Request, tenant: TenantDep) -> BatchDetail:
    """Let the messages of a paused batch leave. Scheduled ones keep their time."""
    return _detail(await services_of(request).batches.resume(tenant, batch_id))


@router.post("/{batch_id}/cancel", responses=responses(404))
async def cancel_batch(batch_id: Id, request: Request, tenant: TenantDep) -> BatchDetail:
    """Cancel the messages of a batch that have not left, and refuse further lines."""
    return _detail(await services_of(request).batches.cancel(tenant, batch_id))


def _detail(progress: Progress) -> BatchDetail:
    statuses = progress.statuses
    shown = BatchView.model_validate(progress.batch).model_dump()
    waiting = sum(statuses.get(status, 0) for status in WAITING)
    return BatchDetail(**shown, accepted=sum(statuses.values()), waiting=waiting, statuses=dict(statuses))
