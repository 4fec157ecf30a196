"""The log: one line an event, readable by machine or person, and nothing private in it."""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any

import httpx
import pytest
import structlog

from app.config import Settings
from app.domain import MessageStatus
from app.log import begin_request, bind, configure_logging
from app.providers.base import BaseProvider, OutboundMessage, ProviderResult
from app.providers.registry import provider_registry
from tests.cases import each_case
from tests.conftest import make_settings
from tests.factories import email, email_webhook, sms, sms_webhook, until
from tests.logs import captured

pytestmark = pytest.mark.anyio

log = structlog.get_logger(__name__)

FORMATS = ["json", "console"]
each_format = each_case("log_format", FORMATS)


def events_of(written: str, log_format: str) -> list[str]:
    """The events of a log; each begins a line, and no line that begins at the edge is anything else."""
    lines = written.splitlines()
    if log_format == "json":
        assert all(isinstance(json.loads(line), dict) for line in lines), written
        return lines
    events = [line for line in lines if not line.startswith("  ")]
    assert all(re.match(r"[\dT:.Z-]{8,} \[", line) for line in events), written
    return events


STEERING = ["\n", "\r\n", "\r", "\x00", "\x08", "\x0b", "\x0c", "\x1b[2K\x1b[1A", "\x7f", "\x85", "\x9b31m"]
STEERING += ["\u2028", "\u2029", "\u202e", "\u2066", "\u200f", "\ufeff", "\ud800"]


@each_format
@each_case("steering", STEERING, ids=ascii)
def test_no_value_begins_a_line_or_steers_a_terminal(log_format: str, steering: str) -> None:
    configure_logging(make_settings(log_format=log_format))
    written = captured()
    forged = f"a{steering}12:00:00 [info     ] forged"
    log.warning("event", path=forged, listed=[forged], nested={forged: (forged,)}, odd=Exception(forged))
    log.warning(forged)
    logging.getLogger("library").warning("said %s", forged)
    try:
        raise TypeError(forged) from ValueError(forged)
    except TypeError:
        log.exception("failed")
    assert len(events_of(written.getvalue(), log_format)) == 4
    assert not set(steering) & set(written.getvalue().replace("\n", "")) - set("[12KAm3")


@each_format
@each_case(
    ("secret", "shown"),
    [
        ("+12016661234", "***1234"),
        ("%2B12016661234", "***1234"),
        ("12016661234", "***1234"),
        ("(201) 666-1234", "***1234"),
        ("+44 20 7946 0123", "***0123"),
        ("jane.doe@example.co.uk", "j***@***.uk"),
        ("jane%40example.com", "j***@***.com"),
        ("jöhn@exämple.de", "j***@***.de"),
        ("msk_1_abcdefghij_" + "k" * 43, "msk_***"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLw", "whsec_***"),
        ("v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=", "v1,***"),
        ("Bearer abcdef.ghijkl", "Bearer ***"),
        ("Basic dXNlcjpwYXNz", "Basic ***"),
        ("postgresql://user:hunter2@host/name", "://***@"),
    ],
)
def test_secrets_and_whole_addresses_are_masked_wherever_they_stand(log_format: str, secret: str, shown: str) -> None:
    configure_logging(make_settings(log_format=log_format))
    written = captured()
    log.warning(
        "event", value=secret, within=f"from {secret}, it said", listed=[{"key": secret}], path=f"/a/{secret}"
    )
    log.warning(f"said {secret}")
    logging.getLogger("library").warning("said <%s>", secret)
    try:
        raise OSError(f"no way to '{secret}'")
    except OSError:
        log.exception("failed")
    text = written.getvalue()
    assert secret not in text
    assert text.count(shown.strip("/:")) >= 6


@each_case(
    "fact",
    [
        "2026-11-22T17:49:39.868Z",
        "8e03978e-40d5-43e8-bc93-6894a57f9324",
        "sms-2e2d8abc-259f-4dd3-b733-f3f488385b17",
        "2024-11-01 14:00:00+00:00",
        "/api/messages/123456789/timeline",
        "127.0.0.1:54321",
        "20261122_04",
        "5f2c9a7be01d44cf8f6f0c11",
        7,
        1730469600123,
        0.25,
        None,
        True,
    ],
)
def test_what_is_no_secret_is_not_masked(fact: object) -> None:
    configure_logging(make_settings(log_format="json"))
    written = captured()
    log.warning("event", fact=fact)
    assert json.loads(written.getvalue())["fact"] == fact


@each_format
def test_an_exception_shows_its_frames_but_not_what_its_text_may_quote(log_format: str) -> None:
    configure_logging(make_settings(log_format=log_format))
    written = captured()

    def looked_up() -> None:
        {"": 1}["marker" + "-4711"]

    try:
        try:
            looked_up()
        except KeyError as cause:
            raise ExceptionGroup("marker" + "-4711", [ValueError("marker" + "-4711")]) from cause
    except ExceptionGroup:
        log.exception("failed")
    text = written.getvalue()
    assert "marker-4711" not in text
    for shown in ("in looked_up", "KeyError", "ExceptionGroup", "ValueError"):
        assert shown in text


def test_an_exception_s_text_is_shown_for_debugging() -> None:
    configure_logging(make_settings(log_format="json", log_level="debug"))
    written = captured()
    log.error("failed", exc_info=ValueError("text"))
    assert json.loads(written.getvalue())["exception"].endswith("ValueError: text")


def test_an_exception_that_is_its_own_cause_has_an_end() -> None:
    configure_logging(make_settings(log_format="json"))
    written = captured()
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    log.error("failed", exc_info=first)
    assert json.loads(written.getvalue())["exception"].count("debug shows") == 2


def test_what_is_known_of_a_request_is_in_every_line_about_it_and_in_none_about_the_next() -> None:
    configure_logging(make_settings(log_format="json"))
    written = captured()

    def speak() -> None:
        begin_request("first")
        bind(tenant=7)
        log.warning("ours")
        logging.getLogger("library").warning("theirs")
        begin_request("second")
        log.warning("ours")

    copy_context().run(speak)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [(line["request_id"], line.get("tenant")) for line in lines] == [
        ("first", 7),
        ("first", 7),
        ("second", None),
    ]


async def test_a_task_that_nobody_awaited_is_logged_without_what_it_held() -> None:
    configure_logging(make_settings(log_format="json"))
    written = captured()

    async def fail() -> None:
        raise ValueError("marker" + "-4711")

    task = asyncio.create_task(fail(), name="marker" + "-4711")
    await asyncio.wait([task])
    unheard = {"message": "Task exception was never retrieved", "exception": task.exception(), "future": task}
    asyncio.get_running_loop().default_exception_handler(unheard)
    assert json.loads(written.getvalue())["event"] == "Task exception was never retrieved"
    assert "marker-4711" not in written.getvalue()


# Nothing that was sent is found in a log, delivered or not.

MARKS = {
    "body": "Zebra-body-mark",
    "subject": "Zebra-subject-mark",
    "phone": "+12015550147",
    "far phone": "+18045550139",
    "national": "(201) 555-0147",
    "mail": "zebra.mark@example.com",
    "far mail": "quagga.mark@example.net",
    "key": "msk_1_zebrazebra_" + "Zq7" * 14 + "Z",
    "token": "Zebra-bearer-mark",
    "signature": "v1,WmVicmFaZWJyYVplYnJhWmVicmFaZWJyYVplYnJhWmU=",
    "attachment": "https://zebra-host.example/zebra-file",
}


class Chatty(BaseProvider):
    """One that repeats all that it was given in what it raises."""

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        raise RuntimeError(f"can't send {payload!r} {payload.body} to {payload.to_address}")


def assert_nothing_of_it_in(text: str) -> None:
    found = {name for name, mark in MARKS.items() if mark in text}
    found |= {name for name, mark in MARKS.items() if mark.lstrip("+") in text}
    assert not found, [line for line in text.splitlines() if any(MARKS[name] in line for name in found)]
    assert "zebra" not in re.sub(r"\bz\*\*\*@", "", text).lower()


@pytest.mark.parametrize("log_format", FORMATS)
async def test_nothing_that_was_sent_is_found_in_the_log(
    settings: Settings,
    serve: Callable[[Settings], Awaitable[httpx.AsyncClient]],
    monkeypatch: pytest.MonkeyPatch,
    log_format: str,
) -> None:
    monkeypatch.setitem(provider_registry, "chatty", Chatty())
    monkeypatch.setattr("logging.raiseExceptions", True)
    changed = {"log_format": log_format, "access_log": True, "max_attempts": 2, "retry_base_seconds": 0.01}
    changed |= {"routes": {"sms": ["chatty"]}}
    client = await serve(settings.model_copy(update=changed))
    written = captured()
    text: dict[str, Any] = {"from_": MARKS["phone"], "to": MARKS["far phone"], "body": MARKS["body"]}
    text["attachments"] = [MARKS["attachment"]]
    mail: dict[str, Any] = text | {"from_": MARKS["mail"], "to": MARKS["far mail"]}
    signed = {"webhook-signature": MARKS["signature"], "webhook-id": "zebra-id"}

    sent = await client.post("/api/messages/sms", json=sms(**text), headers={"Idempotency-Key": "Zebra-key"})
    assert sent.status_code == 200
    assert (await client.post("/api/messages/email", json=email(**mail, subject=MARKS["subject"]))).status_code == 200
    back: dict[str, Any] = {"from_": text["to"], "to": text["from_"], "body": MARKS["body"]}
    assert (await client.post("/api/webhooks/sms", json=sms_webhook(**back), headers=signed)).status_code == 200
    back = {"from_": mail["to"], "to": mail["from_"], "body": MARKS["body"]}
    assert (await client.post("/api/webhooks/email", json=email_webhook(**back), headers=signed)).status_code == 200

    refused = [
        await client.post("/api/messages/sms", json=sms(**text | {"to": f"{MARKS['far mail']}\n"})),
        await client.post("/api/messages/sms", content=f'{{"body": "{MARKS["body"]}'),
        await client.post("/api/webhooks/sms", json=sms_webhook(timestamp=MARKS["body"]), headers=signed),
        await client.post(f"/api/webhooks/{MARKS['token']}", json={}, headers=signed),
        await client.get("/api/messages", headers={"Authorization": f"Bearer {MARKS['key']}"}),
        await client.get("/api/messages", headers={"Authorization": f"Bearer {MARKS['token']}"}),
        await client.get(f"/api/conversations/{MARKS['phone']}/messages"),
        await client.get("/api/messages", params={"cursor": MARKS["body"], "provider": MARKS["national"]}),
        await client.get(
            f"/{MARKS['mail']}", headers={"User-Agent": f"{MARKS['token']}\t", "Cookie": MARKS["token"]}
        ),
    ]
    assert all(400 <= response.status_code < 500 for response in refused[:-2]), refused

    async def status() -> str:
        return str((await client.get(f"/api/messages/{sent.json()['message_id']}")).json()["status"])

    await until(status, lambda found: found in {MessageStatus.FAILED, MessageStatus.UNKNOWN})
    text_of_log = written.getvalue()
    assert "provider_raised" in text_of_log
    assert len(events_of(text_of_log, log_format)) > len(refused)
    # Where a marker was the address that was asked for, the line of the request shows it: that is all it has.
    shown = [line for line in text_of_log.splitlines() if f"/api/webhooks/{MARKS['token']}" not in line]
    assert_nothing_of_it_in("\n".join(shown))
