"""Tenants with a full set of things, each thing recognisably theirs."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import httpx
import psycopg2
from fastapi import FastAPI

from app.db.models import Base
from app.domain import MessageStatus
from app.http.browser.requests import needs_session
from app.installation import KeyScope
from app.services.search.indexing import index_rows
from tests.batches import PATH as BATCHES
from tests.batches import TYPE, body_of
from tests.conftest import client_of
from tests.factories import CONTACT, CONTACT_EMAIL, email, email_webhook, sms, sms_webhook
from tests.tenancy import bearer, give_address, in_browser, make_key, make_session
from tests.wire import rows_of

#: A contact to whom every tenant writes, and senders who write to every tenant.
SHARED_CONTACT = "+18045550000"
SHARED_CONTACTS = {SHARED_CONTACT, CONTACT, CONTACT_EMAIL}
#: Shorter texts are words of the service, such as `sms`.
_SHORTEST_MARK = 5

#: Everything that is somebody's, and the column that says whose.
_TABLES = {
    table.name: column
    for table in Base.metadata.sorted_tables
    if (column := "id" if table.name == "tenants" else "tenant_id") in table.columns
}
#: The actions on one message in each state, while no worker runs.
_HAPPENING = [
    "UPDATE messages SET status = %(status)s, status_reason = %(word)s || ' reason', provider_type = 'sms',"
    " provider_message_id = %(word)s || '-' || id, attempt_count = 1,"
    " due_at = CASE WHEN %(status)s IN ('scheduled', 'queued', 'sending') THEN now() + interval '1 hour' END"
    " WHERE tenant_id = %(tenant)s AND id = %(id)s",
    "INSERT INTO delivery_attempts"
    " (tenant_id, message_id, number, provider_type, outcome, detail, provider_message_id, started_at, finished_at)"
    " VALUES (%(tenant)s, %(id)s, 1, 'sms', 'temporary', %(word)s || ' attempt', %(word)s || '-' || %(id)s,"
    " now(), now())",
    "INSERT INTO provider_events (tenant_id, provider_type, event_id, message_id, provider_message_id, detail, raw)"
    " VALUES (%(tenant)s, 'sms', %(word)s || '-event-' || %(id)s, %(id)s, %(word)s || '-' || %(id)s,"
    " %(word)s || ' receipt', jsonb_build_object('note', %(word)s || ' raw'))",
    "INSERT INTO message_events (tenant_id, message_id, kind) VALUES (%(tenant)s, %(id)s, 'retried')",
]
_ENDPOINT = [
    "INSERT INTO webhook_attempts"
    " (tenant_id, endpoint_id, event, type, number, status, error, answer, duration_ms, started_at)"
    " SELECT %(tenant)s, id, %(word)s || ' event', 'message.sent', n, 500, %(word)s || ' error',"
    " %(word)s || ' answer', 1, now() FROM webhook_endpoints, generate_series(1, 3) n WHERE tenant_id = %(tenant)s",
    "INSERT INTO webhook_retries"
    " (tenant_id, endpoint_id, generation, transaction_id, event_id, tries, first_failed_at, due_at)"
    " SELECT %(tenant)s, id, 1, 1, 1, 1, now(), now() FROM webhook_endpoints WHERE tenant_id = %(tenant)s",
]
_FILE = (
    "INSERT INTO files (tenant_id, id, provider_type, provider_message_id, name, content_type, size, content)"
    " VALUES (%(tenant)s, encode(sha256(convert_to(%(word)s, 'UTF8')), 'hex'), 'email', %(word)s || '-in-2',"
    " %(word)s || ' file.txt', 'text/plain', octet_length(%(word)s || ' bytes'),"
    " convert_to(%(word)s || ' bytes', 'UTF8'))"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request; who makes it is said elsewhere."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


class Resident:
    """A tenant with two addresses and a key for each scope. Its word or its number is in every text that it has."""

    def __init__(self, app: FastAPI, url: str, tenant_id: int, *, word: str, number: str) -> None:
        self._app, self.url, self.tenant_id = app, url, tenant_id
        self.word, self.number, self.mail = word, number, f"desk@{word}.example"
        give_address(url, tenant_id, self.number)
        give_address(url, tenant_id, self.mail, "email")
        self._client = client_of(app)
        self.keys = {scope: make_key(url, tenant_id, scopes=(scope,)) for scope in KeyScope}
        self._sessions: dict[KeyScope, str] = {}
        #: Its rows, as they were when it had been furnished.
        self.things: dict[str, list[dict[str, Any]]] = {}
        #: What the `Link` headers of its own lists hold, by the list's path.
        self.cursors: dict[str, list[str]] = {}

    @property
    def addresses(self) -> tuple[str, str]:
        return self.number, self.mail

    async def ask(self, scope: KeyScope, asked: Asked) -> httpx.Response:
        """Ask with the key that has this one scope; a page with the session of that key."""
        headers = self._shown(scope, asked.path) | dict(asked.headers)
        return await self._client.request(
            asked.method, asked.path, params=asked.query, headers=headers, json=asked.body
        )

    def _shown(self, scope: KeyScope, path: str) -> dict[str, str]:
        if not needs_session(path):
            return bearer(self.keys[scope])
        if path == "/logout":  # it ends the session that it shows
            return in_browser(make_session(self.url, self.keys[scope]))
        if scope not in self._sessions:
            self._sessions[scope] = make_session(self.url, self.keys[scope])
        return in_browser(self._sessions[scope])

    async def furnish(self) -> None:
        """Get messages in every state, with attempts, receipts, a history, contacts, conversations and cursors."""
        for position, (path, body) in enumerate(self._sends()):
            headers = {"Idempotency-Key": f"{self.word}-key-{position}"}
            sent = await self.ask(KeyScope.SEND, Asked("POST", path, headers=headers, body=body))
            assert sent.status_code == 200, sent.text
        await self._send_batches()
        arrived = sms_webhook(to=self.number, body=f"{self.word} arrived", messaging_provider_id=f"{self.word}-in-1")
        mailed = email_webhook(to=self.mail, body=f"{self.word} came", xillio_id=f"{self.word}-in-2")
        for path, body in (("/api/webhooks/sms", arrived), ("/api/webhooks/email", mailed)):
            assert (await self._client.post(path, json=body)).status_code == 200
        endpoint = {"url": f"http://127.0.0.1:9/{self.word}", "headers": {"X-Key": f"{self.word} key"}}
        for number in range(3):
            named = endpoint | {"description": f"{self.word} endpoint {number}"}
            made = await self.ask(KeyScope.ADMIN, Asked("POST", "/api/webhook-endpoints", body=named))
            assert made.status_code == 200, made.text
        refusals = [
            {"address": f"friend@{self.word}.example", "detail": f"{self.word} refusal"},
            {"address": f"friend@{self.word}.example", "scope": "topic", "scope_value": f"{self.word}-offers"},
            {"address": SHARED_CONTACT, "scope": "sender", "scope_value": self.number},
        ]
        for refusal in refusals:
            refused = await self.ask(KeyScope.SEND, Asked("POST", "/api/suppressions", body=refusal))
            assert refused.status_code == 201, refused.text
        await self._tag()
        self._let_things_happen()
        await self._index()
        self.things = self.rows()

    async def _tag(self) -> None:
        """Name and tag a conversation and a contact."""
        for path, body in (("conversations", {}), ("contacts", {"name": f"{self.word} name"})):
            listed = await self.ask(KeyScope.READ, Asked("GET", f"/api/{path}"))
            change = body | {"metadata": {"owner": f"{self.word} owner"}}
            one = f"/api/{path}/{listed.json()[-1]['id']}"
            changed = await self.ask(KeyScope.SEND, Asked("PATCH", one, body=change))
            assert changed.status_code == 200, changed.text

    async def _index(self) -> None:
        """Have everything found by a search, as a worker would."""
        async with self._app.state.services.sessions.begin() as session:
            while await index_rows(await session.connection(), self.tenant_id):
                pass

    async def _send_batches(self) -> None:
        texts = [{"channel": "sms", **sms(from_=self.number, body=f"{self.word} line {n}")} for n in range(3)]
        for number in range(3):
            headers = bearer(self.keys[KeyScope.SEND]) | TYPE | {"Idempotency-Key": f"{self.word}-batch-{number}"}
            query = {"name": f"{self.word} batch"}
            sent = await self._client.post(BATCHES, params=query, headers=headers, content=body_of(texts))
            assert '"accepted":3' in sent.text, sent.text

    def _sends(self) -> Iterator[tuple[str, dict[str, Any]]]:
        text = {"from_": self.number, "body": f"{self.word} text", "attachments": [f"https://{self.word}.example/a"]}
        own_contacts = [f"{self.number[:-2]}{20 + position}" for position in range(len(MessageStatus))]
        for to in [SHARED_CONTACT] * 3 + own_contacts:
            yield "/api/messages/sms", sms(to=to, **text)
        people = {"from_": self.mail, "to": f"friend@{self.word}.example"}
        copies: dict[str, Any] = {
            "cc": [f"{self.word} copy <copy@{self.word}.example>"],
            "bcc": [f"hidden@{self.word}.example"],
        }
        copies |= {"reply_to": f"answers@{self.word}.example", "metadata": {"owner": f"{self.word} owner"}}
        fields = people | copies
        yield "/api/messages/email", email(subject=f"{self.word} subject", body=f"<p>{self.word}</p>", **fields)

    def _let_things_happen(self) -> None:
        outbound = "SELECT id FROM messages WHERE tenant_id = %s AND channel = 'sms' AND direction = 'outbound'"
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(outbound + " ORDER BY id", (self.tenant_id,))
            for (id_,), status in zip(cursor.fetchall(), cycle(MessageStatus), strict=False):
                of = {"tenant": self.tenant_id, "id": id_, "word": self.word, "status": status.value}
                for statement in _HAPPENING:
                    cursor.execute(statement, of)
            for statement in (_FILE, *_ENDPOINT):
                cursor.execute(statement, {"tenant": self.tenant_id, "word": self.word})

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """All that the database holds of this tenant, by table."""
        found: dict[str, list[dict[str, Any]]] = {table: [] for table in _TABLES}
        question = " UNION ALL ".join(
            f"SELECT '{table}', to_jsonb(t) FROM {table} t WHERE {column} = {self.tenant_id}"
            for table, column in _TABLES.items()
        )
        for table, row in rows_of(self.url, f"{question} ORDER BY 1, 2"):
            found[table].append(row)
        return found

    def marks(self, *others: "Resident") -> set[str]:
        """The texts among its things, times included, that are not among those of the others."""
        everybodys = {text for other in others for text in texts_of(other.things)}
        return {text for text in texts_of(self.things) if len(text) >= _SHORTEST_MARK} - everybodys


def texts_of(value: Any) -> Iterator[str]:
    """Every string in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner)
