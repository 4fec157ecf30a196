"""The README told as a test: send, answer, read."""

import httpx
import pytest

pytestmark = pytest.mark.anyio

SMS = {
    "from": "+12016661234",
    "to": "+18045551234",
    "type": "sms",
    "body": "Hello!",
    "attachments": None,
    "timestamp": "2024-11-01T14:00:00Z",
}
ANSWER = {
    "from": "+18045551234",
    "to": "+12016661234",
    "type": "sms",
    "messaging_provider_id": "message-1",
    "body": "text",
    "attachments": None,
    "timestamp": "2024-11-01T14:00:01Z",
}


async def test_a_text_and_its_answer_meet_in_one_conversation(client: httpx.AsyncClient) -> None:
    sent = await client.post("/api/messages/sms", json=SMS)
    assert sent.status_code == 200
    assert sent.json() == {
        "message_id": "1",
        "provider_message_id": None,
        "conversation_id": 1,
        "status": "accepted",
        "segments": {"encoding": "gsm7", "count": 1, "forcing": []},
    }

    for _ in range(2):  # providers repeat themselves
        received = await client.post("/api/webhooks/sms", json=ANSWER)
        assert (received.status_code, received.json()) == (200, {"status": "ok"})

    [conversation] = (await client.get("/api/conversations")).json()
    assert conversation["id"] == 1
    assert conversation["last_updated"] == "2024-11-01T14:00:01Z"

    first, second = (await client.get("/api/conversations/1/messages")).json()
    assert (first["direction"], first["channel"], first["body"]) == ("outbound", "sms", "Hello!")
    assert (second["direction"], second["channel"], second["body"]) == ("inbound", "sms", "text")
    assert (first["sent_at"], second["sent_at"]) == ("2024-11-01T14:00:00Z", "2024-11-01T14:00:01Z")
