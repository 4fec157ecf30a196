"""Quiet hours: their spans by the clocks of recipients, what they hold, and until when."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, time, timedelta
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.phone_numbers import time_zone_of
from app.services.consent.quiet_hours import Span
from tests.conftest import execute
from tests.factories import CONTACT, email, sms, until
from tests.wire import locations_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
NIGHT = Span(time(21), time(8), "Europe/Berlin")
NOON = Span(time(12), time(13), "Europe/Berlin")
BERLIN, LONDON, NEW_YORK, TOLL_FREE = "+493012345678", "+447911123456", "+12125550123", "+18005550123"


def utc(written: str) -> datetime:
    return datetime.fromisoformat(written).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("span", "recipient", "moment", "until_"),
    [
        (NIGHT, BERLIN, "2026-01-10T19:59", None),  # 20:59 there
        (NIGHT, BERLIN, "2026-01-10T20:00", "2026-01-11T07:00"),
        (NIGHT, BERLIN, "2026-01-11T06:59", "2026-01-11T07:00"),
        (NIGHT, BERLIN, "2026-01-11T07:00", None),
        (NIGHT, LONDON, "2026-01-10T20:30", None),  # four zones, all of them at the same time
        (NIGHT, LONDON, "2026-01-10T21:00", "2026-01-11T08:00"),
        (NIGHT, NEW_YORK, "2026-01-11T02:30", "2026-01-11T13:00"),  # 21:30 there
        (NIGHT, NEW_YORK, "2026-01-10T20:30", None),
        (NIGHT, TOLL_FREE, "2026-01-10T20:30", "2026-01-11T07:00"),  # all of America: the tenant's zone counts
        (NIGHT, "person@example.com", "2026-01-10T20:30", "2026-01-11T07:00"),
        (NIGHT, "12345", "2026-01-10T20:30", "2026-01-11T07:00"),
        (NOON, BERLIN, "2026-01-10T11:30", "2026-01-10T12:00"),
        (NOON, BERLIN, "2026-01-10T12:00", None),
        # Clocks go forward at 02:00 on 29 March and back at 03:00 on 25 October.
        (NIGHT, BERLIN, "2026-03-28T21:00", "2026-03-29T06:00"),
        (NIGHT, BERLIN, "2026-10-24T20:00", "2026-10-25T07:00"),
        (Span(time(1), time(2, 30), "Europe/Berlin"), BERLIN, "2026-03-29T00:30", "2026-03-29T01:30"),
    ],
)
def test_a_span_is_read_by_the_clock_of_the_recipient(
    span: Span, recipient: str, moment: str, until_: str | None
) -> None:
    assert span.holds_until(utc(moment), recipient) == (until_ and utc(until_))


def test_the_zone_of_a_number_is_known_where_all_of_its_zones_agree() -> None:
    winter = utc("2026-01-10T12:00")
    zones = {
        number: zone and zone.key
        for number in (BERLIN, NEW_YORK, TOLL_FREE)
        for zone in [time_zone_of(number, winter)]
    }
    assert zones == {BERLIN: "Europe/Berlin", NEW_YORK: "America/New_York", TOLL_FREE: None}
    assert time_zone_of("not a number", winter) is None


def around_now(*, begins: timedelta, ends: timedelta, **changes: object) -> dict[str, Any]:
    """A span by UTC, from so long after now to so long after now, with the recipient's zone left to the tenant."""
    now = datetime.now(UTC)
    return {"begins": f"{now + begins:%H:%M}", "ends": f"{now + ends:%H:%M}", "time_zone": "UTC", **changes}


NOW = {"begins": timedelta(hours=-2), "ends": timedelta(hours=2)}
LATER = {"begins": timedelta(hours=2), "ends": timedelta(hours=4)}
#: A sender's own zone is not certain, so the tenant's counts.
SHORT = sms(to=TOLL_FREE)


async def posted(client: httpx.AsyncClient, message: dict[str, Any], **changes: object) -> dict[str, Any]:
    channel = "email" if "@" in message["to"] else "sms"
    answer = await client.post(f"/api/messages/{channel}", json=message | changes)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = (await client.get(f"/api/messages/{answer.json()['message_id']}")).json()
    return found


@pytest.fixture
async def quiet(serve: Serve, settings: Settings) -> httpx.AsyncClient:
    """With quiet hours now, and others for one topic. No worker takes what is queued."""
    client = await serve(settings.model_copy(update={"worker_enabled": False}))
    answer = await client.put("/api/quiet-hours", json=[around_now(**NOW), around_now(**LATER, topic="news")])
    assert answer.status_code == 200, answer.text
    return client


async def test_a_message_waits_as_scheduled_and_its_timeline_says_until_when_and_why(
    quiet: httpx.AsyncClient,
) -> None:
    message = await posted(quiet, SHORT)
    assert message["status"] == "scheduled"
    held_until = datetime.fromisoformat(message["quiet_until"])
    assert timedelta(hours=1, minutes=58) < held_until - datetime.now(UTC) <= timedelta(hours=2)
    assert datetime.fromisoformat(message["due_at"]) == held_until
    steps = (await quiet.get(f"/api/messages/{message['id']}/timeline")).json()
    [step] = [each for each in steps if each["kind"] == "held"]
    assert step["sentence"] == f"It is quiet at its recipient: it waits until {held_until:%Y-%m-%d %H:%M} UTC."


async def test_a_topic_with_a_span_of_its_own_goes_by_that_alone(quiet: httpx.AsyncClient) -> None:
    assert (await posted(quiet, SHORT, topic="news"))["status"] == "queued"
    assert (await posted(quiet, SHORT, topic="offers"))["status"] == "scheduled"


async def test_a_message_with_a_purpose_is_not_held(quiet: httpx.AsyncClient) -> None:
    message = await posted(quiet, SHORT, purpose="service")
    assert (message["status"], message.get("quiet_until")) == ("queued", None)


async def test_a_time_to_leave_within_quiet_hours_moves_to_their_end(quiet: httpx.AsyncClient) -> None:
    wanted = datetime.now(UTC) + timedelta(hours=1)
    message = await posted(quiet, SHORT, send_at=wanted.isoformat())
    assert datetime.fromisoformat(message["due_at"]) - wanted > timedelta(minutes=50)
    after = datetime.now(UTC) + timedelta(hours=5)
    assert (await posted(quiet, SHORT, send_at=after.isoformat())).get("quiet_until") is None


async def test_a_preview_says_until_when_a_message_would_wait(quiet: httpx.AsyncClient) -> None:
    seen = (await quiet.post("/api/messages/preview", json={"channel": "sms", **SHORT})).json()
    assert datetime.fromisoformat(seen["quiet_until"]) > datetime.now(UTC)
    seen = (await quiet.post("/api/messages/preview", json={"channel": "sms", **SHORT, "purpose": "service"})).json()
    assert seen["quiet_until"] is None


async def test_a_repeat_gets_its_first_answer(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "once"}
    first = (await client.post("/api/messages/sms", json=SHORT, headers=headers)).json()
    await client.put("/api/quiet-hours", json=[around_now(**NOW)])
    again = (await client.post("/api/messages/sms", json=SHORT, headers=headers)).json()
    assert again == first


async def test_mails_are_held_by_the_zone_of_the_tenant(quiet: httpx.AsyncClient) -> None:
    assert (await posted(quiet, email()))["status"] == "scheduled"


async def test_what_was_accepted_before_quiet_hours_began_waits_for_their_end(
    settings: Settings, serve: Serve, database_url: str
) -> None:
    """Such as the rest of a long queue: it is looked at again when its turn comes, and spends no attempt."""
    client = await serve(settings.model_copy(update={"worker_enabled": False}))
    message = await posted(client, SHORT)
    await client.put("/api/quiet-hours", json=[around_now(**NOW)])
    working = await serve(settings.model_copy(update={"worker_enabled": True, "worker_poll_seconds": 0.05}))

    async def now() -> dict[str, Any]:
        found: dict[str, Any] = (await working.get(f"/api/messages/{message['id']}")).json()
        return found

    held = await until(now, lambda found: found["status"] == "scheduled")
    assert datetime.fromisoformat(held["due_at"]) > datetime.now(UTC) + timedelta(hours=1)
    kinds = [each["kind"] for each in (await working.get(f"/api/messages/{message['id']}/timeline")).json()]
    assert kinds[:3] == ["accepted", "routed", "held"]
    await working.put("/api/quiet-hours", json=[])

    async def due_now() -> dict[str, Any]:  # the worker has the spans of before for some seconds
        await asyncio.to_thread(
            execute, database_url, "UPDATE messages SET due_at = now() WHERE status = 'scheduled'"
        )
        return await now()

    sent = await until(due_now, lambda found: found["status"] in {"sent", "delivered"})
    assert sent["attempts"][-1]["outcome"] == "accepted"
    assert {each["outcome"] for each in sent["attempts"][:-1]} == {"temporary"}


async def test_spans_are_replaced_as_a_whole_and_recorded(client: httpx.AsyncClient, database_url: str) -> None:
    spans = [
        {"topic": None, "begins": "21:00", "ends": "08:00", "time_zone": "Europe/Berlin"},
        {"topic": "offers", "begins": "18:30", "ends": "10:00", "time_zone": "America/New_York"},
    ]
    assert (await client.put("/api/quiet-hours", json=spans)).json() == spans
    assert (await client.get("/api/quiet-hours")).json() == spans
    assert (await client.put("/api/quiet-hours", json=spans[1:])).json() == spans[1:]
    assert (await client.get("/api/quiet-hours")).json() == spans[1:]
    assert rows_of(database_url, "SELECT detail FROM audit_events WHERE kind = 'quiet_hours_set' ORDER BY id") == [
        ({"spans": 2},),
        ({"spans": 1},),
    ]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"begins": "24:00"}, "body.0.begins"),
        ({"begins": "9:00"}, "body.0.begins"),
        ({"ends": "08:60"}, "body.0.ends"),
        ({"ends": "21:00"}, "body.0"),
        ({"time_zone": "Berlin"}, "body.0.time_zone"),
        ({"time_zone": "../etc/passwd"}, "body.0.time_zone"),
        ({"time_zone": "/etc/localtime"}, "body.0.time_zone"),
        ({"time_zone": ""}, "body.0.time_zone"),
        ({"time_zone": "Europe"}, "body.0.time_zone"),
    ],
)
async def test_a_span_that_makes_no_sense_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, change: dict[str, str], place: str
) -> None:
    span = {"begins": "21:00", "ends": "08:00", "time_zone": "Europe/Berlin"}
    await client.put("/api/quiet-hours", json=[span])
    refused = await client.put("/api/quiet-hours", json=[span | change])
    assert locations_of(refused) == [place]
    assert len((await client.get("/api/quiet-hours")).json()) == 1


async def test_a_topic_has_one_span(client: httpx.AsyncClient) -> None:
    span = {"topic": "offers", "begins": "21:00", "ends": "08:00", "time_zone": "Europe/Berlin"}
    refused = await client.put("/api/quiet-hours", json=[span, span])
    assert locations_of(refused) == ["body.1.topic"]


async def test_the_time_to_leave_goes_by_the_clock_of_the_database(
    client: httpx.AsyncClient, database_url: str
) -> None:
    [(now,)] = rows_of(database_url, "SELECT clock_timestamp()")
    refused = await client.post("/api/messages/sms", json=sms(to=CONTACT, send_at=now.isoformat()))
    assert locations_of(refused) == ["body.send_at"]
