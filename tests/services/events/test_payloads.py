"""The JSON of an event."""

import json

import httpx
import psycopg2
import pytest
from pydantic import TypeAdapter

from app.schemas.events import EventView
from tests.factories import sms_webhook, until
from tests.logs import captured
from tests.receivers import receiving

pytestmark = pytest.mark.anyio


async def test_an_event_is_one_line_for_every_program(client: httpx.AsyncClient) -> None:
    body = "a\nb\r\x0b\x0cc\x1c\x1d\x1ed\x85e\u2028f\u2029g"
    assert (await client.post("/api/webhooks/sms", json=sms_webhook(body=body))).status_code == 200
    answer = await client.get("/api/events", params={"types": "message.received"})
    assert len(answer.text.splitlines()) == 1
    [event] = answer.json()["events"]
    assert event["data"]["message"]["body"].splitlines() == body.splitlines()


async def test_an_event_that_cannot_be_rendered_comes_with_its_ids_and_holds_up_no_reader(
    client: httpx.AsyncClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.webhooks.dispatcher._POLL_SECONDS", 0.02)
    async with receiving() as receiver:
        endpoint = (await client.post("/api/webhook-endpoints", json={"url": receiver.url})).json()
        path = f"/api/webhook-endpoints/{endpoint['id']}"
        await client.patch(path, json={"enabled": False})
        for number in range(2):
            assert (await client.post("/api/webhooks/sms", json=_text(number))).status_code == 200
        with psycopg2.connect(database_url) as connection, connection.cursor() as cursor:
            cursor.execute("UPDATE messages SET attachments = '5' WHERE body = 'text 0'")
            cursor.execute("UPDATE events SET type = 'contact.renamed' WHERE type = 'contact.created'")
        connection.close()
        log = captured()
        await client.patch(path, json={"enabled": True})
        events = (await client.get("/api/events")).json()["events"]
        by_type = {event["type"]: event["data"] for event in events}
        faulty, sound = [event for event in events if event["type"] == "message.received"]
        assert faulty["data"]["message"] is None
        assert faulty["data"]["message_id"] < sound["data"]["message_id"] == sound["data"]["message"]["id"]
        assert TypeAdapter(EventView).validate_python(faulty)
        assert by_type["contact.renamed"]["contact_id"]
        assert by_type["contact.renamed"]["contact"] is None
        streamed = []
        async with client.stream("GET", "/api/events/stream") as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    streamed.append(json.loads(line.removeprefix("data: ")))
                if len(streamed) == len(events):
                    break
        assert streamed == events

        async def received() -> list[str]:
            return receiver.ids

        await until(received, lambda ids: {*ids} >= {event["id"] for event in events})
        assert {request.id: request.event for request in receiver.requests} == {
            event["id"]: event for event in events
        }
        faults = [line for line in log.getvalue().splitlines() if "event_not_rendered" in line]
        assert len(faults) == len([event for event in events if None in event["data"].values()])
        assert not any("text 0" in line for line in faults)


def _text(number: int) -> dict[str, object]:
    return sms_webhook(messaging_provider_id=f"in-{number}", body=f"text {number}")
