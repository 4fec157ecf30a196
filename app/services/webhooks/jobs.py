"""The events that are to be sent to each of a tenant's endpoints: the log is read once for all at the same place."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import structlog
from sqlalchemy import ARRAY, BigInteger, any_, bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.models import Message
from app.db.statements.batches import TENANT
from app.domain import EventType
from app.services.events.cursors import Position
from app.services.events.payloads import rendered
from app.services.events.reading import EVERYTHING, Entry, EventPage, LogState, read_entries, read_page
from app.services.webhooks.batch import Job, ServedEndpoint

log = structlog.get_logger(__name__)

#: Entries that are read at once: for endpoints that are well, and for those that fail.
_PAGE, _SHORT_PAGE = 100, 5
#: Places of the log that are read in one look, the newest first, so that endpoints far behind delay no other.
_MOST_PLACES = 8

_AUTOMATIC = select(Message.id).where(
    Message.tenant_id == TENANT,
    Message.id == any_(bindparam("ids", type_=ARRAY(BigInteger()))),
    Message.details.has_key("automatic"),
)


async def next_pages(
    connection: AsyncConnection,
    tenant_id: int,
    ready: Iterable[ServedEndpoint],
    state: LogState,
    now: datetime,
) -> tuple[dict[ServedEndpoint, EventPage], bool]:
    """The entries after the cursors of endpoints that may read on; True if there is more to read at once.

    An endpoint whose cursor is older than the log goes on with the oldest entry.
    """
    places: defaultdict[Position, list[ServedEndpoint]] = defaultdict(list)
    for endpoint in ready:
        if endpoint.state.cursor < state.trimmed_to:
            _skip(tenant_id, endpoint, now)
            endpoint.state = replace(endpoint.state, cursor=state.trimmed_to)
        if endpoint.state.cursor < state.decided and endpoint.state.may_read(now):
            places[endpoint.state.cursor].append(endpoint)
    pages: dict[ServedEndpoint, EventPage] = {}
    is_more = len(places) > _MOST_PLACES
    for place in sorted(places, reverse=True)[:_MOST_PLACES]:
        group = places[place]
        wanted = group[0].stored.wanted if len(group) == 1 else EVERYTHING
        limit = _PAGE if any(each.state.failing_since is None for each in group) else _SHORT_PAGE
        page = await read_page(connection, tenant_id, place, state, wanted=wanted, limit=limit)
        for endpoint in group:
            entries = [entry for entry in page.entries if endpoint.stored.wanted.wants(entry)]
            pages[endpoint] = replace(page, entries=entries)
        is_more = is_more or page.more
    return pages, is_more


async def jobs_of(
    connection: AsyncConnection,
    tenant_id: int,
    ready: Iterable[ServedEndpoint],
    pages: Mapping[ServedEndpoint, EventPage],
    now: datetime,
) -> dict[ServedEndpoint, list[Job]]:
    """The requests for each endpoint: retries that are due, and then its page. Each event is rendered once."""
    due = {endpoint: endpoint.state.due(now) for endpoint in ready}
    positions = {position for each in due.values() for position in each}
    retried = await read_entries(connection, tenant_id, positions) if positions else {}
    automatic = await _automatic(connection, tenant_id, pages)
    chosen: dict[ServedEndpoint, tuple[list[Entry], list[Entry]]] = {}
    for endpoint, own in due.items():
        if removed := [position for position in own if position not in retried]:
            _skip(tenant_id, endpoint, now, removed)
        again = [retried[position] for position in own if position in retried]
        chosen[endpoint] = again, _new(endpoint, pages, automatic)
    entries = {entry.position: entry for again, new in chosen.values() for entry in (*again, *new)}
    bodies = await rendered(connection, tenant_id, list(entries.values())) if entries else []
    body_at = dict(zip(entries, bodies, strict=True))
    return {endpoint: _jobs(endpoint, again, new, body_at) for endpoint, (again, new) in chosen.items()}


def _new(
    endpoint: ServedEndpoint, pages: Mapping[ServedEndpoint, EventPage], automatic: Collection[int]
) -> list[Entry]:
    entries = pages[endpoint].entries if endpoint in pages else []
    if not endpoint.stored.suppress_automatic:
        return entries
    return [entry for entry in entries if not (_is_inbound(entry) and entry.message_id in automatic)]


def _jobs(
    endpoint: ServedEndpoint, again: Sequence[Entry], new: Sequence[Entry], body_at: Mapping[Position, bytes]
) -> list[Job]:
    retries = endpoint.state.retries
    jobs = [Job(entry, body_at[entry.position], retries[entry.position].tries, True) for entry in again]
    for number, entry in enumerate(new):
        known = retries.get(entry.position)  # after a replay
        tries = known.tries if known else endpoint.probes if number == 0 else 0
        jobs.append(Job(entry, body_at[entry.position], tries, False))
    return jobs


async def _automatic(
    connection: AsyncConnection, tenant_id: int, pages: Mapping[ServedEndpoint, EventPage]
) -> set[int]:
    """The messages that no person has written, among those of endpoints that want none of them."""
    ids = {
        entry.message_id
        for endpoint, page in pages.items()
        if endpoint.stored.suppress_automatic
        for entry in page.entries
        if _is_inbound(entry)
    }
    if not ids:
        return set()
    return set((await connection.execute(_AUTOMATIC, {"tenant": tenant_id, "ids": list(ids)})).scalars())


def _is_inbound(entry: Entry) -> bool:
    return entry.type == EventType.MESSAGE_RECEIVED


def _skip(tenant_id: int, endpoint: ServedEndpoint, now: datetime, removed: Collection[Position] = ()) -> None:
    """Note that events were removed from the log before they were sent."""
    log.warning("webhook_events_skipped", tenant=tenant_id, endpoint_id=endpoint.stored.id)
    kept = {position: retry for position, retry in endpoint.state.retries.items() if position not in removed}
    endpoint.state = replace(endpoint.state, retries=kept, skipped_at=now)
