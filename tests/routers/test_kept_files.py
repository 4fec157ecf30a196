"""Media of a vendor over HTTP: from its callback to the file, with its states, events, export and erasure."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.providers.base import BaseProvider, Callback
from app.providers.registry import provider_registry
from app.providers.toolbox.http_client import HttpProvider
from app.testing.vendor import Vendor
from tests.factories import until
from tests.providers import test_slack, test_twilio, test_whatsapp
from tests.providers.toolbox.test_vendor_files import PICTURE, PublicInternet
from tests.providers.vendors import payload
from tests.wire import problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
PUBLIC_URL = "https://messages.example"


def installed(monkeypatch: pytest.MonkeyPatch, name: str, provider: HttpProvider[Any]) -> BaseProvider:
    provider.vendor_files.remote = PublicInternet()
    monkeypatch.setitem(provider_registry, name, provider)
    return provider


async def deliver(client: httpx.AsyncClient, callback: Callback) -> None:
    headers = [(known.encode(), value.encode("latin-1")) for known, value in callback.headers]
    path = callback.url.removeprefix(PUBLIC_URL)
    answer = await client.request(callback.method, path, content=callback.body, headers=headers)
    assert answer.status_code == 200, answer.text


def twilio_mms() -> Callback:
    return test_twilio.signed(payload("twilio", "inbound_mms.form"), url=f"{PUBLIC_URL}/api/webhooks/twilio")


@pytest.fixture
def reachable(settings: Settings) -> Settings:
    return settings.model_copy(update={"public_url": PUBLIC_URL, "worker_poll_seconds": 0.05})


async def settled(client: httpx.AsyncClient) -> dict[str, Any]:
    """The one message, once its files are not pending any more."""

    async def messages() -> list[dict[str, Any]]:
        return list((await client.get("/api/messages")).json())

    def is_settled(found: Sequence[dict[str, Any]]) -> bool:
        return bool(found) and all(file["status"] != "pending" for file in found[0]["files"])

    [message] = await until(messages, is_settled)
    return message


async def test_media_of_a_text_are_fetched_and_served(
    serve: Serve, reachable: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = Vendor(PICTURE)
    installed(monkeypatch, "twilio", test_twilio.provider(vendor))
    client = await serve(reachable)
    for _ in range(2):
        await deliver(client, twilio_mms())
    message = await settled(client)
    assert [path.rpartition("/")[2] for path in message["attachments"]] == ["ME1.jpg", "ME2.png"]
    assert message["files"] == [
        {
            "path": path,
            "name": path.rpartition("/")[2],
            "content_type": "image/jpeg",
            "size": 4,
            "status": "stored",
            "reason": None,
        }
        for path in message["attachments"]
    ]
    for path in message["attachments"]:
        file = await client.get(path)
        assert (file.status_code, file.content, file.headers["content-type"]) == (200, b"jpeg", "image/jpeg")
    assert len(vendor.requests) == 2

    detail = (await client.get(f"/api/messages/{message['id']}")).json()
    assert detail["files"] == message["files"]
    timeline = (await client.get(f"/api/messages/{message['id']}/timeline")).json()
    assert {step["sentence"] for step in timeline if step["kind"] == "file"} == {
        f"The file {file['name']} was fetched from twilio." for file in message["files"]
    }
    events = (await client.get("/api/events", params={"types": "message.file_changed"})).json()["events"]
    assert [event["data"]["message"]["files"] for event in events] == [message["files"]] * 2
    [contact] = (await client.get("/api/contacts", params={"address": message["from"]})).json()
    export = (await client.get(f"/api/contacts/{contact['id']}/export")).json()
    exported = export["conversations"][0]["messages"][0]["files"]
    assert {(file["path"], file["status"]) for file in exported} == {
        (path, "stored") for path in message["attachments"]
    }
    erased = (await client.delete(f"/api/contacts/{contact['id']}")).json()
    assert erased["files"] == 2
    assert rows_of(database_url, "SELECT count(*) FROM files") == [(0,)]


async def test_a_pending_file_is_to_be_asked_for_again(
    serve: Serve, reachable: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "twilio", test_twilio.provider(Vendor(PICTURE)))
    client = await serve(reachable.model_copy(update={"worker_enabled": False}))
    await deliver(client, twilio_mms())
    [message] = (await client.get("/api/messages")).json()
    assert {(file["status"], file["size"]) for file in message["files"]} == {("pending", None)}
    answer = await client.get(message["attachments"][0])
    problem_of(answer, 503)
    assert answer.headers["retry-after"] == "5"


async def test_a_file_that_is_gone_and_one_at_another_host(
    serve: Serve, reachable: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "twilio", test_twilio.provider(Vendor(httpx.Response(410))))
    client = await serve(reachable)
    body = payload("twilio", "inbound_mms.form").replace(
        b"MediaUrl1=https%3A%2F%2Fapi", b"MediaUrl1=https%3A%2F%2Fevil"
    )
    await deliver(client, test_twilio.signed(body, url=f"{PUBLIC_URL}/api/webhooks/twilio"))
    message = await settled(client)
    assert [(file["status"], file["reason"]) for file in message["files"]] == [
        ("unavailable", "The vendor has it no more."),
        ("unavailable", "It is not at the vendor."),
    ]
    gone, elsewhere = message["attachments"]
    problem_of(await client.get(gone), 410)
    problem_of(await client.get(elsewhere), 404)


async def test_a_picture_of_whatsapp_and_a_file_of_slack(
    serve: Serve, reachable: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = httpx.Response(200, json={"url": "https://lookaside.fbsbx.com/whatsapp_business/attachments/?mid=1"})
    installed(monkeypatch, "whatsapp", test_whatsapp.provider(Vendor(told, PICTURE)))
    installed(monkeypatch, "slack", test_slack.provider(Vendor(httpx.Response(200, content=b"GIF89a"))))
    client = await serve(reachable)
    await deliver(client, test_whatsapp.signed(payload("whatsapp", "image.json")))
    message = await settled(client)
    assert message["attachments"][0].endswith("/1003383421387256.jpg")
    assert (await client.get(message["attachments"][0])).content == b"jpeg"

    await deliver(client, test_slack.signed(payload("slack", "file_share.json"), at=datetime.now(UTC)))

    async def shared() -> list[dict[str, Any]]:
        found = (await client.get("/api/messages", params={"provider": "slack"})).json()
        return [file for message in found for file in message["files"]]

    [file] = await until(shared, lambda found: [each["status"] for each in found] == ["stored"])
    assert (file["name"], file["content_type"], file["size"]) == ("tedair.gif", "image/gif", 6)
    assert (await client.get(file["path"])).content == b"GIF89a"
