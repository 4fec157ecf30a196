"""`events tail` and `events listen`: what they print and post, and what they say when a service does not answer."""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import httpx
import pytest
from standardwebhooks import Webhook

from app.__main__ import main
from app.commands.event_forwarding import Forwarder
from app.commands.event_stream import EventStream, ServerSentFields, StreamedEvent, StreamRefused, whole_url
from app.commands.events import escaped, line_of
from tests.cases import each_case
from tests.factories import sms_webhook
from tests.live import LOCAL, LiveProcess, LiveServer
from tests.tenancy import WEBHOOK_SECRET

MESSAGE = {
    "direction": "inbound",
    "from": "+18045551234",
    "to": "+12016661234",
    "body": "Hello\n\x1b[31mred " + 60 * "x",
    "status_reason": None,
}
_ABOUT_MESSAGE: dict[str, Any] = {"message_id": 7, "conversation_id": 3}


def event(type_: str = "message.received", number: int = 1, **data: Any) -> dict[str, Any]:
    return {"id": f"evt_{number}", "type": type_, "timestamp": "2026-11-29T02:20:03.123456Z", "data": data}


def written(*events: dict[str, Any]) -> bytes:
    """Events as the stream has them, after a heartbeat."""
    told = (f"id: {each['id']}\nevent: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events)
    return "".join([": heartbeat\n\n", *told]).encode()


@each_case(
    ("event", "line"),
    [
        (
            event(**_ABOUT_MESSAGE, message=MESSAGE),
            r"2026-11-29 02:20:03.123  message.received  message 7, conversation 3  "
            r"inbound +18045551234 → +12016661234  Hello\n\u001b[31mred " + 45 * "x" + "…",
        ),
        (
            event(
                "message.failed",
                **_ABOUT_MESSAGE,
                message=MESSAGE | {"body": "Hi", "status_reason": "no such number"},
            ),
            "2026-11-29 02:20:03.123  message.failed  message 7, conversation 3  "
            "inbound +18045551234 → +12016661234  Hi  (no such number)",
        ),
        (
            event("message.read", **_ABOUT_MESSAGE, message=None),
            "2026-11-29 02:20:03.123  message.read  message 7, conversation 3  (removed)",
        ),
        (
            event(
                "conversation.paused",
                conversation_id=3,
                conversation={"customer_address": "+12016661234", "contact_address": "+18045551234"},
                reason="two programs",
            ),
            "2026-11-29 02:20:03.123  conversation.paused  conversation 3  "
            "+12016661234 ↔ +18045551234  (two programs)",
        ),
        (
            event("contact.created", contact_id=9, contact={"address": "a@b.example"}),
            "2026-11-29 02:20:03.123  contact.created  contact 9  a@b.example",
        ),
        (
            event("contact.erased", contact_id=9, contact=None),
            "2026-11-29 02:20:03.123  contact.erased  contact 9  (removed)",
        ),
        (
            event("webhook_endpoint.disabled", endpoint_id=2, reason="it answered 410"),
            "2026-11-29 02:20:03.123  webhook_endpoint.disabled  endpoint 2  (it answered 410)",
        ),
    ],
    ids=lambda case: case["type"] if isinstance(case, dict) else "",
)
def test_an_event_is_one_line(event: dict[str, Any], line: str) -> None:
    assert line_of(event) == line


def test_json_with_control_sequences_is_escaped_and_means_the_same() -> None:
    content = json.dumps({"body": "\x9b31m \U000e0041 ß 😀\n"}, ensure_ascii=False)
    assert escaped(content).isprintable()
    assert "😀" in escaped(content)
    assert json.loads(escaped(content)) == json.loads(content)


@each_case(
    ("lines", "found"),
    [
        (["id: 1", "event: a", "data: {}", ""], [("1", "a", "{}")]),
        (["id:1", "event:a", "data:{}", "", ": still there", ""], [("1", "a", "{}")]),
        (["data: x", "data:  y", "", "data", ""], [("", "", "x\n y")]),
        (["id: 5", ""], [("5", "", "")]),
        (["retry: 10", "", "id: 1", "data: cut off"], []),
        (["unknown", "unknown: x", ""], []),
    ],
)
def test_a_stream_is_read_as_the_standard_says(lines: list[str], found: list[StreamedEvent]) -> None:
    fields = ServerSentFields()
    assert [event for line in lines if (event := fields.add(line)) is not None] == found


Answer = httpx.Response | httpx.TransportError


def stream_of(*answers: Answer, remarks: list[str], **options: Any) -> tuple[EventStream, list[httpx.Request]]:
    """A stream that is answered so, and the requests that it makes. Too many of them end it."""
    left, asked = [*answers], list[httpx.Request]()

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        given = left.pop(0) if left else httpx.Response(401)
        if isinstance(given, httpx.Response):
            return given
        raise given

    transport = httpx.MockTransport(answer)
    url = whole_url("http://127.0.0.1:1/of/ours/")
    options = {"key": None, "first_pause_seconds": 0, **options}
    return EventStream(url, on_pause=remarks.append, transport=transport, **options), asked


def streamed(*events: dict[str, Any], more: bytes = b"") -> httpx.Response:
    return httpx.Response(
        200, content=written(*events) + more, headers={"content-type": "text/event-stream; charset=utf-8"}
    )


def problem(status: int, **members: Any) -> httpx.Response:
    return httpx.Response(status, json={"status": status, "detail": "As it is.", **members})


async def read(stream: EventStream) -> tuple[list[str], str]:
    """The ids of the events, and the sentence at the end."""
    ids: list[str] = []
    try:
        async for each in stream.events():
            assert json.loads(each.content)["id"] == each.id
            ids.append(each.id)
    except StreamRefused as error:
        return ids, str(error)
    raise AssertionError("it ended")


async def test_a_lost_stream_goes_on_from_the_last_event_and_says_so() -> None:
    first, second, third = (event(number=number) for number in (1, 2, 3))
    remarks: list[str] = []
    stream, asked = stream_of(
        streamed(more=b"id: evt_0\n\n"),  # a position without an event
        streamed(first, second, more=b"id: evt_9\ndata: {cut"),
        httpx.ReadTimeout(""),
        problem(503),
        streamed(third),
        remarks=remarks,
        key="msk_1",
        filters={"types": ["message.received", "message.sent"], "conversation_id": 3},
    )
    ids, _ = await read(stream)
    assert ids == ["evt_1", "evt_2", "evt_3"]
    assert [request.url.params.get("after") for request in asked] == [
        "now", "evt_0", "evt_2", "evt_2", "evt_2", "evt_3",
    ]  # fmt: skip
    for request in asked:
        assert request.url.path == "/of/ours/api/events/stream"
        assert request.url.params.get_list("types") == ["message.received", "message.sent"]
        assert request.url.params["conversation_id"] == "3"
        assert request.headers["authorization"] == "Bearer msk_1"
    assert remarks == [
        "The service has ended the stream. It goes on after evt_0 in 0 s.",
        "The service has ended the stream. It goes on after evt_2 in 0 s.",
        "The connection is lost (ReadTimeout). It goes on after evt_2 in 0 s.",
        "As it is. It goes on after evt_2 in 0 s.",
        "The service has ended the stream. It goes on after evt_3 in 0 s.",
    ]


_GONE = b'event: gone\ndata: {"oldest": "evt_5"}\n\n'


@each_case(
    ("answer", "sentence"),
    [
        (httpx.ConnectError("refused"), "No service answers at http://127.0.0.1:1/of/ours/ (refused). Start it with"),
        (problem(401), "The key is refused. As it is. Give one with --key, or in MESSAGING_KEY."),
        (problem(403), "As it is."),
        (problem(422, errors=[{"location": "query.after", "message": "made up"}]), "As it is. query.after: made up"),
        (problem(410, oldest="evt_5"), "Events after this cursor have been removed. Go on with --after evt_5"),
        (streamed(more=_GONE), "Events after this cursor have been removed."),
        (httpx.Response(404, text="<html>"), "answers 404, and is no messaging service of this version"),
        (httpx.Response(200, text="<html>"), "answers 200, and is no messaging service of this version"),
        (httpx.Response(302), "answers 302, and is no messaging service of this version"),
    ],
)
async def test_a_refusal_says_why_and_what_to_do(answer: Answer, sentence: str) -> None:
    remarks: list[str] = []
    stream, _ = stream_of(answer, remarks=remarks)
    ids, said = await read(stream)
    assert (ids, remarks) == ([], [])
    assert sentence in said


@each_case(
    ("options", "said"),
    [
        ("tail --url ftp://x", "ftp://x is no address; write it as http://localhost:3000/hook."),
        ("tail --url http://[::", "http://[:: is no address"),
        ("tail --key schlüssel", "a key has only letters of ASCII"),
        ("listen --forward-to http://", "http:// is no address"),
        ("listen --forward-to localhost:1 --secret abc", "a secret begins with whsec_"),
        ("listen --forward-to localhost:1 --secret whsec_!", "after whsec_ a secret is base64"),
    ],
)
def test_a_wrong_option_is_refused(options: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", *options.split()]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(said)
    assert shown.out == ""


def test_a_service_that_is_not_running_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "tail", "--url", "127.0.0.1:9"]) == 1
    assert capsys.readouterr().err.startswith("No service answers at http://127.0.0.1:9 (")


class Receiver:
    """Takes webhooks on a port, and answers what it is told to; None closes the connection instead."""

    def __init__(self, answers: Iterable[int | None]) -> None:
        self.answers = iter(answers)
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.url = httpx.URL()

    async def __aenter__(self) -> "Receiver":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = httpx.URL(f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/hook")
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        assert lines[0] == "POST /hook HTTP/1.1"
        headers = dict(
            line.lower().split(": ", 1) if "signature" not in line else line.split(": ", 1) for line in lines[1:-2]
        )
        body = await reader.readexactly(int(headers["content-length"]))
        if (status := next(self.answers)) is not None:
            self.taken.append((headers, body))
            writer.write(f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
            await writer.drain()
        writer.close()
        await writer.wait_closed()


@pytest.fixture
def forward(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Forwards events to a URL without pauses; gives the outcomes that it told."""
    monkeypatch.setattr("app.commands.event_forwarding._PAUSES_SECONDS", (0, 0))

    async def run(url: httpx.URL, *events: dict[str, Any]) -> list[str]:
        said: list[str] = []
        async with aclosing(Forwarder(url, WEBHOOK_SECRET, said.append)) as forwarder:
            for each in events:
                content = json.dumps(each, ensure_ascii=False)
                await forwarder.post(StreamedEvent(each["id"], each["type"], content))
        return [line.split("  ", 1)[1] for line in said]

    return run


async def test_events_are_posted_in_order_and_signed_as_webhooks(forward: Callable[..., Any]) -> None:
    events = [event(number=number, **_ABOUT_MESSAGE, message=MESSAGE | {"body": "ß \u2028"}) for number in (1, 2, 3)]
    async with Receiver([200, 500, 302]) as receiver:
        said = await forward(receiver.url, *events)
    for posted, (headers, body) in zip(events, receiver.taken, strict=True):
        assert headers["content-type"] == "application/json"
        assert headers["webhook-id"] == posted["id"]
        assert Webhook(WEBHOOK_SECRET).verify(body, headers) == posted
    told = [line.rpartition(" in ")[0] for line in said]
    assert told == [f"message.received  evt_{number}  {status}" for number, status in ((1, 200), (2, 500), (3, 302))]


async def test_a_receiver_that_is_down_is_tried_again_and_order_is_kept(forward: Callable[..., Any]) -> None:
    events = [event(number=number) for number in (1, 2, 3, 4)]
    # The first arrives late, the second not at all, and the third is tried only once: it is known to be down.
    async with Receiver([None, 200, None, None, None, None, 200]) as receiver:
        said = await forward(receiver.url, *events)
    assert [headers["webhook-id"] for headers, _ in receiver.taken] == ["evt_1", "evt_4"]
    told = [(line.split("  ")[1], line.rpartition(", ")[2]) for line in said if "no answer" in line]
    assert told == [
        ("evt_1", "again in 0 s"),
        ("evt_2", "again in 0 s"),
        ("evt_2", "again in 0 s"),
        ("evt_2", "given up"),
        ("evt_3", "given up"),
    ]


class _Hook(BaseHTTPRequestHandler):
    """Verifies what is posted, and writes its type down."""

    taken: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.taken.append(Webhook(WEBHOOK_SECRET).verify(body, dict(self.headers))["type"])
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a process can't be sent a Ctrl-C there")
def test_they_follow_a_service_through_a_restart_until_ctrl_c(tmp_path: Path) -> None:
    server = LiveServer(tmp_path, LOG_LEVEL="warning")
    server.start()
    beginning = httpx.get(f"{server.url}/api/events", verify=LOCAL).json()["cursor"]
    hook = ThreadingHTTPServer(("127.0.0.1", 0), _Hook)
    Thread(target=hook.serve_forever, daemon=True).start()
    options = ["--after", beginning, "--types", "message.received"]
    to = ["--forward-to", f"localhost:{hook.server_port}", "--secret", WEBHOOK_SECRET]
    commands = [
        LiveProcess(tmp_path / "tail.log", "events", "tail", *options, PORT=str(server.port)),
        LiveProcess(tmp_path / "listen.log", "events", "listen", *to, *options, PORT=str(server.port)),
    ]

    def receive(number: int) -> None:
        said = sms_webhook(messaging_provider_id=f"message-{number}")
        assert httpx.post(f"{server.url}/api/webhooks/sms", json=said, verify=LOCAL).status_code == 200
        for command in commands:
            command.wait_until(lambda of=command: of.log.read_text().count("  message.received  ") == number)  # type: ignore[misc]

    try:
        for command in commands:
            command.launch()
        receive(1)
        server.kill()
        server.start()
        receive(2)
        assert [command.stop(signal.SIGINT) for command in commands] == [130, 130]
        assert _Hook.taken == 2 * ["message.received"]
        for command in commands:
            assert "goes on after evt_" in command.log.read_text()
            assert "Traceback" not in command.log.read_text()
    finally:
        for command in commands:
            if command.process is not None:
                command.kill()
        hook.shutdown()
        hook.server_close()
        server.stop()
