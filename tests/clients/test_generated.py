"""Clients generated from the document of a running service, in Python and TypeScript: they send, list and page."""

import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live import LiveServer
from tests.node import CLIENTS, installed_packages, run
from tests.tenancy import CONSENT_SECRET, WEBHOOK_SECRET, make_key

pytestmark = pytest.mark.slow

SERVICE = {
    "ENV": "production",
    "WEBHOOK_SECRET": WEBHOOK_SECRET,
    "CONSENT_SECRET": CONSENT_SECRET,
    "SIMULATED_CARRIERS": "true",
    "DOCS_ENABLED": "true",
    "LOG_LEVEL": "warning",
    # A channel beside text and mail; its vendor is never reached.
    "WHATSAPP_ACCESS_TOKEN": "none",
    "WHATSAPP_PHONE_NUMBER_IDS": "+12016661234:1",
    "WHATSAPP_APP_SECRET": "none",
    "WHATSAPP_VERIFY_TOKEN": "none",
    "WHATSAPP_API_URL": "http://127.0.0.1:9",
}
#: The generator knows no JSON Lines.
GENERATOR = {
    "post_hooks": [],
    "content_type_overrides": {
        "application/jsonl": "application/octet-stream",
        "application/x-ndjson": "application/octet-stream",
    },
}
#: What each client has to find: newest first, three on a page.
FOUND = {
    "statuses": [["accepted", "sent"], ["accepted", "sent"]],
    "location": True,
    "same": True,
    "refused": [422, ["body.to"]],
    "pages": [["", "three", "two"], ["one"]],
    "events": ["contact.created", "message.accepted"],
    "accepted": ["one", "two", "three", ""],
}


@pytest.fixture
def service(tmp_path: Path, new_database: Callable[..., str]) -> Iterator[tuple[LiveServer, str]]:
    """A service in production, and a key for it."""
    url = new_database()
    server = LiveServer(tmp_path, port=0, module="app", DATABASE_URL=url, **SERVICE)
    server.start()
    yield server, make_key(url)
    server.stop()


@pytest.fixture
def document(service: tuple[LiveServer, str], tmp_path: Path) -> Path:
    """The document that the service serves, as a file."""
    path = tmp_path / "openapi.json"
    path.write_bytes(httpx.get(f"{service[0].url}/openapi.json").raise_for_status().content)
    return path


@pytest.fixture(scope="session")
def node_programs() -> Path:
    return installed_packages() / ".bin"


def test_a_typescript_client_sends_lists_and_pages(
    service: tuple[LiveServer, str], document: Path, node_programs: Path, tmp_path: Path
) -> None:
    server, key = service
    run(node_programs / "openapi-ts", "-i", document, "-o", "messaging", "-c", "@hey-api/client-fetch", cwd=tmp_path)
    for file in ("use.ts", "tsconfig.json"):
        shutil.copy(CLIENTS / file, tmp_path)
    run(node_programs / "tsc", "-p", ".", cwd=tmp_path)
    assert json.loads(run("node", "built/use.js", server.url, key, cwd=tmp_path)) == FOUND


def test_a_python_client_sends_lists_and_pages(
    service: tuple[LiveServer, str], document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(GENERATOR))
    generator = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--config", str(config)]
    said = run(*generator, "--path", document, "--output-path", "messaging_client", "--fail-on-warning", cwd=tmp_path)
    assert "arning" not in said
    monkeypatch.syspath_prepend(str(tmp_path))
    assert use(*service) == FOUND
    for name in [name for name in sys.modules if name.partition(".")[0] == "messaging_client"]:
        monkeypatch.delitem(sys.modules, name)


def use(server: LiveServer, key: str) -> dict[str, Any]:
    """Use the generated client as a stranger would; what came of it."""

    def operation(name: str, tag: str = "messages") -> Any:
        return importlib.import_module(f"messaging_client.api.{tag}.{name}").sync_detailed

    models: Any = importlib.import_module("messaging_client.models")
    ends = {"from_": "+12016661234", "to": "+18045551234"}
    with importlib.import_module("messaging_client").AuthenticatedClient(base_url=server.url, token=key) as client:
        sent = [
            operation("send_sms")(
                client=client,
                body=models.SmsSend(**ends, type_=models.SmsSendType.SMS, body=body),
                prefer="wait=20",
                idempotency_key=f"python-{body}",
            )
            for body in ("one", "two")
        ]
        mail = models.EmailSend(from_="user@example.com", to="contact@example.com", body="three", attachments=None)
        assert operation("send_email")(client=client, body=mail).status_code == 200
        template = models.Template(name="hello", language="en_US")
        chat = models.ChannelSend(**ends, template=template)
        assert operation("send_whatsapp")(client=client, body=chat).status_code == 200
        found = operation("get_message")(sent[0].parsed.message_id, client=client).parsed
        again = operation("get_message")(found.id, client=client).parsed
        wrong = models.SmsSend(from_=ends["from_"], to="", type_=models.SmsSendType.SMS, body="Hello!")
        refused = operation("send_sms")(client=client, body=wrong)
        pages: list[list[str]] = []
        cursor: dict[str, str] = {}
        while not pages or cursor:
            page = operation("list_messages")(client=client, limit=3, **cursor)
            pages.append([message.body for message in page.parsed])
            link = re.search(r'[?&]cursor=([^&>]+)[^>]*>; rel="next"', page.headers.get("link", ""))
            cursor = {"cursor": link[1]} if link else {}
        types = [models.EventType.MESSAGE_ACCEPTED, models.EventType.CONTACT_CREATED]
        events = operation("list_events", "events")(client=client, types=types).parsed.events
    return {
        "statuses": [[each.parsed.status, each.parsed.message_status.value] for each in sent],
        "location": sent[0].headers["location"] == f"/api/messages/{found.id}",
        "same": found.id == again.id,
        "refused": [refused.status_code.value, [error.location for error in refused.parsed.errors]],
        "pages": pages,
        "events": sorted({event.type_ for event in events}),
        "accepted": [event.data.message.body for event in events if isinstance(event, models.MessageAcceptedEvent)],
    }


def test_the_linters_of_redocly_and_spectral_find_nothing(
    document: Path, node_programs: Path, tmp_path: Path
) -> None:
    run(node_programs / "redocly", "lint", "--extends", "recommended-strict", document, cwd=tmp_path)
    rules = ("--ruleset", CLIENTS / "spectral.json", "--fail-severity", "hint")
    run(node_programs / "spectral", "lint", *rules, document, cwd=tmp_path)
