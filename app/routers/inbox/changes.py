"""The changes that forms of the inbox ask for: state, replies, canceling, retrying, and a preview."""

import json
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.dependencies import DemoDep, Id, MessageId, TenantDep
from app.domain import ConversationStatus
from app.errors import FieldError, InvalidRequest
from app.routers.files import received_file
from app.routers.inbox.answers import InboxRoute, back_to, fields_of, html, is_fragment
from app.routers.inbox.pages import thread_values
from app.routers.inbox.sources import Inbox, Reply
from app.routers.inbox.views import item_of, ways_of
from app.routers.messages import IDEMPOTENCY_KEY
from app.routers.preview import preview_message
from app.schemas.files import UploadedFileView
from app.schemas.sending import Preview
from app.services.messages.conversation_state import ConversationChange

router = APIRouter(prefix="/inbox", include_in_schema=False, route_class=InboxRoute)

_STATUSES = [each.value for each in ConversationStatus]
_MOST_TAGS, _LONGEST_TAG = 20, 50
_MORNING = 8  # o'clock, UTC; the script names times of the reader's zone
_LONGEST_SNOOZE = timedelta(days=366)
_LONGEST_UNDO = 30  # seconds


@router.post("/c/{conversation_id}/read")
async def mark_read(conversation_id: Id, request: Request) -> Response:
    """Mark the messages of a conversation as read, up to `up_to`."""
    up_to = (await fields_of(request)).get("up_to", "")
    is_id = up_to.isascii() and up_to.isdecimal() and len(up_to) < 19
    await Inbox(request).read(conversation_id, int(up_to) if is_id else None)
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.post("/c/{conversation_id}/state")
async def change_state(conversation_id: Id, request: Request) -> Response:
    """Change the status, the assignee or the tags of a conversation."""
    inbox, fields = Inbox(request), await fields_of(request)
    await inbox.change(conversation_id, _change(fields, inbox.me))
    if not is_fragment(request):
        return back_to(f"/inbox/c/{conversation_id}")
    values = thread_values(request, await inbox.conversation(conversation_id))
    told = json.dumps({"inbox:changed": {"conversation": conversation_id}})
    return html(request, "head", values, headers={"HX-Trigger": told})


def _change(fields: dict[str, str], me: str) -> ConversationChange:
    """The change that a form asks for. Raises `InvalidRequest`."""
    status = fields.get("status") or None
    if status is not None and status not in _STATUSES:
        raise _invalid("status", f"a status is one of {', '.join(_STATUSES)}")
    until = _until(fields.get("until", ""), datetime.now(UTC)) if status == "snoozed" else None
    assignee = fields.get("assignee")
    if assignee is not None and len(assignee) > 100:
        raise _invalid("assignee", "a name has at most 100 characters")
    tags = None if "tags" not in fields else _tags(fields["tags"])
    return ConversationChange(
        status and ConversationStatus(status),
        until,
        assignee=me if assignee == "me" else assignee or None,
        sets_assignee=assignee is not None,
        tags=tags,
    )


def _until(written: str, now: datetime) -> datetime | None:
    """The time of a preset or of a text; None for `message`, which stands for the next message."""
    morning = now.replace(hour=_MORNING, minute=0, second=0, microsecond=0)
    presets = {
        "message": None,
        "": None,
        "hour": now + timedelta(hours=1),
        "tomorrow": morning + timedelta(days=1),
        "week": morning + timedelta(days=7 - now.weekday()),
    }
    if written in presets:
        return presets[written]
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        raise _invalid("until", "this is not a time") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment <= now:
        raise _invalid("until", "this time has passed")
    if moment - now > _LONGEST_SNOOZE:
        raise _invalid("until", "a conversation is snoozed for at most a year")
    return moment


def _tags(written: str) -> list[str]:
    tags = list(dict.fromkeys(tag for each in written.split(",") if (tag := " ".join(each.split()))))
    if len(tags) > _MOST_TAGS or any(len(tag) > _LONGEST_TAG for tag in tags):
        raise _invalid("tags", f"there are at most {_MOST_TAGS} tags of {_LONGEST_TAG} characters")
    return tags


@router.post("/c/{conversation_id}/messages")
async def send_reply(conversation_id: Id, request: Request) -> Response:
    """Store a reply. Answered with its item once it is durably stored."""
    inbox = Inbox(request)
    fields = await fields_of(request)
    reply = await _reply(inbox, conversation_id, fields)
    stored = await inbox.reply(reply)
    if not is_fragment(request):
        return back_to(f"/inbox/c/{conversation_id}#message-{stored}")
    return html(request, "item", {"item": item_of(await inbox.message(stored))})


@router.post("/files")
async def upload_file(
    request: Request, tenant: TenantDep, name: Annotated[str | None, Query(max_length=255)] = None
) -> Response:
    """Store a file that a reply is to carry. Its path, as JSON, is then among the reply's `attachments`."""
    uploaded = UploadedFileView.model_validate(await received_file(request, tenant, name), from_attributes=True)
    return Response(uploaded.model_dump_json(), media_type="application/json")


@router.post("/preview")
async def preview_reply(request: Request) -> Response:
    """The answer of a preview to what is written so far, as JSON."""
    fields = await fields_of(request)
    reply = await _reply(Inbox(request), _number(fields.get("conversation", "")), fields)
    found = await preview_message(Preview.model_validate({"channel": reply.channel, **reply.fields()}), request)
    return Response(found.model_dump_json(), media_type="application/json")


async def _reply(inbox: Inbox, conversation_id: int, fields: dict[str, str]) -> Reply:
    """The reply that a form describes. Raises `InvalidRequest`, also where there is nothing to answer."""
    messages = (await inbox.messages(conversation_id)).found
    if not messages:
        await inbox.conversation(conversation_id)
    ways = {way.channel: way for way in ways_of(messages)}
    channel = fields.get("channel") or next(iter(ways), "")
    way = ways.get(channel)
    if way is None:
        raise _invalid("channel", "this conversation has no message on that channel to answer")
    key = fields.get("key") or None
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise _invalid("key", "1 to 255 visible ASCII characters")
    undo = min(_number(fields.get("undo", "")), _LONGEST_UNDO)
    send_at = datetime.now(UTC) + timedelta(seconds=undo) if undo else None
    subject = fields.get("subject", way.subject) if channel == "email" else None
    body = fields.get("body", "").replace("\r\n", "\n")
    attachments = tuple(fields.get("attachments", "").split())
    return Reply(channel, way.from_address, way.to, body, attachments, subject, key, send_at)


def _number(written: str) -> int:
    """A number in plain digits; 0 for any other text."""
    return int(written) if written.isascii() and written.isdecimal() and len(written) < 19 else 0


@router.post("/messages/{message_id}/cancel")
async def cancel_message(message_id: MessageId, request: Request) -> Response:
    """Cancel a message that has not left."""
    inbox = Inbox(request)
    await inbox.cancel(message_id)
    return await _changed(inbox, message_id, request)


@router.post("/messages/{message_id}/retry")
async def retry_message(message_id: MessageId, request: Request) -> Response:
    """Retry a message that has failed or whose outcome is unknown."""
    inbox = Inbox(request)
    await inbox.retry(message_id)
    return await _changed(inbox, message_id, request)


async def _changed(inbox: Inbox, message_id: int, request: Request) -> Response:
    message = await inbox.message(message_id)
    if not is_fragment(request):
        return back_to(f"/inbox/c/{message['conversation_id']}#message-{message_id}")
    return html(request, "item", {"item": item_of(message)})


@router.post("/demo")
async def play_demo(demo: DemoDep) -> Response:
    """Play the demo into an empty inbox."""
    await demo.play()
    return back_to("/inbox")


@router.post("/demo/remove")
async def remove_demo(demo: DemoDep) -> Response:
    """Remove the people of the demo and their messages."""
    await demo.remove()
    return back_to("/inbox")


def _invalid(name: str, message: str) -> InvalidRequest:
    return InvalidRequest("The form is not as it should be.", errors=[FieldError(f"body.{name}", message)])
