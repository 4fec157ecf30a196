"""`python -m app repair twilio`: against a list of messages as Twilio gives it, once and again."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from twilio.request_validator import RequestValidator

from app.__main__ import main
from app.config import Settings
from app.providers.registry import provider_registry
from app.providers.twilio import TwilioProvider, TwilioSettings
from tests.conftest import client_of, started
from tests.wire import rows_of

ACCOUNT = "AC00000000000000000000000000000001"
NOW = datetime.now(UTC).replace(microsecond=0)
_PAGE = 2


class Twilio:
    """The list of an account's messages, two to a page, the latest of a day first."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.messages: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.breaks_after: int | None = None

    def holds(self, number: int, at: datetime, **values: Any) -> None:
        message = {
            "sid": f"SM{number}",
            "direction": "inbound",
            "from": "+18045551234",
            "to": "+12016661234",
            "body": f"text {number}",
            "num_media": "0",
            "date_sent": at.strftime("%a, %d %b %Y %H:%M:%S +0000"),
        }
        self.messages.append(message | values)

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        self.asked.append(path)
        if self.breaks_after is not None and len(self.asked) > self.breaks_after:
            return 503, {"code": 20503, "message": "Service Unavailable", "status": 503}
        query = parse_qs(urlsplit(path).query)
        day, page = query["DateSent"][0], int(query.get("Page", ["0"])[0])
        of_that_day = [each for each in self.messages if _day(each) == day][::-1]
        shown = of_that_day[page * _PAGE : (page + 1) * _PAGE]
        more = len(of_that_day) > (page + 1) * _PAGE
        following = f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json?DateSent={day}&Page={page + 1}"
        return 200, {"messages": shown, "next_page_uri": following if more else None}


def _day(message: dict[str, Any]) -> str:
    return datetime.strptime(message["date_sent"], "%a, %d %b %Y %H:%M:%S %z").date().isoformat()


@pytest.fixture
def twilio() -> Iterator[Twilio]:
    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = account.answer(self.path)
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        account = Twilio(f"http://127.0.0.1:{server.server_port}")
        serving = threading.Thread(target=server.serve_forever, args=[0.01])
        serving.start()
        yield account
        server.shutdown()
        serving.join()


@pytest.fixture(autouse=True)
def _configured(twilio: Twilio, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    handlers = logging.getLogger().handlers[:]
    given: dict[str, Any] = {"account_sid": ACCOUNT, "auth_token": "f" * 32, "api_url": twilio.url}
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setitem(provider_registry, "twilio", TwilioProvider(TwilioSettings(_env_file=None, **given)))
    yield
    logging.getLogger().handlers[:] = handlers


def repaired(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> list[str]:
    assert main(["repair", *words]) == code
    return capsys.readouterr().out.strip().splitlines()


def stored(database_url: str) -> list[tuple[Any, ...]]:
    return rows_of(database_url, "SELECT provider_message_id, body, sent_at FROM messages ORDER BY sent_at, id")


def test_what_was_missed_is_recovered_once_and_its_history_says_so(
    twilio: Twilio, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hours = [NOW - timedelta(hours=hour) for hour in (50, 30, 20, 3, 2, 1)]
    for number, at in enumerate(hours, start=1):
        twilio.holds(number, at)
    twilio.holds(7, NOW - timedelta(hours=1), direction="outbound-api")
    since = (NOW - timedelta(hours=40)).isoformat()

    lines = repaired(capsys, "twilio", "--since", since)
    assert lines[-1] == "Done: 5 came in, 5 of them were missing and are recovered."
    assert [row[:2] for row in stored(database_url)] == [(f"SM{number}", f"text {number}") for number in range(2, 7)]
    assert [row[2] for row in stored(database_url)] == hours[1:]
    noted = "SELECT m.provider_message_id, e.kind FROM message_events e JOIN messages m ON m.id = e.message_id"
    assert sorted(rows_of(database_url, noted)) == [(f"SM{number}", "recovered") for number in range(2, 7)]

    twilio.holds(8, NOW)
    again = repaired(capsys, "twilio", "--since", since)
    assert again[-1] == "Done: 6 came in, 1 of them were missing and are recovered."
    third = repaired(capsys, "twilio", "--since", since)
    assert third[-1] == "Done: 6 came in, 0 of them were missing and are recovered."
    assert len(stored(database_url)) == 6
    assert len(rows_of(database_url, noted)) == 6


def test_what_its_call_has_brought_is_not_recovered(
    twilio: Twilio, settings: Settings, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"MessageSid": "SM1", "From": "+18045551234", "To": "+12016661234", "Body": "text 1", "NumMedia": "0"}
    url = "https://messages.example/api/webhooks/twilio"
    headers = {"X-Twilio-Signature": RequestValidator("f" * 32).compute_signature(url, fields)}

    async def call() -> httpx.Response:
        async with AsyncExitStack() as stack:
            app = await started(stack, settings.model_copy(update={"public_url": "https://messages.example"}))
            async with client_of(app) as client:
                return await client.post("/api/webhooks/twilio", data=fields, headers=headers)

    assert asyncio.run(call()).status_code == 200
    twilio.holds(1, NOW)
    twilio.holds(2, NOW)
    lines = repaired(capsys, "twilio")
    assert lines[-1] == "Done: 2 came in, 1 of them were missing and are recovered."
    assert sorted(row[0] for row in stored(database_url)) == ["SM1", "SM2"]


def test_by_itself_it_begins_a_day_before_the_last_that_came_in(
    twilio: Twilio, capsys: pytest.CaptureFixture[str]
) -> None:
    last = NOW - timedelta(days=3)
    twilio.holds(1, last)
    repaired(capsys, "twilio", "--since", last.date().isoformat())
    twilio.holds(2, last - timedelta(hours=20))
    twilio.holds(3, last - timedelta(hours=30))
    lines = repaired(capsys, "twilio")
    assert f"{last - timedelta(days=1):%Y-%m-%d %H:%M:%S}" in lines[0]
    assert lines[-1] == "Done: 2 came in, 1 of them were missing and are recovered."


def test_where_nothing_came_in_yet_it_asks_since_when(capsys: pytest.CaptureFixture[str]) -> None:
    assert repaired(capsys, "twilio", code=2) == []


@pytest.mark.parametrize("name", ["acme", "sms"])
def test_a_provider_that_is_not_there_or_can_t_be_asked_is_named(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["repair", name, "--since", "2026-03-01"]) == 2
    assert name in capsys.readouterr().err


def test_what_breaks_off_says_how_to_go_on_and_is_made_whole_the_next_time(
    twilio: Twilio, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(1, 6):
        twilio.holds(number, NOW - timedelta(days=2))
    twilio.holds(6, NOW)
    twilio.breaks_after = 3
    lines = repaired(capsys, "twilio", "--since", f"{NOW - timedelta(days=2):%Y-%m-%d}", code=1)
    assert lines[-2].startswith("It broke off: 20503 Service Unavailable")
    assert f"--since {NOW - timedelta(days=2):%Y-%m-%d}T00:00:00Z" in lines[-1]
    twilio.breaks_after = None
    repaired(capsys, "twilio", "--since", f"{NOW - timedelta(days=2):%Y-%m-%d}")
    assert len(stored(database_url)) == 6


def test_one_that_can_t_be_stored_costs_no_other(
    twilio: Twilio, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    twilio.holds(1, NOW)
    twilio.holds(2, NOW, to="\x01")
    lines = repaired(capsys, "twilio", "--since", f"{NOW:%Y-%m-%d}")
    assert lines[-1] == "Done: 2 came in, 1 of them were missing and are recovered, 1 can't be stored."
    assert [row[0] for row in stored(database_url)] == ["SM1"]
