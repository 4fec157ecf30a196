"""Files of mails over HTTP, the whole circle: a vendor's call, the message, its file; and who gets to see it."""

import json
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from app.config import Settings
from app.installation import KeyScope
from app.providers.registry import provider_registry
from app.providers.sendgrid import SendgridProvider, SendgridSettings
from tests.cases import each_case
from tests.providers.vendors import payload
from tests.tenancy import bearer, give_address, make_key, make_tenant
from tests.wire import problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
Files = list[tuple[str, tuple[str, bytes, str]]]
COUNTS = "SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM files)"


@pytest.fixture(autouse=True)
def provider(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SendgridSettings(_env_file=None, inbound_token=SecretStr("a-token-of-the-address"))
    monkeypatch.setitem(provider_registry, "sendgrid", SendgridProvider(settings))


@pytest.fixture(params=["database", "directory"])
def kept_in(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Settings:
    """Both places for files."""
    where = tmp_path / "files" if request.param == "directory" else None
    return settings.model_copy(update={"worker_enabled": False, "files_dir": where})


async def mailed(
    client: httpx.AsyncClient, files: Files, *to: str, headers: str | None = None, info: str = "{}"
) -> httpx.Response:
    form: dict[str, str] = dict(json.loads(payload("mail", "sendgrid.json")))
    form |= {"attachment-info": info, "charsets": "{}"} | ({"headers": headers} if headers else {})
    form["envelope"] = json.dumps({"to": to or ["user@example.com"], "from": "contact@example.com"})
    return await client.post("/api/webhooks/sendgrid?token=a-token-of-the-address", data=form, files=files)


def attached(*contents: tuple[str, str, bytes]) -> Files:
    return [
        (f"attachment{number}", (name, content, kind)) for number, (name, kind, content) in enumerate(contents, 1)
    ]


def lying_in(directory: Path) -> list[Path]:
    """The files below a directory."""
    return [path for path in directory.rglob("*") if path.is_file()]


async def messages(client: httpx.AsyncClient, **options: Any) -> list[dict[str, Any]]:
    response = await client.get("/api/messages", **options)
    assert response.status_code == 200, response.text
    return list(response.json())


async def test_a_mail_becomes_a_message_whose_file_can_be_had(serve: Serve, kept_in: Settings) -> None:
    client = await serve(kept_in)
    content = os.urandom(3_000_001)
    response = await mailed(client, attached(("Menü & mehr.pdf", "application/pdf", content)))
    assert (response.status_code, response.content) == (200, b'{"status":"ok"}')
    [message] = await messages(client)
    assert message["body"] == "Hello back, café!"
    assert message["quoted"].endswith("> Hello!")
    [address] = message["attachments"]
    assert re.fullmatch(r"/api/files/[0-9a-f]{64}/Men%C3%BC%20%26%20mehr\.pdf", address)

    file = await client.get(address)
    assert (file.status_code, file.content) == (200, content)
    assert file.headers["content-type"] == "application/pdf"
    assert file.headers["content-length"] == "3000001"
    assert file.headers["content-disposition"] == "attachment; filename*=UTF-8''Men%C3%BC%20%26%20mehr.pdf"
    assert file.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in file.headers["content-security-policy"]
    assert (await client.head(address)).headers["content-length"] == "3000001"


async def test_a_repeat_adds_nothing(serve: Serve, kept_in: Settings, database_url: str, tmp_path: Path) -> None:
    client = await serve(kept_in)
    files = attached(("a.txt", "text/plain", b"one"), ("b.txt", "text/plain", b"two"))
    for _ in range(3):
        assert (await mailed(client, files)).status_code == 200
    assert rows_of(database_url, COUNTS) == [(1, 2)]
    [call] = (await client.get("/api/admin/webhook-calls", params={"limit": 1})).json()
    replayed = await client.post(f"/api/admin/webhook-calls/{call['tenant_id']}/{call['id']}/replay")
    assert replayed.status_code == 200, replayed.text
    assert rows_of(database_url, COUNTS) == [(1, 2)]
    assert len(lying_in(tmp_path / "files")) == (2 if kept_in.files_dir else 0)


@pytest.mark.slow
async def test_a_mail_of_thirty_megabytes_is_taken(serve: Serve, kept_in: Settings) -> None:
    client = await serve(kept_in)
    content = os.urandom(29_500_000)
    assert (await mailed(client, attached(("big.zip", "application/zip", content)))).status_code == 200
    [message] = await messages(client)
    assert (await client.get(message["attachments"][0])).content == content


@pytest.mark.slow
async def test_a_thousand_files_are_kept(serve: Serve, kept_in: Settings, database_url: str) -> None:
    client = await serve(kept_in)
    files = attached(*((f"{number}.txt", "text/plain", b"%d" % number) for number in range(1000)))
    assert (await mailed(client, files)).status_code == 200
    [message] = await messages(client)
    assert len(message["attachments"]) == 1000
    assert (await client.get(message["attachments"][617])).content == b"617"
    assert rows_of(database_url, COUNTS) == [(1, 1000)]


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..\\..\\boot.ini",
        "/etc/passwd",
        "a\x00.txt",
        "\u202etxt.exe",
        "..",
        "x" * 5000,
        " ",
        "%2e%2e%2f",
    ],
)
async def test_a_hostile_name_is_made_harmless(serve: Serve, kept_in: Settings, tmp_path: Path, name: str) -> None:
    client = await serve(kept_in)
    info = json.dumps({"attachment1": {"filename": name}})
    files = attached(("x", "text/plain", b"content"))
    assert (await mailed(client, files, info=info)).status_code == 200
    [message] = await messages(client)
    [address] = message["attachments"]
    assert re.fullmatch(r"/api/files/[0-9a-f]{64}/[\w.%-]{1,300}", address)
    assert ".." not in address
    file = await client.get(address)
    assert file.content == b"content"
    lying = [path for path in lying_in(tmp_path) if path.read_bytes() == b"content"]
    assert all(path.is_relative_to(tmp_path / "files" / "1") for path in lying)
    assert len(lying) == (1 if kept_in.files_dir else 0)


@pytest.mark.parametrize(
    ("claimed", "served"),
    [
        ("image/png", "image/png"),
        ("Text/Plain; charset=utf-8", "text/plain"),
        ("text/html", "application/octet-stream"),
        ("image/svg+xml", "application/octet-stream"),
        ("application/javascript", "application/octet-stream"),
        ("", "application/octet-stream"),
        ("nonsense", "application/octet-stream"),
        ("text/plain\x7f", "application/octet-stream"),
    ],
)
async def test_only_a_harmless_type_is_passed_on(client: httpx.AsyncClient, claimed: str, served: str) -> None:
    assert (await mailed(client, attached(("file", claimed, b"<script>")))).status_code == 200
    [message] = await messages(client)
    file = await client.get(message["attachments"][0])
    assert file.headers["content-type"] == served
    assert file.headers["content-disposition"].startswith("attachment")


async def test_another_tenants_file_is_one_that_never_was(serve: Serve, kept_in: Settings, database_url: str) -> None:
    client = await serve(kept_in)
    give_address(database_url, make_tenant(database_url, "Acme"), "desk@example.com", "email")
    tenant = rows_of(database_url, "SELECT id FROM tenants WHERE name = 'Acme'")[0][0]
    key = bearer(make_key(database_url, tenant, scopes=(KeyScope.READ,)))
    both = ("user@example.com", "desk@example.com")
    assert (await mailed(client, attached(("a.txt", "text/plain", b"shared")), *both)).status_code == 200
    [own], [theirs] = await messages(client), await messages(client, headers=key)
    [address], [their_address] = own["attachments"], theirs["attachments"]
    assert (await client.get(address)).content == b"shared"
    assert (await client.get(their_address, headers=key)).content == b"shared"
    problem_of(await client.get(address, headers=key), 404)
    problem_of(await client.get(their_address), 404)
    sender = bearer(make_key(database_url, 1, scopes=(KeyScope.SEND,)))
    problem_of(await client.get(address, headers=sender), 403)


@each_case("path", ["x/a.txt", f"{'0' * 63}/a", f"{'A' * 64}/a", "%00/a", f"{'0' * 64}%0a/a"])
async def test_what_is_no_id_is_refused(client: httpx.AsyncClient, path: str) -> None:
    problem_of(await client.get(f"/api/files/{path}"), 422)


async def test_who_is_erased_takes_their_files_with_them(
    serve: Serve, kept_in: Settings, database_url: str, tmp_path: Path
) -> None:
    client = await serve(kept_in)
    logo = attached(("logo.png", "image/png", b"the same for both"))
    await mailed(client, logo)
    await mailed(client, logo, headers="From: other@example.com\nMessage-ID: <other@example.com>\n")
    assert rows_of(database_url, COUNTS) == [(2, 2)]
    [contact] = (await client.get("/api/contacts", params={"address": "contact@example.com"})).json()
    export = (await client.get(f"/api/contacts/{contact['id']}/export")).json()
    [file] = export["conversations"][0]["messages"][0]["files"]
    assert (file["name"], file["content_type"], file["size"]) == ("logo.png", "image/png", 17)

    erased = (await client.delete(f"/api/contacts/{contact['id']}")).json()
    assert (erased["messages"], erased["files"]) == (1, 1)
    [message] = await messages(client)
    assert message["from"] == "other@example.com"
    assert (await client.get(message["attachments"][0])).content == b"the same for both"
    problem_of(await client.get(f"/api/files/{file['id']}/logo.png"), 404)
    assert len(lying_in(tmp_path / "files")) == (1 if kept_in.files_dir else 0)


async def test_where_the_disk_refuses_the_provider_is_to_call_again(
    serve: Serve, settings: Settings, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "files").write_bytes(b"not a directory")
    client = await serve(settings.model_copy(update={"files_dir": tmp_path / "files"}))
    response = await mailed(client, attached(("a.txt", "text/plain", b"one")))
    problem_of(response, 503)
    assert response.headers["retry-after"]
    assert rows_of(database_url, COUNTS) == [(0, 0)]
    (tmp_path / "files").unlink()
    assert (await mailed(client, attached(("a.txt", "text/plain", b"one")))).status_code == 200
    assert rows_of(database_url, COUNTS) == [(1, 1)]
