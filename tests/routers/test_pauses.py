"""The pause of a conversation in which two programs answer each other, as clients see it, and its end."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.providers.base import BaseProvider, OutboundMessage, ProviderResult
from app.providers.registry import provider_registry
from app.providers.simulated.in_process import SimulatedCarrier
from tests.conftest import execute
from tests.factories import SENDS, WEBHOOKS, sms, sms_webhook, until
from tests.wire import problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]


class Ledger(BaseProvider):
    """A provider of texts that lists what it has sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        self.sent.append(payload.body)
        return ProviderResult(f"sent-{len(self.sent)}")


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    ledger = Ledger()
    monkeypatch.setitem(provider_registry, "ledger", ledger)
    return ledger


@pytest.fixture
async def client(serve: Serve, settings: Settings, ledger: Ledger) -> httpx.AsyncClient:
    changes = {"routes": {"sms": ["ledger"]}, "loop_answers": 2, "worker_poll_seconds": 0.05}
    return await serve(settings.model_copy(update=changes))


async def come_in(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.post("/api/webhooks/sms", json=sms_webhook(messaging_provider_id=name))
    assert answer.status_code == 200, answer.text


async def send(client: httpx.AsyncClient, body: str, **changes: object) -> str:
    answer = await client.post("/api/messages/sms", json=sms(body=body, **changes))
    assert answer.status_code == 200, answer.text
    message_id: str = answer.json()["message_id"]
    return message_id


async def loop(client: httpx.AsyncClient, numbers: Iterable[int]) -> str:
    """Question and answer, by number; returns the id of the last answer."""
    for number in numbers:
        await come_in(client, f"question-{number}")
        last = await send(client, f"answer {number}")
    return last


async def conversation(client: httpx.AsyncClient) -> dict[str, Any]:
    [found] = (await client.get("/api/conversations")).json()
    assert isinstance(found, dict)
    return found


async def told(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """The entries of the event log about pauses, once there is one."""
    types = ["conversation.paused", "conversation.resumed"]

    async def events() -> list[dict[str, Any]]:
        page = (await client.get("/api/events", params={"types": types})).json()
        assert isinstance(page["events"], list)
        return page["events"]

    return await until(events, lambda found: bool(found))


async def test_a_pause_is_shown_and_explained_and_holds_what_is_accepted_from_then_on(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    await loop(client, range(2))
    assert "paused_until" not in await conversation(client)
    held = await loop(client, [2])
    later = await send(client, "later")
    paused = await conversation(client)
    [event] = await told(client)
    assert event["type"] == "conversation.paused"
    assert event["data"]["conversation"]["paused_until"] == paused["paused_until"]
    assert event["data"]["reason"].startswith("More than 2 answers within a minute: two programs")
    for message_id in (held, later):
        message = (await client.get(f"/api/messages/{message_id}")).json()
        assert (message["status"], message["due_at"]) == ("queued", paused["paused_until"])
        next_step = (await client.get(f"/api/messages/{message_id}/timeline")).json()[-1]
        assert "its conversation is paused until" in next_step["sentence"]
        assert f"POST /api/conversations/{paused['id']}/resume" in next_step["sentence"]
    await until(lambda: sent(ledger), lambda found: len(found) >= 2)
    assert set(ledger.sent) == {"answer 0", "answer 1"}


async def sent(ledger: Ledger) -> list[str]:
    return ledger.sent


async def test_resuming_sends_what_waited_in_order_and_scheduled_ones_at_their_time(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    await loop(client, range(3))
    scheduled = await send(client, "scheduled", send_at=(datetime.now(UTC) + timedelta(minutes=5)).isoformat())
    await send(client, "last")
    resume = f"/api/conversations/{(await conversation(client))['id']}/resume"
    answer = await client.post(resume)
    assert answer.status_code == 200, answer.text
    assert "paused_until" not in answer.json()
    await until(lambda: sent(ledger), lambda found: len(found) == 4)
    assert ledger.sent == ["answer 0", "answer 1", "answer 2", "last"]
    assert (await client.get(f"/api/messages/{scheduled}")).json()["status"] == "scheduled"
    assert [event["type"] for event in await told(client)] == ["conversation.paused", "conversation.resumed"]
    # Asking again changes nothing, and the count starts anew.
    assert (await client.post(resume)).json() == await conversation(client)
    await come_in(client, "another")
    await send(client, "and on")
    await until(lambda: sent(ledger), lambda found: found[-1] == "and on")
    assert len(await told(client)) == 2


@pytest.mark.parametrize("path", ["999999", "x"])
async def test_there_is_no_such_conversation(client: httpx.AsyncClient, database_url: str, path: str) -> None:
    answer = await client.post(f"/api/conversations/{path}/resume")
    problem_of(answer, 404 if path.isdigit() else 422)
    assert rows_of(database_url, "SELECT count(*) FROM events") == [(0,)]


async def test_many_that_waited_are_released_and_none_that_waits_for_a_retry(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    client = await serve(settings.model_copy(update={"loop_answers": 2, "worker_enabled": False}))
    await loop(client, range(3))
    await asyncio.gather(*(send(client, f"more {number}") for number in range(420)))
    execute(database_url, "UPDATE messages SET attempt_count = 1 WHERE body = 'answer 2'")
    await client.post(f"/api/conversations/{(await conversation(client))['id']}/resume")
    waiting = rows_of(database_url, "SELECT body FROM messages WHERE due_at > now()")
    assert waiting == [("answer 2",)]


class Looped(SimulatedCarrier):
    """A simulated carrier whose messages come in at their other end, which is ours too."""

    prefix = "looped"

    def __init__(self, client: httpx.AsyncClient, channel: str) -> None:
        super().__init__()
        self._client = client
        self._path = f"/api/webhooks/{channel}"
        self._id = {"sms": "messaging_provider_id", "email": "xillio_id"}[channel]

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        result = await super().send(payload)
        changes = {"from_": payload.from_address, "to": payload.to_address, self._id: f"in-{payload.message_id}"}
        assert (await self._client.post(self._path, json=WEBHOOKS[self._path](**changes))).status_code == 200
        return result


class Bots:
    """The programs at both ends: each answers everything that comes in."""

    def __init__(self, client: httpx.AsyncClient, channel: str) -> None:
        self._client = client
        self._path = f"/api/messages/{channel}"
        self._cursor: dict[str, str] = {}
        self.answers = 0
        self.pauses = 0

    async def begin(self) -> None:
        assert (await self._client.post(self._path, json=SENDS[self._path]())).status_code == 200

    async def work(self) -> int:
        """Read on in the log, and answer what has come in; the number of pauses so far."""
        page = (await self._client.get("/api/events", params=self._cursor)).json()
        self._cursor = {"after": page["cursor"]}
        for event in page["events"]:
            self.pauses += event["type"] == "conversation.paused"
            if event["type"] == "message.received":
                came_in = event["data"]["message"]
                answer = SENDS[self._path](from_=came_in["to"], to=came_in["from"], body="Thank you!")
                assert (await self._client.post(self._path, json=answer)).status_code == 200
                self.answers += 1
        return self.pauses

    async def is_idle(self) -> bool:
        """True when all that has come in is answered, and the one answer that is not sent waits."""
        await self.work()
        messages = (await self._client.get("/api/messages", params={"limit": 1000})).json()
        came_in = [each for each in messages if each["direction"] == "inbound"]
        waiting = [each for each in messages if each["status"] == "queued"]
        return len(waiting) == 1 and len(came_in) == self.answers == len(messages) // 2


@pytest.mark.slow
@pytest.mark.parametrize("channel", ["sms", "email"])
async def test_two_bots_that_answer_each_other_come_to_an_end(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch, channel: str
) -> None:
    client = await serve(settings.model_copy(update={"worker_poll_seconds": 0.05, "loop_answers": 5}))
    monkeypatch.setitem(provider_registry, channel, Looped(client, channel))
    bots = Bots(client, channel)
    await bots.begin()
    await until(bots.work, bool)
    await until(bots.is_idle, bool)
    assert bots.pauses == 1
    assert bots.answers >= 11  # five at each end, and the one that waits
