"""A look at what would become of a message: the same judgement as a send, and nothing kept."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

import httpx
import pytest

from app.config import Settings
from app.providers.base import BaseProvider, OutboundMessage, ProviderResult
from app.providers.registry import provider_registry
from app.providers.slack import SlackProvider, SlackSettings
from app.providers.whatsapp import WhatsappProvider, WhatsappSettings
from tests.cases import each_case
from tests.conftest import execute
from tests.factories import email, sms
from tests.tenancy import bearer, make_key, make_tenant, production
from tests.wire import problem_of, row_counts, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
PATH = "/api/messages/preview"


class Chat(BaseProvider):
    channels: ClassVar = {"whatsapp": "phone", "slack": "slack"}

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        raise AssertionError("a preview sends nothing")


class Picky(Chat):
    def refusals(self, payload: OutboundMessage) -> Mapping[str, str]:
        return {"to": f"Nothing goes to {payload.to_address}."}


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(provider_registry, "chat", Chat())


async def preview(client: httpx.AsyncClient, channel: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await client.post(PATH, json={"channel": channel, **body})
    assert answer.status_code == 200, answer.text
    seen: dict[str, Any] = answer.json()
    return seen


def refused(seen: dict[str, Any]) -> list[str]:
    return [error["location"] for error in seen["refused"]]


async def test_it_tells_what_would_be_sent(client: httpx.AsyncClient, database_url: str) -> None:
    assert await preview(client, "sms", sms(to="(804) 555-1234", body="\u201cHello!\u201d")) == {
        "channel": "sms",
        "from": "+12016661234",
        "to": "+18045551234",
        "route": ["sms"],
        "may_send_from": True,
        "segments": {"encoding": "ucs2", "count": 1, "forcing": ["\u201c", "\u201d"]},
        "hints": [
            "A part holds 70 characters instead of 160 because of '\u201c' (left double quotation mark), "
            "'\u201d' (right double quotation mark)."
        ],
        "refused": [],
        "suppressed_by": None,
        "quiet_until": None,
    }
    assert set(row_counts(database_url).values()) == {0}


@pytest.mark.usefixtures("chat")
async def test_every_channel_can_be_looked_at(client: httpx.AsyncClient) -> None:
    mail = await preview(client, "email", email(to="contact@EXAMPLE.com"))
    assert (mail["to"], mail["route"], mail["segments"], mail["refused"]) == (
        "contact@example.com",
        ["email"],
        None,
        [],
    )
    chat = await preview(client, "whatsapp", {"from": "2016661234", "to": "whatsapp:US.1", "body": "Hi"})
    assert (chat["from"], chat["to"], chat["route"]) == ("+12016661234", "whatsapp:US.1", ["chat"])
    assert (chat["segments"], chat["refused"]) == (None, [])
    media = await preview(client, "sms", sms(type="mms"))
    assert (media["segments"], media["refused"]) == (None, [])


@pytest.mark.usefixtures("chat")
@each_case(
    ("channel", "body"),
    [
        ("sms", sms()),
        ("sms", sms(to="nobody")),
        ("sms", sms(to="ALERTS", from_="slack:C1")),
        ("sms", sms(type="fax", body="")),
        ("sms", sms(body="a" * 1601)),
        ("sms", sms(timestamp="yesterday")),
        ("sms", sms(send_at="2024-11-01T14:00:00Z")),
        ("sms", sms(attachments="x")),
        ("sms", {}),
        ("email", email(subject="a\nb")),
        ("email", sms()),
        ("slack", sms()),
        ("slack", {"from": "slack:A1", "to": "slack:C1", "body": "Hi"}),
        ("fax", sms()),
    ],
)
async def test_it_refuses_what_a_send_refuses(client: httpx.AsyncClient, channel: str, body: dict[str, Any]) -> None:
    seen = await preview(client, channel, body)
    answer = await client.post(f"/api/messages/{channel}", json=body)
    if answer.status_code == 200:
        assert seen["refused"] == []
    elif answer.status_code == 404:
        assert "body.channel" in refused(seen)
    else:
        assert seen["refused"] == problem_of(answer, 422)["errors"]


WHATSAPP = {"from": "+12016661234", "to": "+18045551234", "template": {"name": "hello", "language": "en_US"}}
SLACK = {"from": "slack:A024BE7LH", "to": "slack:C024BE91L", "body": "Hi"}


@pytest.mark.parametrize(
    ("channel", "body", "expected"),
    [
        ("whatsapp", WHATSAPP, []),
        ("whatsapp", {**WHATSAPP, "from": "+12016669999"}, ["body.from"]),
        (
            "whatsapp",
            {**WHATSAPP, "attachments": ["https://a.example/1", "https://a.example/2"]},
            ["body.attachments"],
        ),
        ("slack", SLACK, []),
        ("slack", {**SLACK, "from": "slack:A1", "to": "slack:nonsense"}, ["body.from", "body.to"]),
    ],
)
async def test_it_says_what_the_provider_would_refuse(
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    channel: str,
    body: dict[str, Any],
    expected: list[str],
) -> None:
    numbers = {"+12016661234": "106540352242922"}
    monkeypatch.setitem(
        provider_registry,
        "whatsapp",
        WhatsappProvider(WhatsappSettings(_env_file=None, phone_number_ids=numbers)),
    )
    monkeypatch.setitem(provider_registry, "slack", SlackProvider(SlackSettings(_env_file=None, app_id="A024BE7LH")))
    assert refused(await preview(client, channel, body)) == expected


async def test_only_the_first_who_would_be_asked_is_heard(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("picky", "easy"):
        monkeypatch.setitem(provider_registry, name, Picky() if name == "picky" else Chat())
    for route, expected in ((["picky", "easy"], ["body.to"]), (["easy", "picky"], []), (["not_there_yet"], [])):
        client = await serve(settings.model_copy(update={"routes": {"whatsapp": route}}))
        text = {"from": WHATSAPP["from"], "to": WHATSAPP["to"], "body": "Hi"}
        assert refused(await preview(client, "whatsapp", text)) == expected


async def test_addresses_are_read_whatever_is_wrong_with_the_rest(client: httpx.AsyncClient) -> None:
    seen = await preview(client, "sms", sms(to="(804) 555-1234", from_="?", body=""))
    assert (seen["from"], seen["to"], seen["may_send_from"]) == (None, "+18045551234", False)
    assert "body.from" in refused(seen)


async def test_it_says_that_an_address_is_somebody_elses(serve: Serve, settings: Settings, database_url: str) -> None:
    tenant = make_tenant(database_url, "Acme")
    client = await serve(production(settings))
    client.headers.update(bearer(make_key(database_url, tenant)))
    seen = await preview(client, "sms", sms())
    assert (seen["may_send_from"], refused(seen)) == (False, ["body.from"])


async def test_it_costs_nothing_of_a_daily_cap_and_says_when_it_is_used_up(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    client = await serve(settings.model_copy(update={"daily_caps": {"US": 2}}))
    for _ in range(3):
        assert refused(await preview(client, "sms", sms())) == []
    assert rows_of(database_url, "SELECT * FROM daily_budgets") == []
    assert refused(await preview(client, "sms", sms(body="a" * 400))) == ["body.to"]
    for _ in range(2):
        assert (await client.post("/api/messages/sms", json=sms())).status_code == 200
    assert refused(await preview(client, "sms", sms())) == ["body.to"]
    execute(database_url, "UPDATE daily_budgets SET used = 0")
    assert refused(await preview(client, "sms", sms())) == []


@each_case("body", [{}, {"channel": None}, {"channel": 5}, {"channel": "a\x00"}, {"channel": "a" * 64}, [], "sms"])
async def test_it_has_to_be_told_which_channel(client: httpx.AsyncClient, body: object) -> None:
    problem_of(await client.post(PATH, json=body), 422)


async def test_there_is_nothing_else_at_its_address(client: httpx.AsyncClient) -> None:
    problem_of(await client.get(PATH), 405)
