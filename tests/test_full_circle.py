"""The service and the simulator as two processes that speak as Twilio, SendGrid and WhatsApp do.

Sends, signed receipts, answers of recipients, and failures between the two."""

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from twilio.base.exceptions import TwilioRestException
from twilio.http.http_client import TwilioHttpClient
from twilio.http.response import Response
from twilio.rest import Client

from tests.live import LOCAL, LiveProcess, LiveServer, free_port
from tests.wire import problem_of, rows_of

pytestmark = pytest.mark.slow

ACCOUNT, AUTH = "AC00000000000000000000000000000001", secrets.token_hex(16)
OUR_MAIL, OUR_WHATSAPP, WHATSAPP_ID = "team@customer.example", "+12016660000", "106540352242922"

_places = count(1)


@dataclass(frozen=True)
class Spoken:
    """One vendor's language: the channel it carries, our address on it, and what a forger would post."""

    channel: str
    ours: str
    forged: bytes
    signature: dict[str, str]

    def recipient(self, behaviour: str) -> str:
        """A new one, to whom this happens."""
        if self.channel == "email":
            return f"{behaviour}+{next(_places)}@simulator.test"
        return f"+1500555{NUMBERS[behaviour]}{next(_places) % 100:02}"


NUMBERS = {
    "ok": "00",
    "throttled": "02",
    "failing": "03",
    "refusing": "04",
    "reset-after": "07",
    "malformed": "09",
    "failing-after": "12",
    "shuffled-receipts": "23",
    "undelivered": "25",
    "stop-reply": "30",
    "inbound-burst": "31",
}
VENDORS = {
    "twilio": Spoken(
        "sms",
        "+12016661234",
        b"MessageSid=SM1&From=%2B18045551234&To=%2B12016661234&Body=forged",
        {"X-Twilio-Signature": "RSOYDt4T1cUTdK1PDd93/VVr8B8="},
    ),
    "sendgrid": Spoken(
        "email",
        OUR_MAIL,
        b'[{"event": "delivered", "sg_event_id": "forged", "sg_message_id": "1", "timestamp": 1772366400}]',
        {
            "X-Twilio-Email-Event-Webhook-Signature": "MEUCIQDZ",
            "X-Twilio-Email-Event-Webhook-Timestamp": "1772366400",
        },
    ),
    "whatsapp": Spoken(
        "whatsapp",
        OUR_WHATSAPP,
        b'{"object": "whatsapp_business_account", "entry": []}',
        {"X-Hub-Signature-256": f"sha256={'0' * 64}"},
    ),
}


class Simulated(TwilioHttpClient):  # type: ignore[misc]
    """Sends what the library asks of Twilio to the simulator."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> Response:
        return super().request(method, url.replace("https://api.twilio.com", self._url), *arguments, **options)


class Circle:
    """Both processes, each knowing the other's address."""

    def __init__(self, directory: Path, database_url: str) -> None:
        self.database_url = database_url
        self._ledger = directory / "ledger.jsonl"
        port, simulator_port = free_port(), free_port()
        self.url, self.simulator_url = (f"http://127.0.0.1:{each}" for each in (port, simulator_port))
        self._shared = {
            "TWILIO_AUTH_TOKEN": AUTH,
            "SENDGRID_INBOUND_TOKEN": secrets.token_hex(16),
            "WHATSAPP_APP_SECRET": secrets.token_hex(16),
            "WHATSAPP_PHONE_NUMBER_IDS": f"{OUR_WHATSAPP}:{WHATSAPP_ID}",
        }
        words = ["--port", str(simulator_port), "--ledger", str(self._ledger), "--service", self.url]
        environment = {"SIMULATOR_RECEIPT_DELAY_SECONDS": "0.05", **self._shared}
        self._simulator = LiveProcess(
            directory / "simulator.log", *words, module="tests.providers.wire", **environment
        )
        self._directory, self._port = directory, port
        self._server: LiveServer | None = None

    def start(self) -> None:
        self._simulator.launch()
        self._simulator.wait_until(lambda: self._public_key() is not None)
        environment = {
            "DATABASE_URL": self.database_url,
            "PUBLIC_URL": self.url,
            "TWILIO_ACCOUNT_SID": ACCOUNT,
            "TWILIO_API_URL": self.simulator_url,
            "SENDGRID_API_KEY": "SG.simulated",
            "SENDGRID_API_URL": self.simulator_url,
            "SENDGRID_WEBHOOK_KEY": self._public_key() or "",
            "WHATSAPP_ACCESS_TOKEN": "EAAsimulated",
            "WHATSAPP_API_URL": f"{self.simulator_url}/v23.0",
            "RETRY_BASE_SECONDS": "0.05",
            "BREAKER_FAILURES": "100",
            "SIMULATOR_RETRY_AFTER_SECONDS": "0.1",
        }
        self._server = LiveServer(self._directory, port=self._port, **self._shared, **environment)
        self._server.start()

    def stop(self) -> None:
        for process in (self._server, self._simulator):
            if process is not None and process.process is not None:
                process.kill()

    def _public_key(self) -> str | None:
        try:
            answer = httpx.get(f"{self.simulator_url}/v3/user/webhooks/event/settings/signed", verify=LOCAL)
        except httpx.TransportError:
            return None
        key: str = answer.json()["public_key"]
        return key

    def send(self, vendor: str, behaviour: str) -> tuple[dict[str, Any], str]:
        """Send a text; gives the service's answer and the recipient."""
        spoken = VENDORS[vendor]
        to = spoken.recipient(behaviour)
        message: dict[str, Any] = {"from": spoken.ours, "to": to, "body": f"Hello, {behaviour}!"}
        if spoken.channel == "sms":
            message["type"] = "sms"
        if spoken.channel == "whatsapp":  # free text reaches only a person who has written
            del message["body"]
            message["template"] = {"name": "hello", "language": "en_US", "parameters": [behaviour]}
        answer = httpx.post(f"{self.url}/api/messages/{spoken.channel}", json=message, verify=LOCAL)
        assert answer.status_code == 200, answer.text
        accepted: dict[str, Any] = answer.json()
        return accepted, to

    def until(self, ask: Callable[[], Any], holds: Callable[[Any], bool]) -> Any:
        """The answer once it is as it should be; fails with the last one after a time."""
        assert self._server is not None
        answers = []

        def is_so() -> bool:
            answers.append(ask())
            return holds(answers[-1])

        try:
            self._server.wait_until(is_so, within_seconds=20)
        except AssertionError:
            raise AssertionError(f"it is still {answers[-1]}") from None
        return answers[-1]

    def message(self, id: str) -> dict[str, Any]:
        shown: dict[str, Any] = httpx.get(f"{self.url}/api/messages/{id}", verify=LOCAL).json()
        return shown

    def conversation(self, id: int) -> list[dict[str, Any]]:
        shown: list[dict[str, Any]] = httpx.get(f"{self.url}/api/conversations/{id}/messages", verify=LOCAL).json()
        return shown

    def lines(self, to: str) -> list[dict[str, Any]]:
        """The lines of the ledger about a recipient."""
        lines = [json.loads(line) for line in self._ledger.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line["to"] == to]


@pytest.fixture(scope="module")
def circle(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[..., str]) -> Iterator[Circle]:
    circle = Circle(tmp_path_factory.mktemp("circle"), new_database())
    try:
        circle.start()
        yield circle
    finally:
        circle.stop()


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(
    ("behaviour", "status", "replies"),
    [
        ("ok", "delivered", ["id"]),
        ("throttled", "delivered", ["throttled", "throttled", "id"]),
        # After a 500 the vendor may have taken it, so it is not repeated.
        ("failing", "unknown", ["error"]),
        ("failing-after", "delivered", ["error"]),
        ("shuffled-receipts", "delivered", ["id"]),
        ("undelivered", "undelivered", ["id"]),
        ("refusing", "failed", ["refused"]),
        # Nothing said that they were taken but their receipts, which bring our reference back.
        ("reset-after", "delivered", ["cut"]),
        ("malformed", "delivered", ["malformed"]),
    ],
)
def test_what_the_vendor_does_is_what_becomes_of_the_message(
    circle: Circle, vendor: str, behaviour: str, status: str, replies: list[str]
) -> None:
    accepted, to = circle.send(vendor, behaviour)
    message = circle.until(lambda: circle.message(accepted["message_id"]), lambda shown: shown["status"] == status)
    lines = circle.lines(to)
    assert [line["reply"] for line in lines] == replies
    if replies[-1] == "id":
        assert message["provider_type"] == vendor
        assert message["provider_message_id"] == lines[-1]["provider_message_id"]
    if status in {"failed", "undelivered"}:
        assert message["status_reason"]


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_recipient_s_stop_comes_into_the_same_conversation(circle: Circle, vendor: str) -> None:
    accepted, to = circle.send(vendor, "stop-reply")
    messages = circle.until(lambda: circle.conversation(accepted["conversation_id"]), lambda shown: len(shown) == 2)
    # Not by their order: WhatsApp tells the time in whole seconds.
    [answer] = [message for message in messages if message["direction"] == "inbound"]
    assert (answer["channel"], answer["body"]) == (VENDORS[vendor].channel, "STOP")
    assert (answer["from"], answer["to"]) == (to, VENDORS[vendor].ours)


@pytest.mark.parametrize("vendor", VENDORS)
def test_answers_that_come_all_at_once_are_all_stored(circle: Circle, vendor: str) -> None:
    accepted, _ = circle.send(vendor, "inbound-burst")
    messages = circle.until(lambda: circle.conversation(accepted["conversation_id"]), lambda shown: len(shown) == 6)
    bodies = {message["body"] for message in messages if message["direction"] == "inbound"}
    assert bodies == {f"Answer {number} of 5" for number in range(1, 6)}


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_forged_call_is_refused_and_stores_nothing(circle: Circle, vendor: str) -> None:
    spoken = VENDORS[vendor]
    for headers in (spoken.signature, {}):
        answer = httpx.post(f"{circle.url}/api/webhooks/{vendor}", content=spoken.forged, headers=headers)
        problem_of(answer, 401)
    name = next(iter(spoken.signature)).encode()
    for odd in (b"", b"\xe9" * 20, b"a" * 65_536):
        answer = httpx.post(f"{circle.url}/api/webhooks/{vendor}", content=spoken.forged, headers=[(name, odd)])
        assert 400 <= answer.status_code < 500
    assert rows_of(circle.database_url, "SELECT 1 FROM messages WHERE body = 'forged'") == []
    assert rows_of(circle.database_url, "SELECT 1 FROM provider_events WHERE event_id = 'forged'") == []


def test_what_went_out_and_came_in_is_listed_as_twilio_lists_it(circle: Circle) -> None:
    accepted, to = circle.send("twilio", "stop-reply")
    circle.until(lambda: circle.conversation(accepted["conversation_id"]), lambda shown: len(shown) == 2)
    client = Client(ACCOUNT, AUTH, http_client=Simulated(circle.simulator_url))
    [answer] = client.messages.list(from_=to)
    assert (answer.direction, answer.body, answer.status) == ("inbound", "STOP", "received")
    [sent] = client.messages.list(to=to, date_sent=datetime.now(UTC).date())
    assert (sent.direction, sent.body, sent.from_) == ("outbound-api", "Hello, stop-reply!", VENDORS["twilio"].ours)
    circle.send("twilio", "ok")
    circle.until(lambda: client.messages.list(page_size=1), lambda listed: len(listed) > 2)
    listed = client.messages.list(page_size=1)
    assert len({message.sid for message in listed}) == len(listed)


def test_twilio_s_own_library_can_send_through_it(circle: Circle) -> None:
    client = Client(ACCOUNT, AUTH, http_client=Simulated(circle.simulator_url))
    message = client.messages.create(to="+15005550000", from_="+12016661234", body="Hello!")
    assert (message.status, message.direction) == ("queued", "outbound-api")
    with pytest.raises(TwilioRestException) as raised:
        client.messages.create(to="+15005550400", from_="+12016661234", body="Hello!")
    assert (raised.value.status, raised.value.code) == (400, 21211)
