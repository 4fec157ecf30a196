"""`Prefer: wait`: the answer tells what has become of the message, beside `accepted`."""

from collections.abc import Awaitable, Callable

import httpx
import pytest

from app.config import Settings
from tests.cases import each_case
from tests.factories import email, sms, until

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
WAIT = {"Prefer": "wait=20"}


@each_case(
    ("to", "status", "reason"),
    [
        ("+15005550000", "sent", None),
        ("+15005550400", "failed", "400 Bad Request - the carrier refuses this recipient"),
        ("+15005550900", "unknown", None),
        ("refusing@simulator.test", "failed", "400 Bad Request - the carrier refuses this recipient"),
        ("ok@simulator.test", "sent", None),
    ],
)
async def test_what_became_of_a_message_stands_beside_accepted(
    client: httpx.AsyncClient, to: str, status: str, reason: str | None
) -> None:
    path, body = ("email", email(to=to)) if "@" in to else ("sms", sms(to=to))
    answer = (await client.post(f"/api/messages/{path}", json=body, headers=WAIT)).json()
    assert (answer["status"], answer["message_status"]) == ("accepted", status)
    if reason is not None or status == "sent":
        assert answer.get("status_reason") == reason
    assert (answer["provider_message_id"] is not None) == (status == "sent")


async def test_without_a_wait_nothing_is_added(client: httpx.AsyncClient) -> None:
    for headers in ({}, {"Prefer": "wait=0"}, {"Prefer": "respond-async"}):
        answer = (await client.post("/api/messages/sms", json=sms(), headers=headers)).json()
        assert not {"message_status", "status_reason"} & set(answer)


async def test_a_message_that_nobody_has_taken_yet_is_queued(serve: Serve, settings: Settings) -> None:
    client = await serve(settings.model_copy(update={"worker_enabled": False, "prefer_wait_seconds": 1}))
    answer = (await client.post("/api/messages/sms", json=sms(), headers=WAIT)).json()
    assert (answer["message_status"], answer["provider_message_id"]) == ("queued", None)
    scheduled = sms(send_at="2099-01-01T00:00:00Z")
    assert (await client.post("/api/messages/sms", json=scheduled, headers=WAIT)).status_code == 422


async def test_a_repeat_tells_what_became_of_the_first(client: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "the-same"}
    first = await client.post("/api/messages/sms", json=sms(to="+15005550400"), headers=key | WAIT)
    again = await client.post("/api/messages/sms", json=sms(to="+15005550400"), headers=key | WAIT)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == first.json()
    assert again.json()["message_status"] == "failed"


async def test_an_answer_leads_to_its_message(serve: Serve, settings: Settings) -> None:
    client = await serve(settings.model_copy(update={"public_url": "http://messaging.test/"}))
    for public in (True, False):
        if not public:
            client = await serve(settings)
        sent = await client.post("/api/messages/sms", json=sms())
        assert sent.headers["location"].startswith("http://messaging.test/api/" if public else "/api/")
        found = await client.get(sent.headers["location"])
        assert str(found.json()["id"]) == sent.json()["message_id"]


async def test_refused_credentials_pause_the_carrier_until_it_is_resumed(serve: Serve, settings: Settings) -> None:
    """The magic number does what its table says."""
    client = await serve(settings.model_copy(update={"prefer_wait_seconds": 1}))
    sent = (await client.post("/api/messages/sms", json=sms(to="+15005550500"), headers=WAIT)).json()

    async def carriers() -> list[str | None]:
        return [each["trouble"] for each in (await client.get("/api/providers")).json() if each["name"] == "sms"]

    async def status() -> str:
        return str((await client.get(f"/api/messages/{sent['message_id']}")).json()["status"])

    await until(carriers, lambda troubles: troubles == ["is paused"])
    assert await status() == "queued"
    await client.post("/api/providers/sms/resume")
    await until(status, lambda found: found in {"sent", "delivered"})
