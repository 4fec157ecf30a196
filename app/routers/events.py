"""Reading the event log."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.dependencies import Id, ReadSession, TenantDep
from app.domain import EventType
from app.http.problems import responses
from app.schemas.events import EventPageView
from app.services.events.cursors import cursor_at, position_of
from app.services.events.payloads import rendered
from app.services.events.reading import EventFilter, log_state, read_page

router = APIRouter(prefix="/api/events", tags=["events"], responses=responses(410, 422, 503))


@router.get("", response_model=EventPageView)
async def list_events(
    session: ReadSession,
    tenant: TenantDep,
    after: Annotated[str | None, Query(max_length=100, description="A cursor; from the oldest on without.")] = None,
    types: Annotated[list[EventType] | None, Query(description="Only events of these types.")] = None,
    conversation_id: Annotated[Id | None, Query(description="Only those of a conversation.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """Events in order, the oldest first. No event ever appears behind a cursor."""
    connection = await session.connection()
    start = None if after is None else position_of(tenant, after, location="query.after")
    state = await log_state(connection, tenant)
    wanted = EventFilter(None if types is None else frozenset(types), conversation_id)
    page = await read_page(connection, tenant, start or state.trimmed_to, state, wanted=wanted, limit=limit)
    events = b",".join(await rendered(connection, tenant, page.entries))
    more, cursor = b"true" if page.more else b"false", cursor_at(tenant, page.position).encode()
    content = b'{"events":[%b],"cursor":"%b","more":%b}' % (events, cursor, more)
    return Response(content, media_type="application/json")
