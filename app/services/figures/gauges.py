"""The gauges of one process: its connections to the database, and its readers of events."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.connectivity.pool import MeasuredPool
from app.db.statements.reads import Reads
from app.metrics.catalogue import CONNECTIONS, CONNECTIONS_MOST, CONNECTIONS_WAITING, EVENT_READERS
from app.services.events.feed import EventFeed

_POOL, _READS = "pool", "reads"


@contextmanager
def process_gauges(engine: AsyncEngine, reads: Reads, events: EventFeed) -> Iterator[None]:
    """Show these in the figures while the context is open."""
    pool = engine.pool
    assert isinstance(pool, MeasuredPool)
    with ExitStack() as stack:
        stack.enter_context(
            CONNECTIONS.read_by(
                lambda: {
                    (_POOL, "in_use"): pool.checkedout(),
                    (_POOL, "idle"): pool.checkedin(),
                    (_READS, "in_use"): reads.busy,
                    (_READS, "idle"): reads.idle,
                }
            )
        )
        stack.enter_context(CONNECTIONS_MOST.read_by(lambda: {(_POOL,): pool.limit, (_READS,): reads.limit}))
        stack.enter_context(CONNECTIONS_WAITING.read_by(lambda: {(_POOL,): pool.waiting, (_READS,): reads.waiting}))
        stack.enter_context(EVENT_READERS.read_by(lambda: {(): events.reader_count}))
        yield
