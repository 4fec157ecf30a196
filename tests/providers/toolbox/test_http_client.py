"""The client of all vendors over HTTP, on answers that a vendor has given or could give."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.providers.base import (
    CredentialsRefused,
    PermanentFailure,
    ProviderFailure,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.toolbox.http_client import (
    LARGEST_ANSWER,
    LONGEST_RETRY_AFTER,
    exchange,
    failure_behind,
    outcome_of,
    reason_in,
    retry_after,
)
from tests.cases import each_case

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@each_case(
    ("written", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("0.25", 0.25),
        ("-5", 0),
        ("86400", 86_400),
        ("1000000000", LONGEST_RETRY_AFTER),
        ("9" * 400, LONGEST_RETRY_AFTER),
        ("Sun, 01 Mar 2026 12:01:30 GMT", 90),
        ("Sunday, 01-Mar-26 12:01:30 GMT", 90),
        ("Sun Mar  1 12:01:30 2026", 90),
        ("Sun, 01 Mar 2026 12:00:00 GMT", 0),
        ("Sun, 01 Mar 2015 12:00:00 GMT", 0),
        ("Sun, 01 Mar 2099 12:00:00 GMT", LONGEST_RETRY_AFTER),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_RETRY_AFTER),
        ("", None),
        ("soon", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("1, 2", None),
        ("1_000", None),
        ("١٢", None),
        ("Sun, 99 Mar 2026 12:00:00 GMT", None),
        ("Sun, 01 Mar 2026 25:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date_and_bounded(written: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": written}, NOW) == seconds


def test_retry_after_is_found_however_its_name_is_written() -> None:
    assert retry_after({"retry-after": "3"}, NOW) == 3
    assert retry_after(httpx.Headers({"RETRY-AFTER": "3"}), NOW) == 3
    assert retry_after({}, NOW) is None


@given(st.text())
def test_no_retry_after_raises_or_leaves_its_bounds(written: str) -> None:
    seconds = retry_after({"Retry-After": written}, NOW)
    assert seconds is None or 0 <= seconds <= LONGEST_RETRY_AFTER


@given(st.timedeltas(min_value=timedelta(days=-365), max_value=timedelta(days=365)))
def test_every_http_date_is_understood(ahead: timedelta) -> None:
    until = (NOW + ahead).replace(microsecond=0)
    seconds = retry_after({"Retry-After": format_datetime(until, usegmt=True)}, NOW)
    assert seconds == min(max((until - NOW).total_seconds(), 0), LONGEST_RETRY_AFTER)


@each_case(
    ("status", "failure"),
    [
        (200, None),
        (202, None),
        (301, UnknownOutcome),
        (307, UnknownOutcome),
        (400, PermanentFailure),
        (401, CredentialsRefused),
        (402, CredentialsRefused),
        (403, CredentialsRefused),
        (404, PermanentFailure),
        (408, TemporaryFailure),
        (422, PermanentFailure),
        (425, TemporaryFailure),
        (429, TemporaryFailure),
        (500, UnknownOutcome),
        (501, TemporaryFailure),
        (502, UnknownOutcome),
        (503, UnknownOutcome),
        (504, UnknownOutcome),
        (520, UnknownOutcome),
        (521, TemporaryFailure),
        (524, UnknownOutcome),
        (599, UnknownOutcome),
    ],
)
def test_a_status_means_the_same_for_every_vendor(status: int, failure: type[ProviderFailure] | None) -> None:
    outcome = outcome_of(httpx.Response(status))
    assert outcome is None if failure is None else type(outcome) is failure


def test_only_429_throttles_and_both_it_and_503_say_when_to_come_back() -> None:
    throttled = outcome_of(httpx.Response(429, headers={"Retry-After": "7"}))
    away = outcome_of(httpx.Response(503, headers={"Retry-After": "8"}))
    assert isinstance(throttled, TemporaryFailure)
    assert isinstance(away, TemporaryFailure)
    assert (throttled.throttled, throttled.retry_after) == (True, 7)
    assert (away.throttled, away.retry_after) == (False, 8)


@each_case(
    ("status", "failure"),
    [(500, UnknownOutcome), (503, TemporaryFailure), (429, TemporaryFailure), (400, PermanentFailure), (200, None)],
)
def test_a_vendor_may_document_that_a_5xx_takes_nothing(status: int, failure: type[ProviderFailure] | None) -> None:
    outcome = outcome_of(httpx.Response(status), not_taken={200, 400, 429, 503})
    assert outcome is None if failure is None else type(outcome) is failure


def status_error(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://vendor.test/")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


@each_case(
    ("error", "failure"),
    [
        (status_error(500), UnknownOutcome),
        (status_error(502), UnknownOutcome),
        (status_error(429), TemporaryFailure),
        (status_error(400), PermanentFailure),
        (httpx.ReadTimeout("late"), UnknownOutcome),
        (httpx.RemoteProtocolError("cut"), UnknownOutcome),
        (httpx.ConnectError("refused"), httpx.ConnectError),
        (KeyError("to"), KeyError),
        (TemporaryFailure("busy"), TemporaryFailure),
    ],
)
def test_a_provider_may_leave_the_errors_of_its_client_unread(error: Exception, failure: type[Exception]) -> None:
    assert type(failure_behind(error)) is failure


def test_a_failure_names_the_status_and_the_vendor_s_reason() -> None:
    assert str(outcome_of(httpx.Response(400), "no such number")) == "400 Bad Request - no such number"
    assert str(outcome_of(httpx.Response(500))) == "500 Internal Server Error"
    assert str(outcome_of(httpx.Response(599))) == "599"


async def exchanged(answer: httpx.Response | Exception) -> httpx.Response:
    def handler(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        return await exchange(client, client.build_request("POST", "http://vendor.test/"))


@each_case("trouble", [httpx.ConnectError("refused"), httpx.ConnectTimeout("late"), httpx.PoolTimeout("none free")])
async def test_a_request_that_never_left_is_tried_again(trouble: httpx.TransportError) -> None:
    with pytest.raises(TemporaryFailure, match=type(trouble).__name__):
        await exchanged(trouble)


@each_case(
    "trouble",
    [
        httpx.ReadTimeout("late"),
        httpx.WriteTimeout("late"),
        httpx.ReadError("reset"),
        httpx.WriteError("broken pipe"),
        httpx.RemoteProtocolError("not HTTP"),
    ],
)
async def test_a_request_that_may_have_arrived_is_in_doubt(trouble: httpx.TransportError) -> None:
    with pytest.raises(UnknownOutcome, match=type(trouble).__name__):
        await exchanged(trouble)


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 10_000


async def broken() -> AsyncIterator[bytes]:
    yield b'{"id": '
    raise httpx.ReadError("reset")


async def test_an_answer_is_read_up_to_its_limit_and_no_further() -> None:
    whole = await exchanged(httpx.Response(200, content=b"x" * LARGEST_ANSWER))
    assert len(whole.content) == LARGEST_ANSWER
    with pytest.raises(UnknownOutcome, match="larger than"):
        await exchanged(httpx.Response(200, content=endless()))


async def test_an_answer_that_breaks_off_is_in_doubt() -> None:
    with pytest.raises(UnknownOutcome, match="broke off"):
        await exchanged(httpx.Response(200, content=broken()))


@pytest.mark.parametrize("content", [endless, broken])
async def test_a_status_that_says_no_counts_whatever_its_body(content: type) -> None:
    response = await exchanged(httpx.Response(500, content=content()))
    assert (response.status_code, response.content) == (500, b"")


async def test_a_packed_answer_is_unpacked_once() -> None:
    packed = httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=_gzip(b'{"id": "1"}'))
    assert (await exchanged(packed)).json() == {"id": "1"}
    with pytest.raises(UnknownOutcome, match="DecodingError"):
        await exchanged(httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=_Plain()))


class _Plain(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"not packed at all"


def _gzip(content: bytes) -> bytes:
    import gzip

    return gzip.compress(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"errors": [{"message": "Too long"}]}', "Too long"),
        (b'{"errors": [{"message": "%s"}]}' % (b"x" * 300), "x" * 200),
        (b'{"errors": [{"message": null}]}', None),
        (b'{"errors": [{"message": {"to": "+18045551234"}}]}', None),
        (b'{"errors": []}', None),
        (b'{"errors": {}}', None),
        (b'{"errors": "none"}', None),
        (b"<html>", None),
    ],
)
def test_a_reason_is_a_text_at_its_place(content: bytes, reason: str | None) -> None:
    assert reason_in(httpx.Response(400, content=content), "errors", 0, "message") == reason


async def test_a_redirect_is_an_answer_like_any_other() -> None:
    response = await exchanged(httpx.Response(307, headers={"Location": "http://elsewhere.test/"}))
    assert response.status_code == 307
