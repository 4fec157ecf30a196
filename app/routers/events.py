"""Reading the event log: pages, which may wait for events, and a stream of server-sent events."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from app.dependencies import Id, TenantDep, services_of
from app.domain import EventType
from app.errors import EventsGone, ServiceError
from app.http.envelope import IS_HEAD
from app.http.event_stream import EventStream, Source, waiting
from app.http.problems import responses
from app.schemas.events import EventPageView
from app.services.events.cursors import Position, cursor_at, position_of
from app.services.events.payloads import Rendered, rendered_page
from app.services.events.reading import EventFilter, Start
from app.services.events.subscriptions import Subscription

router = APIRouter(prefix="/api/events", tags=["events"], responses=responses(410, 422, 503))

#: In seconds. Many proxies cut off an answer that has not begun by then.
_LONGEST_WAIT = 60
#: Events in one write of a stream.
_AT_ONCE = 100
#: Milliseconds until a client connects again, which is drawn so that all don't come at once.
_RETRY = (1000, 3000)
_NOW = "now"

After = Annotated[
    str | None,
    Query(
        max_length=100,
        description="A cursor: only events after it. `now`: only those from now on. Without it, all that there are.",
    ),
]
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        max_length=100,
        description="The `id` of the last event that came, as browsers send it. It wins over `after`.",
    ),
]
Wait = Annotated[
    int,
    Query(ge=0, le=_LONGEST_WAIT, description="Seconds to wait for an event, if there is none yet."),
]


async def _wanted(
    types: Annotated[list[EventType] | None, Query(description="Only events of these types.")] = None,
    conversation_id: Annotated[Id | None, Query(description="Only those of a conversation.")] = None,
) -> EventFilter:
    return EventFilter(None if types is None else frozenset(types), conversation_id)


Wanted = Annotated[EventFilter, Depends(_wanted)]


@router.get("", response_model=EventPageView)
async def list_events(
    request: Request,
    tenant: TenantDep,
    wanted: Wanted,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    wait: Wait = 0,
) -> Response:
    """Events in order, the oldest first. No event ever appears behind a cursor.

    With `wait` an answer without events comes only after that time, with a cursor that has moved on.
    """
    start = _place(tenant, after)
    if wait and IS_HEAD not in request.scope:
        subscription = await _subscribe(request, tenant, start, wanted, limit)
        return await _waited(request, tenant, subscription, limit=limit, seconds=wait)
    async with services_of(request).sessions() as session:
        page = await rendered_page(await session.connection(), tenant, start, wanted=wanted, limit=limit)
    return _page(page.entries, cursor_at(tenant, page.position), more=page.more)


@router.get(
    "/stream",
    status_code=200,
    response_class=EventStream,
    responses={200: {"description": "Events, until one side ends it."}},
)
async def stream_events(
    request: Request, tenant: TenantDep, wanted: Wanted, after: After = None, last_event_id: LastEventId = None
) -> Response:
    """Events as they happen, as server-sent events (WHATWG), for as long as the client stays.

    Each has its cursor as `id`, its type as `event`, and as `data` the same JSON as on a page. The stream may end at
    any time: connect again with the last `id` as `Last-Event-ID`, and nothing is missed. Where events were removed
    before they were read, an event `gone` with `oldest` comes before the end.
    """
    subscription = await streamed(request, tenant, wanted, after, last_event_id)
    return stream_of(request, subscription, subscription)


async def streamed(
    request: Request, tenant: int, wanted: EventFilter, after: str | None, last_event_id: str | None
) -> Subscription:
    """The subscription of a stream, which its answer ends."""
    if last_event_id:
        start: Position | Start = position_of(tenant, last_event_id, location="header.Last-Event-ID")
    else:
        start = _place(tenant, after)
    return await _subscribe(request, tenant, start, wanted, _AT_ONCE)


def stream_of(request: Request, subscription: Subscription, source: Source) -> Response:
    """The answer that sends a subscription. It ends `source`, which ends the subscription."""
    heartbeat: float = request.app.state.settings.event_heartbeat_seconds
    return EventStream(source, _server_sent(subscription, heartbeat))


def _place(tenant_id: int, after: str | None) -> Position | Start:
    if after is None:
        return Start.OLDEST
    return Start.NOW if after == _NOW else position_of(tenant_id, after, location="query.after")


async def _subscribe(
    request: Request, tenant_id: int, start: Position | Start, wanted: EventFilter, limit: int
) -> Subscription:
    key: str | None = request.scope["state"]["access"].prefix
    return await services_of(request).events.subscribe(tenant_id, start, wanted, key=key, limit=limit)


async def _waited(
    request: Request, tenant_id: int, subscription: Subscription, *, limit: int, seconds: float
) -> Response:
    clock = asyncio.get_running_loop().time
    until = clock() + seconds
    try:
        with waiting(request.scope, request.receive, subscription):
            # Also of a subscription that has ended already: `next` raises what ended it.
            while not (entries := await subscription.next(limit=limit, until=until)):
                if subscription.ended or clock() >= until:
                    break
        more = subscription.more
        cursor = cursor_at(tenant_id, entries[-1].position if entries and more else subscription.position)
        return _page(entries, cursor, more=more)
    finally:
        subscription.end()


def _page(entries: list[Rendered], cursor: str, *, more: bool) -> Response:
    events = b",".join(each.content for each in entries)
    content = b'{"events":[%b],"cursor":"%b","more":%b}' % (events, cursor.encode(), b"true" if more else b"false")
    return Response(content, media_type="application/json")


async def _server_sent(subscription: Subscription, heartbeat_seconds: float) -> AsyncIterator[bytes]:
    """The stream of a subscription. A heartbeat is a comment and the position: an id without event."""
    clock = asyncio.get_running_loop().time
    yield b"retry: %d\n" % random.randint(*_RETRY)  # noqa: S311 - no secret
    yield _place_of(subscription)
    try:
        while (entries := await subscription.next(limit=_AT_ONCE, until=clock() + heartbeat_seconds)) or (
            not subscription.ended
        ):
            yield b"".join(each.server_sent for each in entries) or b":\n" + _place_of(subscription)
    except EventsGone as error:
        yield b"event: gone\ndata: %b\n\n" % json.dumps(error.members).encode()
    except ServiceError:
        pass  # a key that is no longer valid: the next request gets 401


def _place_of(subscription: Subscription) -> bytes:
    """An event without data: it only tells clients how far they have read (WHATWG, "last event ID")."""
    return b"id: %b\n\n" % cursor_at(subscription.tenant_id, subscription.position).encode()
