"""WhatsApp from request to Meta: templates, and the 24 hours in which free text reaches a person."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.providers.registry import provider_registry
from app.providers.whatsapp import WhatsappProvider
from app.testing.vendor import Vendor
from tests.cases import each_case
from tests.conftest import client_of, execute, started
from tests.factories import until
from tests.providers.test_whatsapp import ACCEPTED, OURS, SIGNATURE, refusal, signed
from tests.providers.test_whatsapp import settings as whatsapp_settings
from tests.wire import locations_of, problem_of, rows_of

pytestmark = pytest.mark.anyio

PERSON = "+16505551234"
ACCOUNT = "102290129340398"
#: As Meta documents the list; the second page has an authentication template.
PAGES = [
    {
        "data": [
            {
                "name": "order_shipped",
                "status": "APPROVED",
                "category": "UTILITY",
                "language": "en_US",
                "components": [
                    {"type": "HEADER", "format": "IMAGE"},
                    {"type": "BODY", "text": "Hello {{1}}, order {{2}} is on its way. Bye, {{1}}!"},
                    {
                        "type": "BUTTONS",
                        "buttons": [
                            {"type": "QUICK_REPLY", "text": "Thanks"},
                            {"type": "URL", "text": "Track", "url": "https://shop.example/{{1}}"},
                        ],
                    },
                ],
            },
            {
                "name": "order_shipped",
                "status": "REJECTED",
                "category": "UTILITY",
                "language": "de",
                "components": [{"type": "BODY", "text": "Hallo {{name}}, {{ order }} ist unterwegs."}],
            },
            {"status": "APPROVED"},
            "odd",
        ],
        "paging": {"cursors": {"before": "MAZDZD", "after": "MjQZD"}, "next": "https://graph.facebook.com/next"},
    },
    {
        "data": [
            {
                "name": "code",
                "status": "APPROVED",
                "category": "AUTHENTICATION",
                "language": "en_US",
                "components": [
                    {"type": "BODY", "add_security_recommendation": True},
                    {"type": "BUTTONS", "buttons": [{"type": "OTP", "otp_type": "COPY_CODE"}]},
                ],
            }
        ],
        "paging": {"cursors": {"before": "MAZDZD", "after": "MjQZD"}},
    },
]
SHIPPED = {
    "name": "order_shipped",
    "language": "en_US",
    "parameters": ["Jane", "#17"],
    "buttons": {"1": "orders/17"},
}
PICTURE = "https://shop.example/parcel.jpg"


class Account:
    """The service with a WhatsApp account, whose answers are given."""

    def __init__(self, client: httpx.AsyncClient, vendor: Vendor, database_url: str) -> None:
        self.client, self.vendor, self.database_url = client, vendor, database_url
        self._now = time.time()  # a repeat is of the same second

    async def gets(self, id_: str, *, hours_ago: float = 0.0) -> None:
        """The person writes."""
        at = int(self._now - 3600 * hours_ago)
        message = {"from": PERSON[1:], "id": id_, "timestamp": str(at), "type": "text", "text": {"body": "Hi"}}
        value = {
            "messaging_product": "whatsapp",
            "metadata": {"display_phone_number": OURS[1:], "phone_number_id": "106540352242922"},
            "contacts": [{"profile": {"name": "Jane"}, "wa_id": PERSON[1:]}],
            "messages": [message],
        }
        entry = {"id": ACCOUNT, "changes": [{"value": value, "field": "messages"}]}
        callback = signed(json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode())
        shown = {SIGNATURE: str(callback.header(SIGNATURE)), "content-type": "application/json"}
        answer = await self.client.post("/api/webhooks/whatsapp", content=callback.body, headers=shown)
        assert answer.status_code == 200, answer.text

    async def sends(self, **changes: Any) -> httpx.Response:
        body = {"from": OURS, "to": PERSON, "body": "Hello!"} | changes
        if "template" in changes:
            del body["body"]
        return await self.client.post("/api/messages/whatsapp", json=body)

    async def conversation(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.client.get("/api/conversations")).json()[0]
        return found

    async def is_sent(self, message_id: str) -> dict[str, Any]:
        async def message() -> dict[str, Any]:
            found: dict[str, Any] = (await self.client.get(f"/api/messages/{message_id}")).json()
            return found

        return await until(message, lambda found: found["status"] not in {"queued", "sending"})

    def asked(self) -> dict[str, Any]:
        """The latest request to Meta."""
        sent: dict[str, Any] = json.loads(self.vendor.requests[-1].content)
        return sent


@pytest.fixture
def vendor() -> Vendor:
    return Vendor(ACCEPTED)


@pytest.fixture
async def account(
    settings: Settings, database_url: str, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Account]:
    whatsapp = WhatsappProvider(whatsapp_settings(business_account_id=ACCOUNT), vendor.client)
    monkeypatch.setitem(provider_registry, "whatsapp", whatsapp)
    async with AsyncExitStack() as stack:
        client = client_of(await started(stack, settings.model_copy(update={"worker_poll_seconds": 0.05})))
        yield Account(await stack.enter_async_context(client), vendor, database_url)


async def test_free_text_reaches_a_person_who_wrote_within_a_day_and_no_other(account: Account) -> None:
    refused = await account.sends()
    assert locations_of(refused) == ["body.template"]
    assert "only a template reaches them" in problem_of(refused, 422)["errors"][0]["message"]
    assert rows_of(account.database_url, "SELECT count(*) FROM messages") == [(0,)]
    await account.gets("wamid.1", hours_ago=1)
    until_ = datetime.fromisoformat((await account.conversation())["window_until"])
    assert timedelta(hours=22, minutes=59) < until_ - datetime.now(UTC) <= timedelta(hours=23)
    sent = await account.sends()
    assert sent.status_code == 200
    assert (await account.is_sent(sent.json()["message_id"]))["status"] == "sent"
    await asyncio.to_thread(execute, account.database_url, "UPDATE conversations SET window_until = now()")
    assert "window_until" not in await account.conversation()
    assert locations_of(await account.sends()) == ["body.template"]


async def test_the_window_is_that_of_the_latest_message_and_a_repeat_moves_nothing(account: Account) -> None:
    await account.gets("wamid.1", hours_ago=2)
    first = (await account.conversation())["window_until"]
    await account.gets("wamid.0", hours_ago=5)
    await account.gets("wamid.1", hours_ago=2)
    assert (await account.conversation())["window_until"] == first
    await account.gets("wamid.2", hours_ago=1)
    assert (await account.conversation())["window_until"] > first


async def test_a_message_of_long_ago_opens_no_window(account: Account) -> None:
    await account.gets("wamid.1", hours_ago=30)
    assert locations_of(await account.sends()) == ["body.template"]


async def test_a_repeat_of_a_send_gets_its_answer_after_the_window_has_closed(account: Account) -> None:
    await account.gets("wamid.1")
    body = {"from": OURS, "to": PERSON, "body": "Hello!"}
    asked: dict[str, Any] = {"json": body, "headers": {"Idempotency-Key": "once"}}
    first = await account.client.post("/api/messages/whatsapp", **asked)
    await asyncio.to_thread(execute, account.database_url, "UPDATE conversations SET window_until = NULL")
    assert (await account.client.post("/api/messages/whatsapp", **asked)).json() == first.json()


async def test_a_window_that_closes_while_a_message_waits_is_told_in_our_words(
    account: Account, vendor: Vendor
) -> None:
    vendor._answers[:] = [refusal(400, 131047)]
    await account.gets("wamid.1")
    message = await account.is_sent((await account.sends()).json()["message_id"])
    assert message["status"] == "failed"
    assert message["status_reason"].endswith(
        "This person has not written within 24 hours: only a template reaches them."
    )


async def test_a_template_reaches_a_person_who_has_never_written(account: Account) -> None:
    sent = await account.sends(template=SHIPPED, attachments=[PICTURE])
    assert sent.status_code == 200, sent.text
    message = await account.is_sent(sent.json()["message_id"])
    assert message["template"] == {
        "name": "order_shipped",
        "language": "en_US",
        "header": None,
        "parameters": {"1": "Jane", "2": "#17"},
        "buttons": {"1": "orders/17"},
    }
    asked = account.asked()
    assert asked["type"] == "template"
    assert asked["template"] == {
        "name": "order_shipped",
        "language": {"code": "en_US"},
        "components": [
            {"type": "header", "parameters": [{"type": "image", "image": {"link": PICTURE}}]},
            {"type": "body", "parameters": [{"type": "text", "text": "Jane"}, {"type": "text", "text": "#17"}]},
            {
                "type": "button",
                "sub_type": "url",
                "index": "1",
                "parameters": [{"type": "text", "text": "orders/17"}],
            },
        ],
    }


async def test_parameters_with_names_keep_them_and_ten_come_in_their_order(account: Account) -> None:
    named = {"name": "hello", "language": "de", "parameters": {"who": "Jane"}, "header": "Shop"}
    await account.is_sent((await account.sends(template=named)).json()["message_id"])
    assert account.asked()["template"]["components"] == [
        {"type": "header", "parameters": [{"type": "text", "text": "Shop"}]},
        {"type": "body", "parameters": [{"type": "text", "text": "Jane", "parameter_name": "who"}]},
    ]
    ten = {"name": "long", "language": "de", "parameters": [str(number) for number in range(1, 12)]}
    await account.is_sent((await account.sends(template=ten)).json()["message_id"])
    [body] = account.asked()["template"]["components"]
    assert [each["text"] for each in body["parameters"]] == ten["parameters"]


def listing(account: Account) -> None:
    account.vendor._answers[:] = [*(httpx.Response(200, json=page) for page in PAGES), ACCEPTED]


async def test_the_templates_of_all_pages_are_listed(account: Account) -> None:
    listing(account)
    answer = await account.client.get("/api/templates")
    assert answer.json() == [
        {
            "channel": "whatsapp",
            "name": "order_shipped",
            "language": "en_US",
            "status": "APPROVED",
            "category": "utility",
            "body": "Hello {{1}}, order {{2}} is on its way. Bye, {{1}}!",
            "header": "image",
            "header_parameters": [],
            "parameters": ["1", "2"],
            "buttons": {"1": "url"},
        },
        {
            "channel": "whatsapp",
            "name": "order_shipped",
            "language": "de",
            "status": "REJECTED",
            "category": "utility",
            "body": "Hallo {{name}}, {{ order }} ist unterwegs.",
            "header": None,
            "header_parameters": [],
            "parameters": ["name", "order"],
            "buttons": {},
        },
        {
            "channel": "whatsapp",
            "name": "code",
            "language": "en_US",
            "status": "APPROVED",
            "category": "authentication",
            "body": "",
            "header": None,
            "header_parameters": [],
            "parameters": ["1"],
            "buttons": {"0": "otp"},
        },
    ]
    first, second = account.vendor.requests
    assert first.url.path == f"/v23.0/{ACCOUNT}/message_templates"
    assert (first.url.params.get("after"), second.url.params["after"]) == (None, "MjQZD")
    await account.client.get("/api/templates?channel=whatsapp")
    assert len(account.vendor.requests) == 2  # asked a moment ago


@each_case(
    ("change", "reason"),
    [
        ({"name": "order_lost"}, "There is no template of this name."),
        ({"language": "fr"}, "This template is there in de, en_US."),
        ({"language": "de"}, "This template is not approved: it is rejected."),
        ({"parameters": ["Jane"]}, "This template has the parameters 1, 2."),
        ({"header": "Shop"}, "The header of this template has no value."),
        ({"buttons": {}}, "The buttons of this template have values at 1."),
    ],
)
async def test_a_preview_says_what_does_not_fit_the_template(
    account: Account, change: dict[str, Any], reason: str
) -> None:
    listing(account)
    message = {"channel": "whatsapp", "from": OURS, "to": PERSON, "template": SHIPPED | change}
    seen = (await account.client.post("/api/messages/preview", json=message)).json()
    assert seen["refused"] == [{"location": "body.template", "message": reason}]
    listing(account)
    fits = await account.client.post("/api/messages/preview", json=message | {"template": SHIPPED})
    assert fits.json()["refused"] == []


async def test_a_preview_says_that_the_window_is_closed(account: Account) -> None:
    message = {"channel": "whatsapp", "from": OURS, "to": PERSON, "body": "Hello!"}
    seen = (await account.client.post("/api/messages/preview", json=message)).json()
    assert [each["location"] for each in seen["refused"]] == ["body.template"]


@each_case(
    ("template", "place"),
    [
        ({"language": "de"}, "body.template.name"),
        ({"name": "Not So", "language": "de"}, "body.template.name"),
        ({"name": "a", "language": "Deutsch"}, "body.template.language"),
        ({"name": "a", "language": "de", "parameters": [1]}, "body.template.parameters.1"),
        ({"name": "a", "language": "de", "parameters": {"a b": "c"}}, "body.template.parameters.a b.[key]"),
        ({"name": "a", "language": "de", "parameters": [""]}, "body.template.parameters.1"),
        ({"name": "a", "language": "de", "buttons": {"10": "c"}}, "body.template.buttons.10.[key]"),
    ],
)
async def test_a_template_that_makes_no_sense_is_refused(
    account: Account, template: dict[str, Any], place: str
) -> None:
    assert locations_of(await account.sends(template=template)) == [place]


async def test_a_template_has_no_body_beside_it(account: Account) -> None:
    both = {"from": OURS, "to": PERSON, "body": "Hello!", "template": SHIPPED}
    assert locations_of(await account.client.post("/api/messages/whatsapp", json=both)) == ["body"]


async def test_no_list_of_templates_is_told_as_what_it_is(account: Account, vendor: Vendor) -> None:
    assert (await account.client.get("/api/templates?channel=sms")).json() == []
    vendor._answers[:] = [refusal(500, 131000)]
    problem_of(await account.client.get("/api/templates?channel=whatsapp"), 503)
    await provider_registry["whatsapp"].close()


async def test_without_the_id_of_the_account_the_list_says_what_to_set(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(provider_registry, "whatsapp", WhatsappProvider(whatsapp_settings(), account.vendor.client))
    refused = await account.client.get("/api/templates?channel=whatsapp")
    assert "WHATSAPP_BUSINESS_ACCOUNT_ID" in problem_of(refused, 503)["detail"]
