"""The pages of the inbox and their parts. Each address is a page of its own, and a part of one for the script."""

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response

from app.db.statements.paging import cursor_at
from app.dependencies import DemoDep, Id, MessageId
from app.domain import ConversationStatus
from app.routers.inbox.answers import InboxRoute, ListQuery, html, is_fragment, language_of, takes_gzip
from app.routers.inbox.hits import shown_hit
from app.routers.inbox.sources import Inbox, Json, is_in
from app.routers.inbox.views import item_of, row_of, spoken, ways_of
from app.services.demo.demo import Demo
from app.services.messages.conversations import ConversationFilter
from app.web.inbox.assets import assets, version

router = APIRouter(prefix="/inbox", include_in_schema=False, route_class=InboxRoute)

_KEPT = "public, max-age=31536000, immutable"
_FRESH = "no-cache"
_LONGEST_SEARCH = 200  # characters
_ID = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_STATUS_OF_VIEW = {
    "open": ConversationStatus.OPEN,
    "mine": ConversationStatus.OPEN,
    "unassigned": ConversationStatus.OPEN,
    "snoozed": ConversationStatus.SNOOZED,
    "closed": ConversationStatus.CLOSED,
}


@router.get("/static/{hash}/{path:path}")
async def static_file(hash: str, path: str, request: Request) -> Response:
    """A static file. Browsers keep it where the address has the hash of the current files."""
    asset = assets().get(path)
    if asset is None:
        return Response(status_code=HTTPStatus.NOT_FOUND)
    headers = {"Cache-Control": _KEPT if hash == version() else _FRESH, "Vary": "Accept-Encoding"}
    if takes_gzip(request):
        return Response(
            asset.compressed, headers=headers | {"Content-Encoding": "gzip"}, media_type=asset.content_type
        )
    return Response(asset.content, headers=headers, media_type=asset.content_type)


@router.get("")
async def show_inbox(request: Request, demo: DemoDep) -> Response:
    """The list of conversations, and no open one. The script takes the column with the list."""
    values = await _page(request, ListQuery.of(request))
    if is_fragment(request):
        return html(request, "side", values)
    return html(request, "page", {**values, "demo": await _state_of(demo, Inbox(request), is_new=values["is_new"])})


async def _state_of(demo: Demo, inbox: Inbox, *, is_new: bool) -> str:
    """`offered` where the demo can be played, `there` where it was, and otherwise nothing."""
    if not inbox.is_open:
        return ""
    if is_new:
        return "offered" if await demo.is_offered() else ""
    return "there" if await demo.is_there() else ""


@router.get("/list")
async def show_list(request: Request) -> Response:
    """The rows of the list; without the script the page that holds them."""
    if not is_fragment(request):
        return html(request, "page", await _page(request, ListQuery.of(request)))
    return html(request, "rows", await _list(request, ListQuery.of(request)))


@router.get("/search")
async def search(request: Request) -> Response:
    """The hits of a search, in the place of the list."""
    q = " ".join(request.query_params.get("q", "").replace("\0", " ").split())[:_LONGEST_SEARCH]
    query = ListQuery.of(request)
    inbox = Inbox(request)
    hits, more = await inbox.search(q, query.cursor) if q else ([], None)
    values = {**_of_list(request, query), "q": q, "hits": [shown_hit(each) for each in hits], "more": more}
    if is_fragment(request):
        return html(request, "hits", values)
    return html(request, "page", {**values, **_frame(request), "thread": None, "person": None, "rows": []})


@router.get("/c/{conversation_id}")
async def show_thread(conversation_id: Id, request: Request) -> Response:
    """A conversation with its newest messages, older ones from a cursor on, or those from `message` on."""
    inbox = Inbox(request)
    cursor = request.query_params.get("cursor")
    if cursor is not None and is_fragment(request):
        page = await inbox.messages(conversation_id, cursor)
        values = {"items": _items(page.found), "older": page.older, "conversation_id": conversation_id}
        return html(request, "older", {**values, "newer": None})
    if is_fragment(request):
        return html(request, "opened", await _thread(request, conversation_id))
    shown, opened = await asyncio.gather(
        _page(request, replace(ListQuery.of(request), cursor=None)), _thread(request, conversation_id)
    )
    return html(request, "page", {**shown, **opened})


@router.get("/c/{conversation_id}/item")
async def show_row(conversation_id: Id, request: Request) -> Response:
    """The row of a conversation; 204 if it is not in the list of the query."""
    query, inbox = ListQuery.of(request), Inbox(request)
    conversation = await inbox.conversation(conversation_id)
    if not is_in(wanted_of(query, inbox), conversation):
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return html(request, "row", {**_of_list(request, query), "row": row_of(conversation), "open_id": None})


@router.get("/messages/{message_id}/item")
async def show_message(message_id: MessageId, request: Request) -> Response:
    """One message of a thread."""
    return html(request, "item", {"item": item_of(await Inbox(request).message(message_id))})


@router.get("/messages/{message_id}/timeline")
async def show_timeline(message_id: MessageId, request: Request) -> Response:
    """The steps of a message; without the script as a page."""
    inbox = Inbox(request)
    message, steps = await asyncio.gather(inbox.message(message_id), inbox.timeline(message_id))
    values = {"item": item_of(message), "steps": steps}
    return html(request, "timeline" if is_fragment(request) else "timeline_page", values)


def wanted_of(query: ListQuery, inbox: Inbox) -> ConversationFilter:
    """The conversations that a query asks for."""
    assignee = {"mine": inbox.me, "unassigned": ""}.get(query.view)
    return ConversationFilter(
        _STATUS_OF_VIEW.get(query.view), assignee, query.tag or None, query.channel or None, bool(query.unread)
    )


async def _page(request: Request, query: ListQuery) -> dict[str, Any]:
    """The values of a page without an open conversation."""
    return {**_frame(request), **await _list(request, query), "thread": None, "person": None}


def _frame(request: Request) -> dict[str, Any]:
    inbox = Inbox(request)
    return {
        "account": str(request.scope["state"]["access"].tenant_id),
        "me": inbox.me,
        "may_send": inbox.may_send,
        "may_operate": inbox.may_operate,
        "is_open": inbox.is_open,
        "here": (request.app.state.settings.public_url or str(request.base_url)).rstrip("/"),
        "moment": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "serves_docs": request.app.state.settings.serves_docs,
        "script_words": language_of(request).script_words,
        "open_id": None,
        "demo": "",
    }


def _of_list(request: Request, query: ListQuery) -> dict[str, Any]:
    """The values that each part of the list needs."""
    return {"query": query, "q": "", "hits": None, "open_id": None, "more": None}


async def _list(request: Request, query: ListQuery) -> dict[str, Any]:
    inbox = Inbox(request)
    wanted = wanted_of(query, inbox)
    found, more = await inbox.conversations(wanted, query.cursor)
    is_everything = query.view == "open" and query.written() == "view=open" and query.cursor is None
    is_empty = not found and is_everything and not (await inbox.conversations(ConversationFilter()))[0]
    rows = [row_of(each) for each in found]
    return {**_of_list(request, query), "rows": rows, "more": more, "is_new": is_empty}


async def _thread(request: Request, conversation_id: int) -> dict[str, Any]:
    inbox, given = Inbox(request), request.query_params
    conversation, page = await asyncio.gather(
        inbox.conversation(conversation_id), inbox.messages(conversation_id, given.get("cursor"))
    )
    named = given.get("message", "")
    if _ID.fullmatch(named) and int(named) not in {each["id"] for each in page.found}:
        page = await inbox.messages(conversation_id, cursor_at(int(named)))
    person = await inbox.person(conversation["contact_address"])
    return {
        **thread_values(request, conversation),
        "items": _items(page.found),
        "older": page.older,
        "newer": page.newer,
        "ways": ways_of(page.found),
        "person": person,
        "spoken": spoken,
        "open_id": conversation_id,
    }


def thread_values(request: Request, conversation: Json) -> dict[str, Any]:
    """The values of the head of a thread."""
    inbox, row = Inbox(request), row_of(conversation)
    return {
        "thread": row,
        "conversation": conversation,
        "query": ListQuery.of(request),
        "me": inbox.me,
        "may_send": inbox.may_send,
        "address": spoken(conversation["contact_address"]),
        "our_address": spoken(conversation["customer_address"]),
    }


def _items(messages: list[Json]) -> list[Any]:
    return [item_of(each) for each in messages]
