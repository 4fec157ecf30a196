"""The state of a webhook endpoint, and what a result changes in it: pure functions.

An event that fails waits for a retry, and the cursor goes on, while fewer than `MOST_RETRIES` wait. With as many the
next event is tried alone, about once a minute while it fails. So an outage costs no row per event.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from http import HTTPStatus

from app.services.events.cursors import Position

#: Seconds from each failure of an event to its next try.
RETRY_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400)
#: Events of an endpoint that may wait for a retry at once.
MOST_RETRIES = 20
_PROBE_SECONDS = 60
#: Each pause is longer or shorter by up to this share, so that endpoints that failed together don't return together.
_JITTER = 0.1
_LONGEST_RETRY_AFTER = 24 * 3600.0
_DISABLED_AFTER = timedelta(days=5)

GONE = "It answered 410, which asks for no more events."
FAILED_FOR_DAYS = "It has taken no event for five days."


@dataclass(frozen=True, slots=True)
class Retry:
    """An event that waits to be tried again. `tries` are those that failed."""

    tries: int
    first_failed_at: datetime
    due_at: datetime


@dataclass(frozen=True, slots=True)
class EndpointState:
    """The columns of `WebhookEndpoint` that delivery changes, and its retries by position."""

    cursor: Position
    retries: Mapping[Position, Retry] = field(default_factory=dict)
    failing_since: datetime | None = None
    last_success_at: datetime | None = None
    probe_at: datetime | None = None
    paused_until: datetime | None = None
    disabled_at: datetime | None = None
    disabled_reason: str | None = None
    skipped_at: datetime | None = None

    def may_send(self, now: datetime) -> bool:
        return self.disabled_at is None and (self.paused_until is None or self.paused_until <= now)

    @property
    def room(self) -> int:
        """The number of further events that may wait for a retry."""
        return MOST_RETRIES - len(self.retries)

    def may_read(self, now: datetime) -> bool:
        """True if events after the cursor may be tried."""
        return self.room > 0 or self.probe_at is None or self.probe_at <= now

    def due(self, now: datetime) -> list[Position]:
        """The events whose retry is due, in the order of the log."""
        return sorted(position for position, retry in self.retries.items() if retry.due_at <= now)

    def next_time(self) -> datetime | None:
        """When there is something to do without a new event."""
        if self.disabled_at is not None:
            return None
        times = [retry.due_at for retry in self.retries.values()]
        if self.room <= 0 and self.probe_at is not None:
            times.append(self.probe_at)
        soonest = min(times, default=None)
        return soonest if soonest is None or self.paused_until is None else max(soonest, self.paused_until)


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one try. `status` is that of the answer, None without one; `retry_after` is in seconds."""

    position: Position
    at: datetime
    status: int | None
    retry_after: float | None = None
    is_probe: bool = False

    @property
    def succeeded(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def passed(state: EndpointState, end: Position, now: datetime) -> EndpointState:
    """The state after the log was read up to `end`, and held nothing to send. A probe that is due has no event."""
    is_due = state.probe_at is not None and state.probe_at <= now
    return replace(state, cursor=end, probe_at=None if is_due else state.probe_at)


def after_result(state: EndpointState, result: Result, chance: float) -> EndpointState:
    """The state after a result, without the cursor, which `reached` moves. `chance` from 0 to 1 is for the jitter."""
    return _after_success(state, result) if result.succeeded else _after_failure(state, result, chance)


def _after_success(state: EndpointState, result: Result) -> EndpointState:
    retries = {position: retry for position, retry in state.retries.items() if position != result.position}
    if state.failing_since is not None:
        # What failed for the first time in this outage is tried at once. Another event may fail by itself.
        retries = {
            position: replace(retry, due_at=min(retry.due_at, result.at))
            if retry.first_failed_at >= state.failing_since
            else retry
            for position, retry in retries.items()
        }
    return replace(state, retries=retries, failing_since=None, last_success_at=result.at, probe_at=None)


def _after_failure(state: EndpointState, result: Result, chance: float) -> EndpointState:
    at, failing_since = result.at, state.failing_since or result.at
    state = replace(state, failing_since=failing_since)
    pause = min(result.retry_after or 0.0, _LONGEST_RETRY_AFTER)
    if pause:
        state = replace(state, paused_until=at + timedelta(seconds=pause))
    if result.is_probe:
        state = replace(state, probe_at=at + _pause(_PROBE_SECONDS, pause, chance))
    else:
        state = replace(state, retries=_retries_after_failure(state, result, pause, chance))
    if result.status == HTTPStatus.GONE:
        return replace(state, disabled_at=at, disabled_reason=GONE)
    if at - failing_since >= _DISABLED_AFTER:
        return replace(state, disabled_at=at, disabled_reason=FAILED_FOR_DAYS)
    return state


def _retries_after_failure(
    state: EndpointState, result: Result, pause: float, chance: float
) -> Mapping[Position, Retry]:
    known = state.retries.get(result.position)
    first_failed_at = known.first_failed_at if known else result.at
    tries = known.tries + 1 if known else 1
    others = {position: retry for position, retry in state.retries.items() if position != result.position}
    took_another = state.last_success_at is not None and state.last_success_at > first_failed_at
    if tries > len(RETRY_SECONDS) and took_another:
        return others
    seconds = RETRY_SECONDS[min(tries, len(RETRY_SECONDS)) - 1]
    return others | {result.position: Retry(tries, first_failed_at, result.at + _pause(seconds, pause, chance))}


def _pause(seconds: float, asked: float, chance: float) -> timedelta:
    return timedelta(seconds=max(seconds * (1 - _JITTER + 2 * _JITTER * chance), asked))


def reached(start: Position, end: Position, tried: Sequence[tuple[Position, bool]]) -> Position:
    """The cursor after events were tried: before the first that neither was taken nor waits for a retry.

    `tried` are the events after `start`, in order, each with True if the cursor may pass it. `end` is the position up
    to which the log was read for them.
    """
    for position, is_settled in tried:
        if not is_settled:
            return start
        start = position
    return end
