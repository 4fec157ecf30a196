"""Actions on a message besides sending it: schedule, call back, let expire, retry, list, and explain."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from app.config import Settings
from app.domain import MessageStatus
from app.providers.base import (
    BaseProvider,
    CredentialsRefused,
    PermanentFailure,
    ProviderResult,
    Receipt,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.registry import provider_registry
from tests.cases import each_case
from tests.conftest import client_of, started
from tests.factories import SENDS, email, sms, sms_webhook, until
from tests.test_worker import Scripted
from tests.wire import locations_of, problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
OK = ProviderResult("vendor-1")


def ahead(**time: float) -> str:
    return (datetime.now(UTC) + timedelta(**time)).isoformat()


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """The provider of texts; a test sets its answers."""
    provider = Scripted(OK)
    monkeypatch.setitem(provider_registry, "scripted", provider)
    return provider


@pytest.fixture
def quick(settings: Settings, provider: BaseProvider) -> Settings:
    changes = {
        "routes": {"sms": ["scripted"]},
        "retry_base_seconds": 0.01,
        "max_attempts": 3,
        "worker_poll_seconds": 0.05,
    }
    return settings.model_copy(update=changes)


@pytest.fixture
async def busy(serve: Serve, quick: Settings) -> httpx.AsyncClient:
    """A client of an application that delivers."""
    return await serve(quick)


@pytest.fixture
async def idle(serve: Serve, quick: Settings) -> httpx.AsyncClient:
    """A client of an application that delivers nothing."""
    return await serve(quick.model_copy(update={"worker_enabled": False}))


async def post(client: httpx.AsyncClient, **changes: object) -> str:
    answer = await client.post("/api/messages/sms", json=sms(**changes))
    assert answer.status_code == 200, answer.text
    message_id: str = answer.json()["message_id"]
    return message_id


async def detail(client: httpx.AsyncClient, message_id: str) -> dict[str, Any]:
    message: dict[str, Any] = (await client.get(f"/api/messages/{message_id}")).json()
    return message


async def becomes(client: httpx.AsyncClient, message_id: str, status: str) -> dict[str, Any]:
    return await until(lambda: detail(client, message_id), lambda message: message["status"] == status)


async def timeline(client: httpx.AsyncClient, message_id: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/api/messages/{message_id}/timeline")
    assert answer.status_code == 200
    steps: list[dict[str, Any]] = answer.json()
    moments = [datetime.fromisoformat(step["at"]) for step in steps if step["kind"] not in {"next", "lease"}]
    assert moments == sorted(moments)
    return steps


async def sentences(client: httpx.AsyncClient, message_id: str) -> list[str]:
    return [step["sentence"] for step in await timeline(client, message_id)]


async def told(client: httpx.AsyncClient, *receipts: Receipt) -> None:
    """As if the provider had called back."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    app = cast(FastAPI, transport.app)
    for receipt in receipts:
        await app.state.services.callback_items.accept("scripted", receipt)


# Scheduling


@pytest.mark.parametrize("path", SENDS)
async def test_a_message_with_a_time_is_scheduled(idle: httpx.AsyncClient, path: str) -> None:
    moment = datetime.now(UTC) + timedelta(days=30)
    answer = await idle.post(path, json=SENDS[path](send_at=moment.isoformat()))
    message = await detail(idle, answer.json()["message_id"])
    assert message["status"] == "scheduled"
    assert datetime.fromisoformat(message["due_at"]) == moment
    assert await sentences(idle, str(message["id"])) == [
        "It was accepted and stored.",
        "It is scheduled to leave then.",
    ]


@pytest.mark.slow
async def test_a_scheduled_message_leaves_when_it_is_due_and_not_before(
    busy: httpx.AsyncClient, provider: Scripted
) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=3)
    scheduled = await post(busy, body="scheduled", send_at=moment.isoformat())
    await becomes(busy, await post(busy, body="now"), "sent")
    message = await becomes(busy, scheduled, "sent")
    assert sorted(payload.body for payload in provider.handed) == ["now", "scheduled"]
    [attempt] = message["attempts"]
    assert datetime.fromisoformat(attempt["started_at"]) >= moment


async def test_who_waits_for_a_scheduled_message_is_answered_at_once(busy: httpx.AsyncClient) -> None:
    given = sms(send_at=ahead(days=1))
    answer = await busy.post("/api/messages/sms", json=given, headers={"Prefer": "wait=30"})
    assert answer.json()["provider_message_id"] is None


@each_case("send_at", [{"seconds": -1}, {"days": -400}, {"days": 367}, {"days": 10_000}], ids=lambda time: str(time))
async def test_a_message_is_scheduled_for_the_future_and_at_most_a_year_ahead(
    untouched: httpx.AsyncClient, send_at: dict[str, float]
) -> None:
    for path, make in SENDS.items():
        answer = await untouched.post(path, json=make(send_at=ahead(**send_at)))
        assert locations_of(answer) == ["body.send_at"]


@each_case("send_at", ["tomorrow", 1767225600, "2027-01-01", "", True])
async def test_a_time_to_leave_is_a_time(untouched: httpx.AsyncClient, send_at: object) -> None:
    answer = await untouched.post("/api/messages/sms", json=sms(send_at=send_at))
    assert locations_of(answer) == ["body.send_at"]


# Expiry


async def test_a_message_can_not_expire_before_it_leaves_or_before_it_was_sent(untouched: httpx.AsyncClient) -> None:
    over = sms(send_at=ahead(days=2), expires_at=ahead(days=1))
    problem_of(await untouched.post("/api/messages/sms", json=over), 422)
    moment = ahead(days=1)
    problem_of(await untouched.post("/api/messages/sms", json=sms(send_at=moment, expires_at=moment)), 422)
    answer = await untouched.post("/api/messages/sms", json=sms(expires_at=ahead(seconds=-1)))
    assert locations_of(answer) == ["body.expires_at"]


def outcomes_of(message: dict[str, Any]) -> list[str | None]:
    return [attempt["outcome"] for attempt in message["attempts"]]


@pytest.mark.slow
async def test_a_message_that_could_not_leave_in_time_is_expired_and_never_handed_over(
    busy: httpx.AsyncClient, provider: Scripted
) -> None:
    provider.answers = [TemporaryFailure("busy", retry_after=600)]
    message_id = await post(busy, expires_at=ahead(seconds=4))
    await until(lambda: detail(busy, message_id), lambda message: outcomes_of(message) == ["temporary"])
    provider.answers = [OK]
    message = await becomes(busy, message_id, "expired")
    assert (message["due_at"], len(provider.handed)) == (None, 1)
    said = await sentences(busy, message_id)
    assert said[-1] == "Its time ran out before it left."
    behind = await becomes(busy, await post(busy), "sent")  # and holds up no other message
    assert len(provider.handed) == 2
    assert str(behind["id"]) != message_id


@pytest.mark.slow
async def test_what_may_have_left_does_not_expire_and_is_followed_up_at_its_pace(
    busy: httpx.AsyncClient, provider: Scripted
) -> None:
    provider.honours_idempotency_key = True
    provider.answers = [UnknownOutcome("cut off"), TemporaryFailure("busy", retry_after=4), OK]
    message_id = await post(busy, expires_at=ahead(seconds=3))
    message = await becomes(busy, message_id, "sent")
    _, second, third = message["attempts"]
    pause = datetime.fromisoformat(third["started_at"]) - datetime.fromisoformat(second["finished_at"])
    assert pause >= timedelta(seconds=3.9)
    assert "expired" not in [step["kind"] for step in await timeline(busy, message_id)]


async def test_a_message_that_expires_later_leaves_in_time(busy: httpx.AsyncClient) -> None:
    message = await becomes(busy, await post(busy, expires_at=ahead(days=1)), "sent")
    assert message["due_at"] is None


# Calling back


@pytest.mark.parametrize("status", ["scheduled", "queued"])
async def test_a_message_that_has_not_left_can_be_called_back(idle: httpx.AsyncClient, status: str) -> None:
    message_id = await post(idle, **({"send_at": ahead(days=1)} if status == "scheduled" else {}))
    assert (await detail(idle, message_id))["status"] == status
    answer = await idle.post(f"/api/messages/{message_id}/cancel")
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["due_at"]) == ("canceled", None)
    assert (await sentences(idle, message_id))[-1] == "It was called back before it left."


@pytest.mark.slow
async def test_a_canceled_message_is_never_handed_over(
    idle: httpx.AsyncClient, serve: Serve, quick: Settings, provider: Scripted
) -> None:
    for changes in ({}, {"send_at": ahead(seconds=3)}):
        called_back = await post(idle, body="called back", **changes)
        await idle.post(f"/api/messages/{called_back}/cancel")
    after = await post(idle, body="after", send_at=ahead(seconds=3.2))
    await becomes(await serve(quick), after, "sent")
    assert [payload.body for payload in provider.handed] == ["after"]
    assert (await detail(idle, called_back))["status"] == "canceled"


async def test_a_message_that_was_refused_for_now_can_be_called_back(
    busy: httpx.AsyncClient, provider: Scripted
) -> None:
    provider.answers = [TemporaryFailure("busy", retry_after=600)]
    message_id = await post(busy)
    await until(lambda: timeline(busy, message_id), lambda steps: "outcome" in [step["kind"] for step in steps])
    assert (await busy.post(f"/api/messages/{message_id}/cancel")).json()["status"] == "canceled"


async def test_what_has_left_can_not_be_called_back(busy: httpx.AsyncClient, provider: Scripted) -> None:
    sent = await post(busy)
    await becomes(busy, sent, "sent")
    problem = problem_of(await busy.post(f"/api/messages/{sent}/cancel"), 409)
    assert problem["detail"] == "The message is sent: only one that has not left can be called back."
    provider.answers = [UnknownOutcome("cut off")]
    doubtful = await post(busy)
    await becomes(busy, doubtful, "unknown")
    problem_of(await busy.post(f"/api/messages/{doubtful}/cancel"), 409)
    provider.answers = [PermanentFailure("no such number")]
    failed = await post(busy)
    await becomes(busy, failed, "failed")
    problem_of(await busy.post(f"/api/messages/{failed}/cancel"), 409)


async def test_what_may_have_left_can_not_be_called_back_even_if_it_is_turned_away_again(
    busy: httpx.AsyncClient, provider: Scripted
) -> None:
    provider.answers = [UnknownOutcome("cut off"), TemporaryFailure("busy", retry_after=600)]
    message_id = await post(busy)
    await becomes(busy, message_id, "unknown")
    await busy.post(f"/api/messages/{message_id}/retry")
    await until(lambda: detail(busy, message_id), lambda it: (it["status"], it["attempt_count"]) == ("unknown", 2))
    problem_of(await busy.post(f"/api/messages/{message_id}/cancel"), 409)


async def test_a_second_cancel_says_that_it_is_canceled(idle: httpx.AsyncClient) -> None:
    message_id = await post(idle)
    await idle.post(f"/api/messages/{message_id}/cancel")
    problem = problem_of(await idle.post(f"/api/messages/{message_id}/cancel"), 409)
    assert "canceled" in problem["detail"]
    assert (await sentences(idle, message_id)).count("It was called back before it left.") == 1


async def test_what_came_in_can_be_neither_called_back_nor_retried(idle: httpx.AsyncClient) -> None:
    await idle.post("/api/webhooks/sms", json=sms_webhook())
    for action in ("cancel", "retry"):
        problem_of(await idle.post(f"/api/messages/1/{action}"), 409)
    assert await sentences(idle, "1") == ["It came in from sms."]


@each_case("action", ["cancel", "retry", "timeline"])
async def test_a_message_that_there_is_not_is_not_found(untouched: httpx.AsyncClient, action: str) -> None:
    method = "GET" if action == "timeline" else "POST"
    assert (
        problem_of(await untouched.request(method, f"/api/messages/1/{action}"), 404)["title"] == "Message not found"
    )
    assert (await untouched.request(method, f"/api/messages/x/{action}")).status_code == 422


# Trying again


async def test_a_failed_message_is_retried_with_a_full_count_of_attempts(
    busy: httpx.AsyncClient, provider: Scripted
) -> None:
    provider.answers = [TemporaryFailure("busy")]
    message_id = await post(busy)
    await becomes(busy, message_id, "failed")
    answer = await busy.post(f"/api/messages/{message_id}/retry")
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["status_reason"]) == ("queued", None)
    message = await becomes(busy, message_id, "failed")
    assert [attempt["number"] for attempt in message["attempts"]] == [1, 2, 3, 4, 5, 6]
    provider.answers = [OK]
    await busy.post(f"/api/messages/{message_id}/retry")
    message = await becomes(busy, message_id, "sent")
    assert len(message["attempts"]) == 7
    assert (await sentences(busy, message_id)).count("Somebody had it tried again.") == 2


async def test_a_message_whose_outcome_is_unknown_is_retried(busy: httpx.AsyncClient, provider: Scripted) -> None:
    provider.answers = [UnknownOutcome("cut off"), OK]
    message_id = await post(busy)
    await becomes(busy, message_id, "unknown")
    assert (await busy.post(f"/api/messages/{message_id}/retry")).status_code == 200
    message = await becomes(busy, message_id, "sent")
    assert [attempt["outcome"] for attempt in message["attempts"]] == ["unknown", "accepted"]


@pytest.mark.parametrize(
    ("answers", "same"),
    [
        ([UnknownOutcome("cut off"), *[TemporaryFailure("busy")] * 2], True),
        ([PermanentFailure("no such number")], False),
        ([TemporaryFailure("busy")] * 3, False),
        ([UnknownOutcome("cut off"), PermanentFailure("no such number")], False),
    ],
    ids=["in doubt", "refused", "busy", "in doubt, then refused"],
)
async def test_a_retry_goes_by_another_key_unless_it_may_have_gone_out_under_the_first(
    busy: httpx.AsyncClient, provider: Scripted, answers: list[Exception], same: bool
) -> None:
    provider.honours_idempotency_key = True
    provider.answers = [*answers, OK]
    message_id = await post(busy)
    await becomes(busy, message_id, "failed")
    await busy.post(f"/api/messages/{message_id}/retry")
    await becomes(busy, message_id, "sent")
    *earlier, last = [payload.idempotency_key for payload in provider.handed]
    assert len(set(earlier)) == 1
    assert (last == earlier[0]) is same


async def test_a_retry_counts_against_the_daily_cap_and_beyond_it_changes_nothing(
    serve: Serve, quick: Settings, provider: Scripted
) -> None:
    provider.answers = [PermanentFailure("no such number")]
    busy = await serve(quick.model_copy(update={"daily_caps": {"US": 2}}))
    message_id = await post(busy)
    await becomes(busy, message_id, "failed")
    assert (await busy.post(f"/api/messages/{message_id}/retry")).status_code == 200
    await until(lambda: detail(busy, message_id), lambda message: len(message["attempts"]) == 2)
    before = await becomes(busy, message_id, "failed")
    refused = await busy.post(f"/api/messages/{message_id}/retry")
    assert problem_of(refused, 429)["title"] == "Daily cap reached"
    assert 0 < int(refused.headers["retry-after"]) <= 86_401
    assert await detail(busy, message_id) == before
    assert (await sentences(busy, message_id)).count("Somebody had it tried again.") == 1


async def test_a_retry_that_is_refused_costs_nothing(serve: Serve, quick: Settings, provider: Scripted) -> None:
    provider.answers = [PermanentFailure("no such number")]
    busy = await serve(quick.model_copy(update={"daily_caps": {"US": 3}}))
    message_id = await post(busy)
    await becomes(busy, message_id, "failed")
    provider.answers = [TemporaryFailure("busy", retry_after=600)]
    together = await asyncio.gather(*(busy.post(f"/api/messages/{message_id}/retry") for _ in range(5)))
    statuses = [answer.status_code for answer in together]
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 409, 429}
    problem_of(await busy.post(f"/api/messages/{message_id}/retry"), 409)
    await post(busy)
    problem_of(await busy.post("/api/messages/sms", json=sms()), 429)


async def test_nothing_else_is_retried(idle: httpx.AsyncClient, serve: Serve, quick: Settings) -> None:
    queued = await post(idle)
    scheduled = await post(idle, send_at=ahead(days=1))
    for message_id, status in ((queued, "queued"), (scheduled, "scheduled")):
        problem = problem_of(await idle.post(f"/api/messages/{message_id}/retry"), 409)
        assert problem["detail"] == f"The message is {status}: only failed and unknown ones can be retried."
    await idle.post(f"/api/messages/{queued}/cancel")
    problem_of(await idle.post(f"/api/messages/{queued}/retry"), 409)
    busy = await serve(quick)
    sent = await post(busy)
    await becomes(busy, sent, "sent")
    problem_of(await busy.post(f"/api/messages/{sent}/retry"), 409)


async def test_a_retry_after_a_failed_receipt_ends_as_the_new_receipts_say(
    busy: httpx.AsyncClient, provider: Scripted
) -> None:
    provider.answers = [ProviderResult("vendor-1"), ProviderResult("vendor-2")]
    message_id = await post(busy)
    await becomes(busy, message_id, "sent")
    await told(busy, Receipt("1", MessageStatus.FAILED, "vendor-1", detail="The phone is off."))
    await becomes(busy, message_id, "failed")
    await busy.post(f"/api/messages/{message_id}/retry")
    await becomes(busy, message_id, "sent")
    await told(busy, Receipt("2", MessageStatus.FAILED, "vendor-2", detail="Still off."))
    assert (await detail(busy, message_id))["status_reason"] == "Still off."
    said = await sentences(busy, message_id)
    assert "scripted says it failed: Still off." in said  # that did change something


@pytest.mark.slow
@pytest.mark.parametrize("status", [MessageStatus.FAILED, MessageStatus.UNDELIVERED])
async def test_a_late_word_that_an_earlier_attempt_failed_does_not_end_a_retry(
    busy: httpx.AsyncClient, provider: Scripted, status: MessageStatus
) -> None:
    provider.answers = [
        ProviderResult("vendor-1"),
        TemporaryFailure("busy", retry_after=1),
        ProviderResult("vendor-2"),
    ]
    message_id = await post(busy)
    await becomes(busy, message_id, "sent")
    await told(busy, Receipt("1", MessageStatus.FAILED, "vendor-1", detail="The phone is off."))
    await busy.post(f"/api/messages/{message_id}/retry")
    await until(lambda: detail(busy, message_id), lambda it: (it["status"], it["attempt_count"]) == ("queued", 2))
    await told(busy, Receipt("2", status, "vendor-1", detail="Off for good."))
    assert (await detail(busy, message_id))["status"] == "queued"
    await becomes(busy, message_id, "sent")
    await told(busy, Receipt("3", status, "vendor-1", detail="Off to the last."))
    assert (await detail(busy, message_id))["status"] == "sent"
    said = [step["sentence"] for step in await timeline(busy, message_id) if step["kind"] == "receipt"]
    assert [sentence.endswith("That changed nothing.") for sentence in said] == [False, True, True]
    await told(busy, Receipt("4", status, "vendor-1"), Receipt("5", MessageStatus.FAILED, "vendor-2", detail="Off."))
    assert (await detail(busy, message_id))["status_reason"] == "Off."


async def test_a_late_word_that_it_failed_does_not_undo_that_somebody_wants_another_try(
    idle: httpx.AsyncClient, serve: Serve, quick: Settings, provider: Scripted
) -> None:
    provider.answers = [ProviderResult("vendor-1")]
    async with AsyncExitStack() as stack:
        busy = await stack.enter_async_context(client_of(await started(stack, quick)))
        message_id = await post(busy)
        await becomes(busy, message_id, "sent")
    await told(idle, Receipt("1", MessageStatus.FAILED, "vendor-1"))
    assert (await idle.post(f"/api/messages/{message_id}/retry")).status_code == 200
    await told(idle, Receipt("2", MessageStatus.UNDELIVERED, "vendor-1"))
    assert (await detail(idle, message_id))["status"] == "queued"
    assert (await timeline(idle, message_id))[-2]["sentence"].endswith("That changed nothing.")


# Listing


@pytest.fixture
async def listed(serve: Serve, quick: Settings, provider: Scripted) -> httpx.AsyncClient:
    """Two sent, one failed, one scheduled, one queued mail, one that came in: ids 1 to 6."""
    client = await serve(quick.model_copy(update={"routes": {"sms": ["scripted"], "email": ["nobody"]}}))
    for _ in range(2):
        provider.answers = [ProviderResult()]
        await becomes(client, await post(client), "sent")
    provider.answers = [PermanentFailure("refused")]
    await becomes(client, await post(client, to="+18045559999"), "failed")
    await post(client, send_at=ahead(days=1))
    await client.post("/api/messages/email", json=email(send_at=ahead(days=2)))
    await client.post("/api/webhooks/sms", json=sms_webhook())
    return client


async def ids_of(client: httpx.AsyncClient, **wanted: object) -> list[int]:
    answer = await client.get("/api/messages", params={name: str(value) for name, value in wanted.items()})
    assert answer.status_code == 200, answer.text
    return [message["id"] for message in answer.json()]


async def test_messages_are_listed_newest_first_by_status_provider_conversation_and_time(
    listed: httpx.AsyncClient,
) -> None:
    assert await ids_of(listed) == [6, 5, 4, 3, 2, 1]
    assert await ids_of(listed, status="sent") == [2, 1]
    assert await ids_of(listed, status="failed") == [3]
    assert await ids_of(listed, status="scheduled") == [5, 4]
    assert await ids_of(listed, status="received") == [6]
    assert await ids_of(listed, status="expired") == []
    assert await ids_of(listed, provider="scripted") == [3, 2, 1]
    assert await ids_of(listed, provider="scripted", status="failed") == [3]
    assert await ids_of(listed, provider="sms") == [6]
    assert await ids_of(listed, provider="nobody") == []
    conversation = (await detail(listed, "1"))["conversation_id"]
    assert await ids_of(listed, conversation_id=conversation) == [6, 4, 2, 1]
    assert await ids_of(listed, conversation_id=conversation, status="scheduled") == [4]
    assert await ids_of(listed, conversation_id=999) == []
    third, fifth = [(await detail(listed, message_id))["created_at"] for message_id in ("3", "5")]
    assert await ids_of(listed, since=third) == [6, 5, 4, 3]
    assert await ids_of(listed, until=third) == [2, 1]
    assert await ids_of(listed, since=third, until=fifth) == [4, 3]
    assert await ids_of(listed, since=third, until=third) == []


async def test_a_message_in_doubt_is_listed_with_who_may_have_it_and_one_that_was_taken_with_who_took_it(
    serve: Serve, quick: Settings, provider: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(provider_registry, "second", Scripted(OK))
    client = await serve(quick.model_copy(update={"routes": {"sms": ["scripted", "second"]}, "breaker_failures": 2}))
    provider.answers = [UnknownOutcome("cut off"), TemporaryFailure("down")]
    in_doubt = int((await becomes(client, await post(client), "unknown"))["id"])
    taken = int((await becomes(client, await post(client), "sent"))["id"])
    assert await ids_of(client, provider="scripted") == [in_doubt]
    assert await ids_of(client, provider="second") == [taken]


@each_case("wanted", [{}, {"status": "scheduled"}, {"provider": "scripted"}])
@each_case("limit", [1, 2, 4])
async def test_a_list_can_be_paged_through_both_ways_without_losing_its_filter(
    idle: httpx.AsyncClient, wanted: dict[str, str], limit: int
) -> None:
    for number in range(6):
        await post(idle, **({"send_at": ahead(days=1)} if number % 2 else {}))
    expected = await ids_of(idle, **wanted)
    pages: list[list[int]] = []
    answer = await idle.get("/api/messages", params={**wanted, "limit": limit})
    while True:
        pages.append([message["id"] for message in answer.json()])
        if "next" not in answer.links:
            break
        answer = await idle.get(answer.links["next"]["url"])
    assert [id for page in pages for id in page] == expected
    backwards = [pages[-1]]
    while "prev" in answer.links:
        answer = await idle.get(answer.links["prev"]["url"])
        backwards.append([message["id"] for message in answer.json()])
    assert backwards[::-1] == pages


@each_case(
    "wanted",
    [
        {"status": "lost"},
        {"status": ""},
        {"conversation_id": "0"},
        {"conversation_id": "x"},
        {"since": "yesterday"},
        {"until": "1"},
        {"provider": "p" * 64},
        {"limit": "0"},
        {"cursor": "x"},
    ],
    ids=str,
)
async def test_a_filter_that_makes_no_sense_is_named(untouched: httpx.AsyncClient, wanted: dict[str, str]) -> None:
    answer = await untouched.get("/api/messages", params=wanted)
    assert locations_of(answer) == [f"query.{name}" for name in wanted]


# The timeline


async def test_a_timeline_tells_every_step_in_order(busy: httpx.AsyncClient, provider: Scripted) -> None:
    provider.answers = [TemporaryFailure("busy."), UnknownOutcome("cut off"), OK]
    message_id = await post(busy)
    await becomes(busy, message_id, "unknown")
    await busy.post(f"/api/messages/{message_id}/retry")
    await becomes(busy, message_id, "sent")
    await told(
        busy,
        Receipt("1", MessageStatus.SENT, "vendor-1"),
        Receipt("2", MessageStatus.UNDELIVERED, "vendor-1", detail="The phone is off."),
        Receipt("3", MessageStatus.DELIVERED, "vendor-1"),
        Receipt("4", MessageStatus.FAILED, "vendor-1", detail="Late"),
        Receipt("5", None, "vendor-1"),
        Receipt("6", MessageStatus.READ, "vendor-1"),
    )
    steps = await timeline(busy, message_id)
    assert [(step["kind"], step["sentence"]) for step in steps] == [
        ("accepted", "It was accepted and stored."),
        ("routed", "It goes to scripted, the first of its route."),
        ("attempt", "Attempt 1: handed to scripted."),
        ("outcome", "scripted did not take it this time: busy."),
        ("attempt", "Attempt 2: handed to scripted."),
        ("outcome", "Whether scripted got it can't be told: cut off."),
        ("retried", "Somebody had it tried again."),
        ("routed", "It goes to scripted, because it may have it already."),
        ("attempt", "Attempt 3: handed to scripted."),
        ("outcome", "scripted accepted it as vendor-1."),
        ("receipt", "scripted took it. That changed nothing."),
        ("receipt", "scripted says it could not be delivered: The phone is off."),
        ("receipt", "scripted says it was delivered."),
        ("receipt", "scripted says it failed: Late. That changed nothing."),
        ("receipt", "scripted sent a word that has no meaning here; it is kept as it came."),
        ("receipt", "scripted says it was read."),
    ]
    for step in steps:
        of_attempt = step["kind"] in {"routed", "attempt", "outcome"}
        assert (step["attempt"] is not None) == of_attempt
        assert (step["provider_type"] == "scripted") == (of_attempt or step["kind"] == "receipt")
        assert (step["seconds"] is not None) == (step["kind"] == "outcome")
        assert step["seconds"] is None or 0 <= step["seconds"] < 60


async def test_a_timeline_ends_with_the_next_try(busy: httpx.AsyncClient, provider: Scripted) -> None:
    provider.answers = [TemporaryFailure("busy", retry_after=600)]
    message_id = await post(busy)
    await until(lambda: detail(busy, message_id), lambda it: (it["status"], it["attempt_count"]) == ("queued", 1))
    last = (await timeline(busy, message_id))[-1]
    assert (last["kind"], last["sentence"]) == (
        "next",
        "It is tried then, or as soon as its provider and its turn allow.",
    )
    assert last["at"] == (await detail(busy, message_id))["due_at"]


async def test_the_next_try_names_the_message_and_the_provider_that_it_waits_for(
    busy: httpx.AsyncClient, provider: Scripted
) -> None:
    provider.answers = [CredentialsRefused("401 Unauthorized")]
    first, second = await post(busy), await post(busy)
    await until(lambda: sentences(busy, first), lambda told: told[-1].endswith("scripted is paused."))
    assert (await sentences(busy, first))[-1] == "It is tried when it can be: scripted is paused."
    assert (await sentences(busy, second))[-1] == (
        f"It is tried when it can be: message {first} of its conversation has to leave first, and scripted is paused."
    )


async def test_a_provider_in_trouble_holds_up_nobody_who_may_go_to_the_next_of_the_route(
    serve: Serve, quick: Settings, provider: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(provider_registry, "second", Scripted(TemporaryFailure("busy", retry_after=600)))
    changes: dict[str, Any] = {"routes": {"sms": ["scripted", "second"]}, "in_doubt_after_timeout": "retry"}
    client = await serve(quick.model_copy(update=changes))
    provider.answers = [UnknownOutcome("cut off"), CredentialsRefused("401 Unauthorized")]
    doubtful = await post(client)
    unless = ", unless a receipt tells before what became of it"
    waits = {f"It is tried when it can be{end}: scripted is paused." for end in ("", unless)}
    await until(lambda: sentences(client, doubtful), lambda told: told[-1] in waits)
    free = await post(client, to="+18045559999")
    await until(lambda: detail(client, free), lambda it: (it["status"], it["attempt_count"]) == ("queued", 1))
    assert (await sentences(client, free))[-1] == "It is tried then, or as soon as its provider and its turn allow."


async def test_a_message_in_doubt_that_nobody_asks_for_again_says_what_it_waits_for(
    busy: httpx.AsyncClient, provider: Scripted
) -> None:
    provider.answers = [UnknownOutcome("cut off")]
    message_id = await post(busy)
    await becomes(busy, message_id, "unknown")
    last = (await timeline(busy, message_id))[-1]
    assert (last["kind"], last["sentence"]) == (
        "next",
        "It is not tried again by itself: it waits for a receipt that tells, or for somebody to retry it.",
    )


async def test_a_refusal_for_good_is_told_with_its_reason(busy: httpx.AsyncClient, provider: Scripted) -> None:
    provider.answers = [PermanentFailure("no such number")]
    message_id = await post(busy)
    await becomes(busy, message_id, "failed")
    assert (await sentences(busy, message_id))[-1] == "scripted refused it for good: no such number."


@pytest.mark.parametrize("failure", [PermanentFailure, UnknownOutcome])
async def test_what_a_provider_answered_is_kept_without_whole_addresses_and_keys(
    busy: httpx.AsyncClient, provider: Scripted, database_url: str, failure: type[PermanentFailure | UnknownOutcome]
) -> None:
    provider.answers = [failure("+18045551234 of jane.doe@example.com is barred for Bearer abcdef.ghijkl")]
    message_id = await post(busy)
    message = await until(lambda: detail(busy, message_id), lambda it: it["status"] in {"failed", "unknown"})
    redacted = "***1234 of j***@***.com is barred for Bearer ***"
    assert (message["status_reason"], message["attempts"][0]["detail"]) == (redacted, redacted)
    assert redacted in " ".join(await sentences(busy, message_id))
    assert rows_of(database_url, "SELECT status_reason FROM messages") == [(redacted,)]


async def test_what_a_receipt_says_is_kept_without_whole_addresses_and_keys_and_the_call_as_it_came(
    busy: httpx.AsyncClient, database_url: str
) -> None:
    message_id = await post(busy)
    await becomes(busy, message_id, "sent")
    said = "+18045551234 of jane.doe@example.com is barred for Bearer abcdef.ghijkl"
    await told(busy, Receipt("1", MessageStatus.FAILED, "vendor-1", detail=said, raw={"error": said}))
    redacted = "***1234 of j***@***.com is barred for Bearer ***"
    assert (await detail(busy, message_id))["status_reason"] == redacted
    assert f"scripted says it failed: {redacted}." in await sentences(busy, message_id)
    assert rows_of(database_url, "SELECT detail, raw FROM provider_events") == [(redacted, {"error": said})]


async def test_a_receipt_that_is_no_better_than_how_the_message_ended_here_says_that_it_changed_nothing(
    busy: httpx.AsyncClient, provider: Scripted, database_url: str
) -> None:
    provider.answers = [PermanentFailure("no such number")]
    message_id = await post(busy)
    await becomes(busy, message_id, "failed")
    await told(busy, Receipt("1", MessageStatus.SENT, idempotency_key=provider.handed[0].idempotency_key))
    assert (await detail(busy, message_id))["status"] == "failed"
    assert rows_of(database_url, "SELECT message_id FROM provider_events") == [(int(message_id),)]
    assert (await sentences(busy, message_id))[-1] == "scripted took it. That changed nothing."
