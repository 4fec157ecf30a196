"""Lists read from a replica: never without the caller's own writes, and from the primary where it lags or is away."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from sqlalchemy.engine import make_url

from app.config import Settings
from app.doctor.examination import examine
from tests.conftest import database_named, execute, make_settings
from tests.factories import sms, until
from tests.faults import rig
from tests.faults.rig import Postgres
from tests.faults.standby import Standby, value_of
from tests.logs import captured
from tests.tenancy import bearer, make_key
from tests.wire import problem_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
LISTS = ("/api/messages", "/api/messages?limit=1", "/api/conversations", "/api/conversations/1/messages")
PATHS = (*LISTS, "/api/messages/1", "/api/conversations/1", "/api/search?q=hello")


async def test_callers_read_the_replica_but_for_what_they_wrote(
    tmp_path: Path, primary: Postgres, standby: Standby, serve: Serve
) -> None:
    url = primary.new_database()
    read_url = database_named(standby.url, str(make_url(url).database))
    writer, reader = bearer(make_key(url)), bearer(make_key(url))
    replicated = partial(standby.has_all_of, primary)
    settings = make_settings(database_url=url, data_dir=tmp_path)

    plain = await serve(settings)
    assert (await plain.post("/api/messages/sms", json=sms(), headers=writer)).status_code == 200
    assert (await plain.post("/api/messages/sms", json=sms(), headers=writer)).status_code == 200
    for path in ("/api/messages?status=delivered", "/api/search?q=hello"):
        await until(partial(plain.get, path, headers=reader), lambda answer: len(answer.json()) == 2)
    before = {path: await plain.get(path, headers=reader) for path in PATHS}
    await rig.until(replicated, within_seconds=60, why="a standby that follows")

    with_replica = settings.model_copy(
        update=settings_of_replica(read_url, lag_seconds=600) | {"worker_enabled": False}
    )
    one, other = await serve(with_replica), await serve(with_replica)
    impatient = await serve(with_replica.model_copy(update={"database_read_lag_seconds": 0.5}))

    async def read_there() -> int:
        """Ask all of them for a list; the number of connections by which the standby was asked."""
        for client in (one, other, impatient):
            assert (await client.get("/api/messages", headers=reader)).status_code == 200
        asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%messages%'"
        return int(value_of(read_url, f"{asked} AND pid <> pg_backend_pid()"))

    await until(read_there, lambda connections: connections == 3)
    execute(standby.url, "SELECT pg_wal_replay_pause()")
    written = await one.post("/api/messages/sms", json=sms(body="Not there yet"), headers=writer)
    assert written.status_code == 200

    def messages(client: httpx.AsyncClient, **headers: str) -> Callable[[], Awaitable[int]]:
        async def count() -> int:
            answer = await client.get("/api/messages", headers=headers)
            assert answer.status_code == 200, answer.text
            return len(answer.json())

        return count

    # Another caller reads the replica, and the same bytes as before.
    await until(messages(one, **reader), lambda count: count == 2)
    for path in PATHS:
        answer = await one.get(path, headers=reader)
        assert (answer.status_code, answer.headers.get("link")) == (200, before[path].headers.get("link"))
        assert answer.content == before[path].content, path
    # So does a page of the inbox. Its parts are asked for after an event, which must not be newer than they are.
    page, part = await one.get("/inbox/c/1"), await one.get("/inbox/c/1", headers={"HX-Request": "true"})
    assert ("Not there yet" in page.text, "Not there yet" in part.text) == (False, True)
    # The caller who wrote reads the primary: in another process by the header that the answer had.
    assert await messages(one, **writer)() == 3
    await until(messages(other, **writer), lambda count: count == 2)
    told = {"Read-After": written.headers["read-after"]}
    assert await messages(other, **writer, **told)() == 3
    assert await messages(other, **reader, **told)() == 3
    problem_of(await other.get("/api/messages", headers=reader | {"Read-After": "now"}), 422)
    # A read within a change, and what the replica lacks, are the primary's.
    shown = await one.get(f"/api/messages/{written.json()['message_id']}", headers=reader)
    assert shown.json()["body"] == "Not there yet"
    changed = await one.patch("/api/conversations/1", json={"status": "closed"}, headers=writer)
    assert changed.json()["status"] == "closed"
    assert (await one.get("/api/conversations/1", headers=writer)).json()["status"] == "closed"
    assert (await one.get("/api/conversations/1", headers=reader)).json()["status"] == "open"
    # A replica that is too far behind is left alone.
    log = captured()

    async def said() -> str:
        await messages(impatient, **reader)()
        return log.getvalue()

    await until(messages(impatient, **reader), lambda count: count == 3)
    await until(said, lambda lines: "replica_left_alone" in lines and "too far behind" in lines)

    execute(standby.url, "SELECT pg_wal_replay_resume()")
    await until(messages(one, **reader), lambda count: count == 3)
    await anyio.to_thread.run_sync(standby.stop_immediately)
    for _ in range(20):
        assert await messages(one, **reader)() == 3
    found = await anyio.to_thread.run_sync(examine, with_replica)
    [finding] = [each for name, each in found.findings if name == "replica"]
    assert "can't be asked" in finding.text
    await anyio.to_thread.run_sync(standby.start)
    found = await anyio.to_thread.run_sync(examine, with_replica)
    assert [each.text for name, each in found.findings if name == "replica"] == ["less than 600 s behind"]


def settings_of_replica(url: str, *, lag_seconds: float) -> dict[str, Any]:
    read = make_settings(database_read_url=url, database_read_lag_seconds=lag_seconds)
    return {name: getattr(read, name) for name in ("database_read_url", "database_read_lag_seconds")}
