"""The JSON of an event."""

import httpx
import pytest

from tests.factories import sms_webhook

pytestmark = pytest.mark.anyio


async def test_an_event_is_one_line_for_every_program(client: httpx.AsyncClient) -> None:
    body = "a\nb\r\x0b\x0cc\x1c\x1d\x1ed\x85e\u2028f\u2029g"
    assert (await client.post("/api/webhooks/sms", json=sms_webhook(body=body))).status_code == 200
    answer = await client.get("/api/events", params={"types": "message.received"})
    assert len(answer.text.splitlines()) == 1
    [event] = answer.json()["events"]
    assert event["data"]["message"]["body"].splitlines() == body.splitlines()
