"""Results, and the state of an endpoint after them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.services.events.cursors import Position
from app.services.webhooks.state import (
    FAILED_FOR_DAYS,
    GONE,
    MOST_RETRIES,
    RETRY_SECONDS,
    EndpointState,
    Result,
    Retry,
    after_result,
    reached,
)
from tests.cases import each_case

_START = datetime(2026, 1, 1, tzinfo=UTC)
_MIDDLE = 0.5  # the chance that leaves a pause as it is


def at(seconds: float) -> datetime:
    return _START + timedelta(seconds=seconds)


def event(number: int) -> Position:
    return Position(1, 1, number)


def state(**changes: object) -> EndpointState:
    return replace(EndpointState(event(0)), **changes)  # type: ignore[arg-type]


def result(number: int, seconds: float, status: int | None, **more: object) -> Result:
    return Result(event(number), at(seconds), status, **more)  # type: ignore[arg-type]


def after(known: EndpointState, *results: Result, chance: float = _MIDDLE) -> EndpointState:
    for each in results:
        known = after_result(known, each, chance)
    return known


def test_an_event_that_fails_is_tried_again_after_longer_and_longer_pauses() -> None:
    known, moment = state(), 0.0
    pauses = []
    for _ in range(len(RETRY_SECONDS) + 1):
        known = after(known, result(1, moment, 500))
        pauses.append((known.retries[event(1)].due_at - at(moment)).total_seconds())
        moment += pauses[-1]
    assert pauses == [*RETRY_SECONDS, RETRY_SECONDS[-1]]
    assert known.retries[event(1)].tries == len(RETRY_SECONDS) + 1


@each_case(("chance", "pause"), [(0.0, 4.5), (0.5, 5.0), (1.0, 5.5)])
def test_a_pause_is_a_little_longer_or_shorter(chance: float, pause: float) -> None:
    known = after(state(), result(1, 0, None), chance=chance)
    assert known.retries[event(1)].due_at == at(pause)


@each_case(
    ("asked", "pause"),
    [(None, 5), (0.0, 5), (1.0, 5), (120.0, 120), (10.0**6, 24 * 3600)],
)
def test_retry_after_makes_a_pause_longer_and_holds_for_the_whole_endpoint(asked: float | None, pause: float) -> None:
    known = after(state(), result(1, 0, 429, retry_after=asked))
    assert known.retries[event(1)].due_at == at(pause)
    assert known.may_send(at(0.5)) == (not asked)
    assert known.may_send(at(pause))


@each_case(
    ("status", "is_taken"),
    [
        (status, status // 100 == 2)
        for status in (199, 200, 201, 204, 299, 300, 301, 304, 400, 404, 410, 429, 500, 599)
    ],
)
def test_only_2xx_is_a_success(status: int, is_taken: bool) -> None:
    known = after(state(), result(1, 0, status))
    assert (known.last_success_at == at(0)) == is_taken
    assert (known.failing_since is None) == is_taken
    assert (event(1) not in known.retries) == is_taken


def test_an_event_is_given_up_after_its_last_retry_only_if_another_one_was_taken_meanwhile() -> None:
    last = Retry(len(RETRY_SECONDS), at(0), at(100))
    waiting = state(retries={event(1): last}, failing_since=at(0))
    assert event(1) in after(waiting, result(1, 100, 500)).retries
    took_one_before = replace(waiting, last_success_at=at(-1))
    assert event(1) in after(took_one_before, result(1, 100, 500)).retries
    took_another = replace(waiting, last_success_at=at(50), failing_since=at(60))
    assert event(1) not in after(took_another, result(1, 100, 500)).retries
    not_the_last = replace(took_another, retries={event(1): replace(last, tries=last.tries - 1)})
    assert event(1) in after(not_the_last, result(1, 100, 500)).retries


def test_the_first_success_makes_due_what_first_failed_in_this_outage() -> None:
    before, during = Retry(3, at(-100), at(900)), Retry(2, at(0), at(300))
    known = state(retries={event(1): before, event(2): during}, failing_since=at(0), probe_at=at(60))
    known = after(known, result(3, 50, 200))
    assert known.retries == {event(1): before, event(2): replace(during, due_at=at(50))}
    assert (known.failing_since, known.probe_at, known.last_success_at) == (None, None, at(50))
    again = after(known, result(4, 51, 200))
    assert again.retries == known.retries


def test_with_as_many_waiting_as_may_the_next_event_is_tried_about_once_a_minute() -> None:
    known = after(state(), *(result(number, number, 500) for number in range(1, MOST_RETRIES + 1)))
    assert known.room == 0
    assert known.may_read(at(21))
    known = after(known, result(21, 21, 500, is_probe=True))
    assert len(known.retries) == MOST_RETRIES
    assert not known.may_read(at(80))
    assert known.may_read(at(81))
    assert known.next_time() == at(6)
    taken = after(known, result(21, 81, 200, is_probe=True))
    assert taken.may_read(at(81))
    assert len(taken.due(at(81))) == MOST_RETRIES


@each_case(
    ("failing_for", "status", "reason"),
    [
        (timedelta(0), 410, GONE),
        (timedelta(days=5) - timedelta(seconds=1), 500, None),
        (timedelta(days=5), 500, FAILED_FOR_DAYS),
        (timedelta(days=50), None, FAILED_FOR_DAYS),
        (timedelta(days=50), 200, None),
    ],
)
def test_an_endpoint_is_disabled_by_410_and_by_five_days_of_failure(
    failing_for: timedelta, status: int | None, reason: str | None
) -> None:
    known = after(state(failing_since=_START - failing_for), result(1, 0, status))
    assert known.disabled_reason == reason
    assert (known.disabled_at == at(0)) == (reason is not None)
    assert known.may_send(at(10**6)) == (reason is None)
    if reason:
        assert known.next_time() is None
        assert event(1) in known.retries  # it is sent when the endpoint is enabled again


@each_case(
    ("tried", "cursor"),
    [
        ([], 9),
        ([(1, True), (2, True)], 9),
        ([(1, True), (2, False), (3, True)], 1),
        ([(1, False), (2, True)], 0),
    ],
)
def test_the_cursor_never_passes_what_is_neither_taken_nor_waits(tried: list[tuple[int, bool]], cursor: int) -> None:
    known = [(event(number), is_settled) for number, is_settled in tried]
    assert reached(event(0), event(9), known) == event(cursor)


@pytest.mark.parametrize("paused", [None, 1000.0])
def test_the_next_time_is_when_something_is_due(paused: float | None) -> None:
    retries = {event(1): Retry(1, at(0), at(300)), event(2): Retry(1, at(0), at(200))}
    until = None if paused is None else at(paused)
    known = state(retries=retries, paused_until=until, probe_at=at(1))
    assert known.next_time() == at(paused or 200)
    assert state().next_time() is None
