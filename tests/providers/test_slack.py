"""Slack: what we ask of it beside what its own library asks, and its calls, signed by its own library."""

import json
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any, ClassVar

import httpx
import pytest
from pydantic import SecretStr
from slack_sdk import WebClient
from slack_sdk.signature import SignatureVerifier

from app.details import MessageDetails
from app.providers.base import (
    Callback,
    CallbackRefused,
    CallbackUnverifiable,
    CredentialsRefused,
    InboundMessage,
    OutboundMessage,
    PermanentFailure,
    ProviderFailure,
    Reply,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.base import send_through as hand_over
from app.providers.slack import IN_DOUBT, REFUSES_US, TEMPORARY, THROTTLED, SlackProvider, SlackSettings, configured
from app.testing.vendor import ODD_VALUES, Vendor, items_in, with_header, with_header_twice, without_header
from tests.cases import each_case
from tests.providers import outbound
from tests.providers.vendors import NOW, call, payload

pytestmark = pytest.mark.anyio

TOKEN, SECRET, OLD_SECRET, APP = "xoxb-token", "8f742231b10e8888abcd99yyyzzz85a5", "0" * 32, "A0PNCHHK2"
REFERENCE = "1-17-1772366400000000"
URL = "https://messages.example/api/webhooks/slack"
SIGNATURE, TIMESTAMP = "x-slack-signature", "x-slack-request-timestamp"
POSTED = httpx.Response(200, json={"ok": True, "channel": "C024BE91L", "ts": "1503435956.000247", "message": {}})


def settings(**values: Any) -> SlackSettings:
    known: dict[str, Any] = {
        "bot_token": SecretStr(TOKEN),
        "app_id": APP,
        "signing_secret": SecretStr(f"{SECRET},{OLD_SECRET}"),
    }
    return SlackSettings(_env_file=None, **{**known, **values})


def provider(vendor: Vendor | None = None, **values: Any) -> SlackProvider:
    return SlackProvider(settings(**values), vendor.client if vendor else None)


def message(to: str = "slack:C024BE91L", **values: Any) -> OutboundMessage:
    facts = {"channel": "slack", "type": "slack", "from_address": f"slack:{APP}", "key": REFERENCE}
    return outbound(to, **{**facts, **values})


def signed(body: bytes, secret: str = SECRET, *, at: datetime = NOW) -> Callback:
    """A call, signed by the vendor's library and made now."""
    timestamp = str(int(at.timestamp()))
    signature = SignatureVerifier(secret).generate_signature(timestamp=timestamp, body=body)
    return call(URL, body, {TIMESTAMP: timestamp, SIGNATURE: str(signature)})


def events_of(name: str) -> list[Any]:
    return list(items_in(provider(), signed(payload("slack", name))))


async def test_a_message_is_asked_for_as_documented() -> None:
    vendor = Vendor(POSTED)
    result = await provider(vendor).send(message(body="Hello!"))
    assert result.provider_message_id == "C024BE91L:1503435956.000247"
    assert (vendor.request.method, str(vendor.request.url)) == ("POST", "https://slack.com/api/chat.postMessage")
    assert vendor.request.headers["authorization"] == f"Bearer {TOKEN}"
    assert vendor.request.headers["content-type"] == "application/json; charset=utf-8"
    assert json.loads(vendor.request.content) == {
        "channel": "C024BE91L",
        "text": "Hello!",
        "metadata": {"event_type": "message_sent", "event_payload": {"reference": REFERENCE}},
    }


class _Slack(BaseHTTPRequestHandler):
    """Takes what the vendor's library posts, and keeps it."""

    asked: ClassVar[list[tuple[str, Message, bytes]]] = []

    def do_POST(self) -> None:
        self.asked.append((self.path, self.headers, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(POSTED.content)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


async def test_the_vendors_library_asks_for_the_same() -> None:
    vendor = Vendor(POSTED)
    await provider(vendor).send(message("slack:C024BE91L/1503435956.000247", body="Hello!"))
    with HTTPServer(("127.0.0.1", 0), _Slack) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        WebClient(token=TOKEN, base_url=f"http://127.0.0.1:{server.server_port}/api/").chat_postMessage(
            channel="C024BE91L",
            text="Hello!",
            thread_ts="1503435956.000247",
            metadata={"event_type": "message_sent", "event_payload": {"reference": REFERENCE}},
        )
        thread.join()
    [(path, headers, body)] = _Slack.asked
    assert path == vendor.request.url.path
    assert json.loads(vendor.request.content) == json.loads(body)
    for name in ("Authorization", "Content-Type"):
        assert headers[name].replace(";", "; ") == vendor.request.headers[name]


async def test_text_calls_nobody_and_links_nowhere() -> None:
    vendor = Vendor(POSTED)
    await provider(vendor).send(
        message(body='<!channel> a & b "c"', attachments=["https://a.example/b?c=d&e=|f>", "https://a.example/2"])
    )
    assert json.loads(vendor.request.content)["text"] == (
        '&lt;!channel&gt; a &amp; b "c"\n<https://a.example/b?c=d&amp;e=%7Cf%3E>\n<https://a.example/2>'
    )


@each_case(
    ("changes", "field"),
    [
        ({"to": "slack:general"}, "to"),
        ({"to": "slack:C1/x"}, "to"),
        ({"to": "+16505551234"}, "to"),
        ({"from_address": "slack:A1"}, "from"),
        ({"body": "a" * 40_001}, "body"),
        ({"body": "&" * 8_001}, "body"),
    ],
)
async def test_what_can_not_be_sent_is_said_beforehand_and_not_tried(changes: dict[str, Any], field: str) -> None:
    vendor = Vendor(POSTED)
    slack = provider(vendor)
    assert list(slack.refusals(message(**changes))) == [field]
    with pytest.raises(PermanentFailure):
        await hand_over(slack, message(**changes))
    assert vendor.requests == []


def refusal(error: str) -> httpx.Response:
    return httpx.Response(200, json={"ok": False, "error": error, "response_metadata": {"messages": ["[ERROR] no"]}})


@each_case(
    ("answer", "failure", "throttled"),
    [
        *[(refusal(error), TemporaryFailure, True) for error in sorted(THROTTLED)],
        *[(refusal(error), TemporaryFailure, False) for error in sorted(TEMPORARY)],
        *[(refusal(error), UnknownOutcome, False) for error in sorted(IN_DOUBT)],
        *[(refusal(error), CredentialsRefused, False) for error in sorted(REFUSES_US)],
        *[
            (refusal(error), PermanentFailure, False)
            for error in ("channel_not_found", "not_in_channel", "is_archived", "msg_too_long", "anything_new")
        ],
        (httpx.Response(200, json={"ok": False}), PermanentFailure, False),
        (httpx.Response(429, headers={"Retry-After": "30"}), TemporaryFailure, True),
        (httpx.Response(401), CredentialsRefused, False),
        (httpx.Response(403), CredentialsRefused, False),
        (httpx.Response(400), PermanentFailure, False),
        (httpx.Response(503), UnknownOutcome, False),
        (httpx.Response(503, json={"ok": False, "error": "service_unavailable"}), TemporaryFailure, False),
        (httpx.Response(500, json={"ok": False, "error": "internal_error"}), UnknownOutcome, False),
        (httpx.Response(500, json={}), UnknownOutcome, False),
        (httpx.Response(302), UnknownOutcome, False),
        (httpx.Response(200, text="ok"), UnknownOutcome, False),
        (httpx.Response(200, json={"ok": True}), UnknownOutcome, False),
        (httpx.Response(200, json={"ok": True, "channel": "C1", "ts": "now"}), UnknownOutcome, False),
        (httpx.ConnectError("no"), TemporaryFailure, False),
        (httpx.ReadTimeout("no"), UnknownOutcome, False),
    ],
)
async def test_every_error_means_something(
    answer: httpx.Response | Exception, failure: type[ProviderFailure], throttled: bool
) -> None:
    with pytest.raises(failure) as raised:
        await provider(Vendor(answer)).send(message())
    assert getattr(raised.value, "throttled", False) is throttled
    assert TOKEN not in str(raised.value)


async def test_it_comes_back_when_slack_says() -> None:
    with pytest.raises(TemporaryFailure) as raised:
        await provider(Vendor(httpx.Response(429, headers={"Retry-After": "30"}))).send(message())
    assert raised.value.retry_after == 30


def test_what_the_vendors_library_signs_is_let_in_with_either_secret() -> None:
    for secret in (SECRET, OLD_SECRET):
        provider().verify(signed(payload("slack", "message.json"), secret))


def test_the_documented_signature_is_let_in() -> None:
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    headers = {
        TIMESTAMP: "1531420618",
        SIGNATURE: "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
    }
    provider().verify(call(URL, body, headers, at=datetime.fromtimestamp(1531420618, UTC)))


@each_case("seconds", [-301, 301, 10**6])
def test_an_old_call_is_refused_and_one_of_the_future(seconds: int) -> None:
    with pytest.raises(CallbackRefused, match="seconds old"):
        provider().verify(signed(b"{}", at=NOW + timedelta(seconds=seconds)))
    provider().verify(signed(b"{}", at=NOW + timedelta(seconds=300 if seconds > 0 else -300)))


@each_case("header", [SIGNATURE, TIMESTAMP])
@each_case("value", [*ODD_VALUES, "v0=", "v0=" + "0" * 64, "-1", "1_0", "١٢"])
def test_no_odd_header_is_let_in(header: str, value: str) -> None:
    with pytest.raises(CallbackRefused):
        provider().verify(with_header(signed(b"{}"), header, value))


def test_nothing_else_is_let_in() -> None:
    good = signed(payload("slack", "message.json"))
    bad = [Callback("POST", URL, good.headers, good.body + b" ", NOW), signed(good.body, "another secret")]
    bad += [change(good, name) for change in (without_header, with_header_twice) for name in (SIGNATURE, TIMESTAMP)]
    for each in bad:
        with pytest.raises(CallbackRefused):
            provider().verify(each)
    with pytest.raises(CallbackUnverifiable):
        provider(signing_secret=None).verify(good)


def test_it_shakes_hands() -> None:
    asked = signed(payload("slack", "url_verification.json"))
    challenge = b"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"
    assert provider().parse(asked) == Reply(challenge, "text/plain")
    for challenge_of in ({}, {"challenge": ""}, {"challenge": "<b> x"}):
        with pytest.raises(CallbackRefused):
            provider().parse(signed(json.dumps({"type": "url_verification", **challenge_of}).encode()))


def test_a_message_comes_in() -> None:
    assert events_of("message.json") == [
        InboundMessage(
            provider_message_id="C024BE91L:1355517523.000005",
            channel="slack",
            type="slack",
            from_address="slack:C024BE91L",
            to_address=f"slack:{APP}",
            body="Live long & prosper <3",
            sent_at=datetime(2012, 12, 14, 20, 38, 43, 5, tzinfo=UTC),
            details=MessageDetails(author="slack:U2147483697"),
        )
    ]


async def test_an_answer_to_a_thread_goes_into_the_thread() -> None:
    [reply] = events_of("thread_reply.json")
    assert reply.from_address == "slack:C024BE91L/1355517523.000005"
    vendor = Vendor(POSTED)
    await provider(vendor).send(message(reply.from_address))
    sent = json.loads(vendor.request.content)
    assert (sent["channel"], sent["thread_ts"]) == ("C024BE91L", "1355517523.000005")


def test_a_mention_is_the_message_that_it_stands_in() -> None:
    assert events_of("app_mention.json") == events_of("message.json")


def test_a_file_is_named_by_its_address() -> None:
    [shared] = events_of("file_share.json")
    assert shared.attachments == ["https://files.slack.com/files-pri/T061EG9R6-F2147483862/tedair.gif"]
    assert (shared.from_address, shared.alias, shared.body) == ("slack:U2147483697", "slack:D024BE91L", "")


@each_case("name", ["own_message.json", "message_changed.json", "channel_join.json", "app_rate_limited.json"])
def test_what_nobody_wrote_to_us_is_no_concern(name: str) -> None:
    assert events_of(name) == []


def changed(**changes: Any) -> Callback:
    document = json.loads(payload("slack", "message.json"))
    document["event"] |= changes
    return signed(json.dumps(document).encode())


def test_our_own_bot_is_known_by_its_app_or_its_user_and_other_bots_are_heard() -> None:
    assert provider().parse(changed(app_id=APP, user="U1")) == []
    assert provider().parse(changed(user="U0BOTUSER")) == []
    assert len(items_in(provider(), changed(subtype="bot_message", user=None, app_id="A2", bot_id="B2"))) == 1


@each_case(
    "body",
    [
        b"",
        b"null",
        b"{}",
        b"\xff",
        b"[" * 5000,
        b'{"type": "event_callback"}',
        b'{"type": "event_callback", "api_app_id": "A1", "event": 1}',
        b'{"type": "event_callback", "api_app_id": "A1", "event": {"type": ["message"]}}',
        b'{"type": "event_callback", "api_app_id": "A1", "event": {"type": "message", "text": "Hi"}}',
        b'{"type": "event_callback", "api_app_id": "A1", "event": {"type": "message", "channel": "C1", "ts": "x"}}',
    ],
)
def test_what_can_not_be_understood_is_said(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        provider().parse(signed(body))


def test_secrets_show_nowhere() -> None:
    shown = f"{settings()!r} {provider()!r} {vars(provider())!r}"
    assert not any(secret in shown for secret in (TOKEN, SECRET, OLD_SECRET))


def test_it_is_there_where_its_settings_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured() is None
    monkeypatch.setenv("SLACK_BOT_TOKEN", TOKEN)
    assert configured() is None
    monkeypatch.setenv("SLACK_APP_ID", APP)
    assert isinstance(configured(), SlackProvider)


@each_case(
    ("changes", "address", "alias", "author"),
    [
        ({"channel": "D1AB", "channel_type": "im"}, "slack:U2147483697", "slack:D1AB", None),
        ({"channel": "D1AB", "channel_type": None}, "slack:U2147483697", "slack:D1AB", None),
        ({"channel": "D1AB", "channel_type": "app_home"}, "slack:U2147483697", "slack:D1AB", None),
        ({"channel": "D1AB", "channel_type": "im", "user": "W77"}, "slack:W77", "slack:D1AB", None),
        ({"channel": "D1AB", "channel_type": "im", "user": None}, "slack:D1AB", None, None),
        ({"channel": "D1AB", "channel_type": "im", "user": None, "bot_id": "B9"}, "slack:D1AB", None, "slack:B9"),
        ({"channel": "D1AB", "channel_type": "im", "user": "USLACKBOT"}, "slack:D1AB", None, "slack:USLACKBOT"),
        ({"channel": "G1AB", "channel_type": "mpim"}, "slack:G1AB", None, "slack:U2147483697"),
        ({"channel": "C1AB", "channel_type": "channel"}, "slack:C1AB", None, "slack:U2147483697"),
        ({"channel": "C1AB", "channel_type": "group", "user": 7}, "slack:C1AB", None, None),
        (
            {"channel": "D1AB", "channel_type": "im", "thread_ts": "1355517000.000001"},
            "slack:U2147483697/1355517000.000001",
            "slack:D1AB",
            None,
        ),
        (
            {"channel": "C1AB", "thread_ts": "1355517000.000001"},
            "slack:C1AB/1355517000.000001",
            None,
            "slack:U2147483697",
        ),
    ],
)
def test_a_direct_message_is_a_person_and_a_channel_has_authors(
    changes: dict[str, Any], address: str, alias: str | None, author: str | None
) -> None:
    [item] = items_in(provider(), changed(**changes))
    assert isinstance(item, InboundMessage)
    assert (item.from_address, item.alias, item.details.author) == (address, alias, author)


@each_case(
    ("changes", "name"),
    [
        ({"username": "alertmanager", "subtype": "bot_message"}, "alertmanager"),
        ({"user_profile": {"display_name": "Jo", "real_name": "Jo Berg"}}, "Jo"),
        ({"user_profile": {"display_name": "", "real_name": "Jo Berg"}}, "Jo Berg"),
        ({"bot_profile": {"name": "Deploys"}}, "Deploys"),
        ({"username": None, "user_profile": "x", "bot_profile": []}, None),
    ],
)
def test_the_name_of_an_author_is_kept(changes: dict[str, Any], name: str | None) -> None:
    [item] = items_in(provider(), changed(**changes))
    assert isinstance(item, InboundMessage)
    assert item.details.from_name == name


@each_case(
    ("changes", "body", "attachments"),
    [
        ({"text": None}, "", []),
        ({"text": 7}, "7", []),
        ({"user": {"id": "U1"}}, "Live long & prosper <3", []),
        ({"thread_ts": 1355517523}, "Live long & prosper <3", []),
        ({"files": "none", "hidden": None, "app_id": 3}, "Live long & prosper <3", []),
        ({"text": "", "files": [None, {"id": "F1"}, {"url_private": ["x"], "id": "F2"}, {}]}, "", ["F1", "F2"]),
        ({"text": "Look", "blocks": "x", "attachments": [{"text": "words"}, 1]}, "Look\nwords", []),
    ],
)
def test_no_field_of_another_type_costs_a_message(changes: dict[str, Any], body: str, attachments: list[str]) -> None:
    [item] = items_in(provider(), changed(**changes))
    assert isinstance(item, InboundMessage)
    assert (item.from_address, item.body, item.attachments) == ("slack:C024BE91L", body, attachments)


async def test_a_person_is_sent_to_by_the_id_of_the_user() -> None:
    vendor = Vendor(POSTED)
    await provider(vendor).send(message("slack:U2147483697"))
    assert json.loads(vendor.request.content)["channel"] == "U2147483697"
