"""Uploading files and sending them: limits, repeats, signed addresses, parts of mails, refusals, and their end."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.installation import KeyScope
from app.providers.base import BaseProvider, OutboundFile, OutboundMessage, ProviderResult
from app.providers.registry import provider_registry
from app.services.people.retention import remove_what_is_over
from app.testing.vendor import Vendor
from tests.cases import each_case
from tests.factories import email, sms, sms_webhook, until
from tests.providers import test_twilio, test_whatsapp
from tests.tenancy import bearer, give_address, make_key, make_tenant, production
from tests.wire import locations_of, problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
FILES = "SELECT count(*) FROM files"
PUBLIC_URL = "https://messages.example"


class Recorder(BaseProvider):
    """Keeps what it is to send, and reads its files."""

    def __init__(self, channel: str, kind: str, *, sends_files: bool) -> None:
        self.channels = {channel: kind}  # type: ignore[misc]
        self.sends_files = sends_files  # type: ignore[misc]
        self.sent: list[OutboundMessage] = []
        self.contents: list[bytes] = []

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        self.contents += [await file.read() for file in payload.files.values()]
        self.sent.append(payload)
        return ProviderResult(f"id-{len(self.sent)}")


class Blocked(BaseProvider):
    channels: ClassVar = {"sms": "phone"}

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        await asyncio.Event().wait()
        return ProviderResult()


@pytest.fixture(params=["database", "directory"])
def kept_in(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Settings:
    """Both places for files."""
    where = tmp_path / "files" if request.param == "directory" else None
    return settings.model_copy(update={"worker_poll_seconds": 0.05, "files_dir": where, "file_max_bytes": 1_000_000})


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder("sms", "phone", sends_files=False)
    monkeypatch.setitem(provider_registry, "texts", recorder)
    return recorder


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder("email", "email", sends_files=True)
    monkeypatch.setitem(provider_registry, "mails", recorder)
    return recorder


def lying_in(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


async def upload(
    client: httpx.AsyncClient,
    content: Any = b"content",
    *,
    name: str = "photo.png",
    kind: str = "image/png",
    **options: Any,
) -> httpx.Response:
    headers = {"Content-Type": kind, **options.pop("headers", {})}
    return await client.post("/api/files", params={"name": name}, content=content, headers=headers, **options)


async def uploaded(client: httpx.AsyncClient, content: bytes = b"content", **options: Any) -> str:
    answer = await upload(client, content, **options)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["path"])


async def test_a_file_is_uploaded_and_read(
    serve: Serve, kept_in: Settings, database_url: str, tmp_path: Path
) -> None:
    client = await serve(kept_in)

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(9):
            yield bytes([number]) * 100_000

    answer = await upload(client, pieces(), name="Menü & mehr.png")
    assert answer.status_code == 200
    told = answer.json()
    assert (told["name"], told["content_type"], told["size"]) == ("Menü & mehr.png", "image/png", 900_000)
    assert told["path"] == f"/api/files/{told['id']}/Men%C3%BC%20%26%20mehr.png"
    assert answer.headers["location"] == told["path"]
    file = await client.get(told["path"])
    assert file.content == b"".join(bytes([number]) * 100_000 for number in range(9))
    assert file.headers["content-type"] == "image/png"
    # The same again is the same file, as a form or with another description of its type.
    assert (await upload(client, file.content, name="Menü & mehr.png", kind="Image/PNG; x=1")).json() == told
    form = {"file": ("Menü & mehr.png", file.content, "image/png")}
    assert (await client.post("/api/files", files=form)).json() == told
    assert rows_of(database_url, FILES) == [(1,)]
    assert len(lying_in(tmp_path / "files")) == (1 if kept_in.files_dir else 0)
    others = [await uploaded(client, file.content, name="b.png"), await uploaded(client, b"other", name="")]
    assert len({told["path"], *others}) == 3
    assert others[1].endswith("/file.png")


@each_case(
    ("content", "name", "kind", "status", "location"),
    [
        (b"", "a.png", "image/png", 422, "body"),
        (b"x", "n" * 256, "image/png", 422, "query.name"),
        (b"x", "a.png", "", 415, None),
        (b"x", "a.png", "png", 415, None),
        (b"x", "a.png", "application/x-www-form-urlencoded", 415, None),
        (b"x" * 1_000_001, "a.png", "image/png", 413, None),
        (b"x", "a.png", "multipart/form-data", 422, "body"),
        (b"x", "a.png", "multipart/form-data; boundary=b", 422, "body"),
        (b"--b\r\n\r\nx\r\n--b--\r\n", "", "multipart/form-data; boundary=b", 422, "body"),
    ],
)
async def test_what_is_no_file_is_refused(
    client: httpx.AsyncClient,
    database_url: str,
    content: bytes,
    name: str,
    kind: str,
    status: int,
    location: str | None,
) -> None:
    answer = await upload(client, content * (25 if status == 413 else 1), name=name, kind=kind)
    problem_of(answer, status)
    if location is not None:
        assert locations_of(answer) == [location]
    assert rows_of(database_url, FILES) == [(0,)]


async def test_limits_and_forms(serve: Serve, kept_in: Settings, database_url: str, tmp_path: Path) -> None:
    client = await serve(kept_in)

    async def too_many() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 100_000

    problem_of(await upload(client, too_many()), 413)
    problem_of(await client.post("/api/files", files={"file": ("a.txt", b"x" * 1_000_001, "text/plain")}), 413)
    two = [("file", ("a.txt", b"1", "text/plain")), ("file", ("b.txt", b"2", "text/plain"))]
    assert locations_of(await client.post("/api/files", files=two)) == ["body"]
    problem_of(await upload(client, b"x", headers={"Content-Encoding": "gzip"}), 415)
    assert rows_of(database_url, FILES) == [(0,)]
    assert lying_in(tmp_path / "files") == []
    file = {"file": ("a.txt", b"1" * 1_000_000, "text/plain")}
    assert (await client.post("/api/files", data={"other": "word"}, files=file)).json()["size"] == 1_000_000


async def test_a_vendor_fetches_a_file_at_a_signed_address(
    serve: Serve, kept_in: Settings, texts: Recorder, database_url: str
) -> None:
    client = await serve(production(kept_in, public_url=PUBLIC_URL))
    key = bearer(make_key(database_url))
    path = await uploaded(client, b"content", headers=key)
    message = sms(type="mms", attachments=["https://files.example/1.png", path])
    assert (await client.post("/api/messages/sms", json=message, headers=key)).status_code == 200

    async def sent() -> list[OutboundMessage]:
        return texts.sent

    [payload] = await until(sent, bool)
    other, url = payload.attachments
    assert other == "https://files.example/1.png"
    assert url.startswith(f"{PUBLIC_URL}{path}?")
    facts = [(file.name, file.content_type, file.size) for file in payload.files.values()]
    assert (list(payload.files), facts) == ([url], [("photo.png", "image/png", 7)])
    address = url.removeprefix(PUBLIC_URL)
    for method in ("GET", "HEAD"):
        file = await client.request(method, address)
        assert (file.status_code, file.headers["content-length"]) == (200, "7")
    assert (await client.get(address)).content == b"content"
    [shown] = (await client.get("/api/messages", headers=key)).json()
    assert shown["attachments"] == [other, path]
    assert [file["path"] for file in shown["files"]] == [path]

    problem_of(await client.get(path), 401)
    problem_of(await client.post(address), 401)
    for forged in (
        address.replace("tenant=1", "tenant=2"),
        address.replace("expires=1", "expires=2"),
        re.sub("signature=..", "signature=AA", address),
        re.sub("&signature=.*", "", address),
        address + "&tenant=1",
        address + "x",
        address.replace(path.split("/")[3], "0" * 64),
        re.sub(r"expires=\d+", "expires=1", address),
    ):
        problem_of(await client.get(forged), 401)


async def test_a_mail_carries_its_files(serve: Serve, kept_in: Settings, mails: Recorder) -> None:
    client = await serve(kept_in)
    paths = [await uploaded(client, b"one", name="a.txt", kind="text/plain"), await uploaded(client, b"two")]
    answer = await client.post("/api/messages/email", json=email(attachments=paths))
    assert answer.status_code == 200

    async def contents() -> list[bytes]:
        return mails.contents

    assert await until(contents, lambda found: len(found) == 2) == [b"one", b"two"]


@each_case(
    ("path", "message"),
    [
        (f"/api/files/{'0' * 64}/a.png", "upload it first"),
        ("/api/files/x/a.png", "http"),
        (f"/api/files/{'0' * 64}/", "http"),
        (f"/api/files/{'0' * 64}/a b", "without spaces"),
        (f"/api/files/{'0' * 64}/../../x", "http"),
    ],
)
async def test_a_file_that_is_not_there_is_named_by_its_place(
    client: httpx.AsyncClient, database_url: str, path: str, message: str
) -> None:
    attachments = ["https://files.example/1.png", path]
    answer = await client.post("/api/messages/sms", json=sms(type="mms", attachments=attachments))
    assert locations_of(answer) == ["body.attachments.1"]
    assert message in answer.json()["errors"][0]["message"]
    assert rows_of(database_url, "SELECT count(*) FROM messages") == [(0,)]


async def test_another_tenants_file_is_one_that_never_was(client: httpx.AsyncClient, database_url: str) -> None:
    path = await uploaded(client)
    tenant = make_tenant(database_url)
    give_address(database_url, tenant, "+12025550100")
    key = bearer(make_key(database_url, tenant))
    never = path.replace(path.split("/")[3], "0" * 64)
    answers = [
        await client.post("/api/messages/sms", json=sms(from_="+12025550100", attachments=[each]), headers=key)
        for each in (path, never)
    ]
    assert [locations_of(answer) for answer in answers] == [["body.attachments.0"]] * 2
    assert answers[0].json() == answers[1].json()
    problem_of(await client.get(path, headers=key), 404)
    reader = bearer(make_key(database_url, 1, scopes=(KeyScope.READ,)))
    problem_of(await upload(client, headers=reader), 403)


async def test_a_repeat_is_the_same_message_also_when_its_file_is_gone(
    serve: Serve, kept_in: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(provider_registry, "blocked", Blocked())
    client = await serve(kept_in.model_copy(update={"worker_enabled": False}))
    path = await uploaded(client)
    headers = {"Idempotency-Key": "one"}
    asked = [client.post("/api/messages/sms", json=sms(attachments=[path]), headers=headers) for _ in range(5)]
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["message_id"] for answer in answers}) == 1
    assert rows_of(database_url, "SELECT message_id FROM message_files") == [(1,)]
    rows_of(database_url, "WITH gone AS (DELETE FROM message_files) DELETE FROM files RETURNING id")
    again = await client.post("/api/messages/sms", json=sms(attachments=[path]), headers=headers)
    assert again.json() == answers[0].json()
    new = await client.post("/api/messages/sms", json=sms(attachments=[path]), headers={"Idempotency-Key": "two"})
    assert locations_of(new) == ["body.attachments.0"]


async def test_a_file_goes_with_its_last_message(
    serve: Serve, kept_in: Settings, database_url: str, tmp_path: Path
) -> None:
    client = await serve(kept_in.model_copy(update={"worker_enabled": False}))
    path = await uploaded(client)
    for to in ("+18045551234", "+18045551235"):
        assert (await client.post("/api/messages/sms", json=sms(to=to, attachments=[path]))).status_code == 200
    contacts = [
        (await client.get("/api/contacts", params={"address": to})).json()[0]["id"]
        for to in ("+18045551234", "+18045551235")
    ]
    export = (await client.get(f"/api/contacts/{contacts[0]}/export")).json()
    [file] = export["conversations"][0]["messages"][0]["files"]
    assert (file["path"], file["status"]) == (path, "stored")
    assert (await client.delete(f"/api/contacts/{contacts[0]}")).json()["files"] == 0
    assert (await client.get(path)).status_code == 200
    assert (await client.delete(f"/api/contacts/{contacts[1]}")).json()["files"] == 1
    problem_of(await client.get(path), 404)
    assert lying_in(tmp_path / "files") == []
    assert rows_of(database_url, FILES) == [(0,)]


async def test_a_file_that_is_not_attached_goes_after_a_day(
    serve: Serve, kept_in: Settings, engine: AsyncEngine, database_url: str, tmp_path: Path
) -> None:
    client = await serve(kept_in.model_copy(update={"worker_enabled": False}))
    attached, forgotten = await uploaded(client, b"attached"), await uploaded(client, b"forgotten")
    again = await uploaded(client, b"again")
    assert (await client.post("/api/messages/sms", json=sms(attachments=[attached]))).status_code == 200
    rows_of(database_url, "UPDATE files SET created_at = now() - interval '25 hours' RETURNING 1")
    assert await uploaded(client, b"again") == again
    await remove_what_is_over(engine, kept_in)
    assert [(await client.get(path)).status_code for path in (attached, forgotten, again)] == [200, 404, 200]
    assert len(lying_in(tmp_path / "files")) == (2 if kept_in.files_dir else 0)


async def test_an_inbound_file_is_sent_on_until_its_own_message_goes(
    serve: Serve, kept_in: Settings, engine: AsyncEngine, database_url: str
) -> None:
    client = await serve(kept_in.model_copy(update={"worker_enabled": False}))
    path = await uploaded(client)
    came_in = sms_webhook(messaging_provider_id="in-1")
    assert (await client.post("/api/webhooks/sms", json=came_in)).status_code == 200
    rows_of(
        database_url,
        "UPDATE files SET provider_type = 'sms', provider_message_id = 'in-1' RETURNING id",
    )
    forwarded = sms(to="+18045559876", attachments=[path])
    assert (await client.post("/api/messages/sms", json=forwarded)).status_code == 200
    [contact] = (await client.get("/api/contacts", params={"address": came_in["from"]})).json()
    assert (await client.delete(f"/api/contacts/{contact['id']}")).json()["files"] == 1
    [message] = (await client.get("/api/messages")).json()
    assert (message["attachments"], "files" in message) == ([path], False)
    problem_of(await client.get(path), 404)


@each_case(
    ("name", "kind", "size", "refused"),
    [
        ("archive.zip", "application/zip", 10, "Twilio takes no file of the type application/zip: archive.zip."),
        ("large.png", "image/png", 5_000_001, "Twilio takes 5 MB of image/png: large.png is larger."),
        ("photo.png", "image/png", 10, None),
    ],
)
async def test_a_preview_names_the_file_that_the_vendor_does_not_take(
    serve: Serve,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: str,
    size: int,
    refused: str | None,
) -> None:
    monkeypatch.setitem(provider_registry, "twilio", test_twilio.provider())
    client = await serve(settings.model_copy(update={"public_url": PUBLIC_URL, "worker_enabled": False}))
    path = await uploaded(client, b"x" * size, name=name, kind=kind)
    preview = {"channel": "sms", **sms(type="mms", attachments=[path])}
    found = (await client.post("/api/messages/preview", json=preview)).json()["refused"]
    assert found == ([{"location": "body.attachments", "message": refused}] if refused else [])


async def test_without_a_public_address_the_message_fails_by_the_name_of_its_file(
    serve: Serve, kept_in: Settings, texts: Recorder
) -> None:
    client = await serve(kept_in)
    path = await uploaded(client)
    preview = {"channel": "sms", **sms(type="mms", attachments=[path])}
    [refused] = (await client.post("/api/messages/preview", json=preview)).json()["refused"]
    assert refused["location"] == "body.attachments"
    assert "photo.png" in refused["message"]
    assert "PUBLIC_URL" in refused["message"]
    sent = await client.post("/api/messages/sms", json=sms(type="mms", attachments=[path]))

    async def message() -> dict[str, Any]:
        return dict((await client.get(f"/api/messages/{sent.json()['message_id']}")).json())

    failed = await until(message, lambda found: found["status"] == "failed")
    assert "photo.png" in failed["status_reason"]
    assert texts.sent == []


async def test_whatsapp_shows_a_file_by_its_type_and_name() -> None:
    async def read() -> bytes:
        return b""

    vendor = Vendor(httpx.Response(200, json={"messages": [{"id": "wamid.1"}]}))
    url = f"{PUBLIC_URL}/api/files/{'0' * 64}/Men%C3%BC.pdf?expires=1&tenant=1&signature=x"
    files = {url: OutboundFile("Menü.pdf", "application/pdf", 10, read)}
    await test_whatsapp.provider(vendor).send(test_whatsapp.message(attachments=[url], files=files, body="Look"))
    body = json.loads(vendor.request.content)
    assert body["document"] == {"link": url, "caption": "Look", "filename": "Menü.pdf"}
