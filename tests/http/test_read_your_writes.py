"""The times by which callers who have written are told from others."""

import time
from typing import Any

import pytest

from app.db.connectivity.replica import written_at
from app.domain import DEFAULT_TENANT_ID
from app.errors import InvalidRequest
from app.http.read_your_writes import ReadYourWrites
from app.main import create_app
from app.services.tenancy.keys import Access
from tests.cases import each_case
from tests.conftest import make_settings

pytestmark = pytest.mark.anyio
LAG = 5
APP = create_app(make_settings())


def scope(method: str = "GET", path: str = "/api/messages", prefix: str = "key", **headers: str) -> dict[str, Any]:
    written = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    access = Access(DEFAULT_TENANT_ID, frozenset(), prefix)
    request = {"method": method, "path": path, "headers": written, "headers_by_name": dict(written)}
    return {**request, "app": APP, "scheme": "http", "state": {"access": access}}


async def headers_of(own_writes: ReadYourWrites, asked: dict[str, Any]) -> dict[str, str]:
    """The headers of an answer."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await own_writes.begin(asked, send)({"type": "http.response.start", "status": 200})
    return {name.decode(): value.decode() for name, value in sent[0].get("headers", ())}


def shown(own_writes: ReadYourWrites, **asked: Any) -> float | None:
    """The time of the writes that a request has to be shown."""

    async def send(_: Any) -> None: ...

    own_writes.begin(scope(**asked), send)
    return written_at.get()


async def test_who_has_written_is_shown_it_and_others_need_not_be() -> None:
    own_writes = ReadYourWrites(make_settings(database_read_lag_seconds=LAG))
    began = time.time()
    told = await headers_of(own_writes, scope("POST"))
    assert written_at.get() is None
    written = shown(own_writes)
    assert written is not None
    assert written > began
    assert (shown(own_writes, prefix="another") or 0) < began
    assert (shown(own_writes, prefix="another", read_after=told["read-after"]) or 0) > began
    assert await headers_of(own_writes, scope("GET")) == {}


async def test_browsers_get_a_cookie_which_pages_take() -> None:
    one, other = ReadYourWrites(make_settings()), ReadYourWrites(make_settings())
    began = time.time()
    told = await headers_of(one, scope("POST", "/inbox/c/1/state"))
    cookie = told["set-cookie"].partition(";")[0]
    assert (shown(other, path="/inbox", cookie=cookie) or 0) > began
    assert shown(other, path="/inbox/c/1", hx_request="true") is None
    assert shown(other, path="/inbox/search", hx_request="true") is not None


@each_case("written", ["now", "2026-13-01", ""])
async def test_a_header_that_is_no_time_is_refused(written: str) -> None:
    with pytest.raises(InvalidRequest):
        shown(ReadYourWrites(make_settings()), read_after=written)


async def test_a_time_to_come_counts_as_now() -> None:
    found = shown(ReadYourWrites(make_settings()), read_after="9999-01-01T00:00:00Z")
    assert (found or 0) < time.time() + 60


async def test_callers_are_forgotten_once_a_replica_has_what_they_wrote() -> None:
    own_writes = ReadYourWrites(make_settings(database_read_lag_seconds=0.001))
    own_writes._seconds = 0
    for number in range(100):
        await headers_of(own_writes, scope("POST", prefix=f"key-{number}"))
    assert len(own_writes._written) < 10
