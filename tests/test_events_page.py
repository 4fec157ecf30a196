"""docs/events.md: its table, examples and code, and its bots against a running service."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import WebhookVerificationError

from app.config import Settings
from app.db.engine import create_serving_engine
from app.domain import EventType
from app.schemas.events import EVENT_VIEWS
from app.services.event_log.entries import NewEvent, write_entries
from app.services.webhooks.signatures import signatures
from tests.factories import sms, sms_webhook
from tests.live import LOCAL, LiveServer
from tests.node import installed_packages, node, run
from tests.tenancy import WEBHOOK_SECRET

PAGE = (Path(__file__).parent.parent / "docs" / "events.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def block(kind: str, holding: str) -> str:
    """The one block of code that holds a text."""
    [found] = [text for text in blocks(kind) if holding in text]
    return found


EXAMPLES: dict[str, dict[str, Any]] = {example["type"]: example for example in map(json.loads, blocks("json"))}


def test_the_table_has_every_type_with_the_sentence_of_the_document() -> None:
    rows = re.findall(r"^\| `(\w+\.\w+)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert rows == [(type_.value, EVENT_VIEWS[type_].__doc__) for type_ in EventType]


def shape(content: object) -> object:
    """The keys of JSON in their order, and the kind of each value; None fits any."""
    if isinstance(content, dict):
        return [(name, shape(value)) for name, value in content.items()]
    return "time" if is_time(content) else type(content).__name__


def is_time(content: object) -> bool:
    try:
        return isinstance(content, str) and datetime.fromisoformat(content).tzinfo is not None
    except ValueError:
        return False


def fits(example: Any, real: Any) -> bool:
    if isinstance(example, dict) and isinstance(real, dict):
        return [*example] == [*real] and all(fits(example[name], real[name]) for name in real)
    return None in (example, real) or shape(example) == shape(real)


def has_files(event: dict[str, Any]) -> bool:
    return "files" in (event["data"].get("message") or {})


async def test_each_example_has_the_fields_of_what_is_sent(
    client: httpx.AsyncClient, settings: Settings, database_url: str
) -> None:
    refusing = "+15005550401"
    await client.post("/api/messages/sms", json=sms(), headers={"Prefer": "wait=20"})
    await client.post("/api/webhooks/sms", json=sms_webhook())
    await client.post("/api/webhooks/sms", json=sms_webhook(body="STOP", messaging_provider_id="message-3"))
    await client.post("/api/messages/sms", json=sms(to=refusing), headers={"Prefer": "wait=20"})
    [erased] = [each for each in (await client.get("/api/contacts")).json() if each["address"] == refusing]
    assert (await client.delete(f"/api/contacts/{erased['id']}")).status_code == 200
    typed = {"Content-Type": "image/jpeg"}
    file = (await client.post("/api/files", params={"name": "a.jpg"}, content=b"jpeg", headers=typed)).json()
    with_file = (await client.post("/api/messages/sms", json=sms(attachments=[file["path"]]))).json()
    about: dict[str, dict[str, Any]] = {
        "message": {"message_id": 1, "conversation_id": 1},
        "conversation": {
            "conversation_id": 1,
            "facts": {"reason": "As it is.", "by": "Anna", "changed": {"status": "closed"}},
        },
        "contact": {"contact_id": 1},
        "consent": {"contact_id": 1, "facts": {"entry_id": 1}},
        "webhook_endpoint": {"facts": {"endpoint_id": 1, "reason": "As it is."}},
    }
    engine = create_serving_engine(database_url, settings)
    async with engine.begin() as connection:  # for what takes long to come about
        told = [
            NewEvent(type_, **about[type_.partition(".")[0]])
            for type_ in EventType
            if type_ is not EventType.MESSAGE_FILE_CHANGED
        ]
        told.append(NewEvent(EventType.MESSAGE_FILE_CHANGED, int(with_file["message_id"]), 1))
        await write_entries(connection, 1, told)
    await engine.dispose()
    events = (await client.get("/api/events", params={"limit": 500})).json()["events"]
    assert {event["type"] for event in events} == {*EventType}
    events = [event for event in events if event["type"] == EventType.MESSAGE_FILE_CHANGED or not has_files(event)]
    assert [example["type"] for example in map(json.loads, blocks("json"))] == [*EventType]
    wrong = [event for event in events if not fits(EXAMPLES[event["type"]], event)]
    assert wrong == []


def test_an_example_with_another_field_or_kind_does_not_fit() -> None:
    real = {"a": 1, "b": {"c": None, "d": "2026-11-29T02:39:17Z"}}
    assert fits({"a": 2, "b": {"c": "x", "d": "2026-11-29T02:39:18.5Z"}}, real)
    assert not fits({"a": 2, "b": {"c": "x", "d": "today"}}, real)
    assert not fits({"a": 2, "b": {"c": "x"}}, real)
    assert not fits({"b": real["b"], "a": 1}, real)
    assert not fits({"a": "2", "b": real["b"]}, real)


BODY = '{"body": "ß \\u2028 \u2029 😀"}'.encode()


def signed(body: bytes = BODY, *, id: str = "evt_1", seconds_ago: int = 0) -> dict[str, str]:
    timestamp = int(time.time()) - seconds_ago
    return {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,b3RoZXI= {signatures([WEBHOOK_SECRET], id, timestamp, body)}",
    }


def cases() -> list[tuple[dict[str, str], bytes, bool]]:
    """Headers and body, and whether they are genuine. They are signed now, since signatures expire."""
    return [
        (signed(), BODY, True),
        (signed(), BODY + b" ", False),
        (signed() | {"webhook-id": "evt_2"}, BODY, False),
        (signed() | {"webhook-timestamp": str(int(time.time()) - 1)}, BODY, False),
        (signed() | {"webhook-signature": "v1,b3RoZXI= v1a,ß"}, BODY, False),
        (signed(seconds_ago=400), BODY, False),
    ]


def test_the_ways_to_verify_in_python_agree() -> None:
    written: dict[str, Any] = {}
    for code in (block("python", "standardwebhooks"), block("python", "hmac")):
        exec(code, written)  # noqa: S102 - the code of the page
    for headers, body, genuine in cases():
        assert written["is_genuine"](headers, body, WEBHOOK_SECRET) == genuine
        if genuine:
            assert written["event_of"](headers, body, WEBHOOK_SECRET) == json.loads(body)
        else:
            with pytest.raises(WebhookVerificationError):
                written["event_of"](headers, body, WEBHOOK_SECRET)


@pytest.mark.slow
def test_the_library_for_javascript_agrees(tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(installed_packages())
    (tmp_path / "page.mjs").write_text(block("js", "standardwebhooks"))
    (tmp_path / "use.mjs").write_text(USE_OF_LIBRARY)
    webhooks = [{"headers": headers, "body": body.decode()} for headers, body, _ in cases()]
    given = json.dumps({"secret": WEBHOOK_SECRET, "webhooks": webhooks})
    found = json.loads(run(node(), "use.mjs", cwd=tmp_path, input=given))
    assert found == [json.loads(body) if genuine else None for _, body, genuine in cases()]


USE_OF_LIBRARY = """
    import { readFileSync } from 'node:fs';
    import { eventOf } from './page.mjs';

    const { secret, webhooks } = JSON.parse(readFileSync(0, 'utf8'));
    const found = webhooks.map(({ headers, body }) => {
      try {
        return eventOf(headers, body, secret);
      } catch {
        return null;
      }
    });
    console.log(JSON.stringify(found));
"""

#: The file of each bot, the kind of its block, and a word in it.
BOTS = {"python": ("bot.py", "python", "httpx.Client"), "javascript": ("bot.mjs", "js", "TextDecoderStream")}


@pytest.mark.slow
@pytest.mark.parametrize("language", BOTS)
def test_a_bot_answers_each_text_once_also_after_a_kill(language: str, tmp_path: Path) -> None:
    name, kind, holding = BOTS[language]
    (tmp_path / name).write_text(block(kind, holding))
    program = sys.executable if kind == "python" else node()
    server = LiveServer(tmp_path, LOG_LEVEL="warning")
    server.start()
    service = httpx.Client(base_url=server.url, verify=LOCAL)
    beginning = service.get("/api/events").json()["cursor"]
    cursor = tmp_path / "bot.cursor"

    def receive(id: str) -> None:
        said = sms_webhook(messaging_provider_id=id)
        assert service.post("/api/webhooks/sms", json=said).status_code == 200

    def answered() -> int:
        messages = service.get("/api/messages", params={"limit": 100}).json()
        return sum(message["direction"] == "outbound" for message in messages)

    try:
        cursor.write_text(beginning)
        with running_bot(program, name, directory=tmp_path, url=server.url):
            receive("1")
            server.wait_until(lambda: answered() == 1)
            receive("2")
            server.wait_until(lambda: answered() == 2)
            seen = cursor.read_text()
        assert seen != beginning
        receive("3")
        cursor.write_text(beginning)  # as if it had died before it kept the others
        with running_bot(program, name, directory=tmp_path, url=server.url):
            server.wait_until(lambda: answered() == 3)
            server.stop()
            server.start()
            receive("4")
            server.wait_until(lambda: answered() == 4)
    finally:
        service.close()
        server.stop()


@contextmanager
def running_bot(*command: str, directory: Path, url: str) -> Iterator[None]:
    """A bot as a process of its own, which is killed at the end."""
    with (directory / "bot.log").open("ab") as log:
        bot = subprocess.Popen(
            command, cwd=directory, env=os.environ | {"MESSAGING_URL": url}, stdout=log, stderr=log
        )
        try:
            yield
            assert bot.poll() is None, (directory / "bot.log").read_text()
        finally:
            bot.kill()
            bot.wait()
