"""Every route of an application, asked by one tenant for what is another's.

The requests are made from the routes themselves, so that a new one is walked from the day it appears. One that takes
something new stops the walk until it stands in `MADE`, `NOBODYS` or `BODIES` what there is to ask it for.
"""

import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute

from app.domain import DEFAULT_TENANT_ID
from app.http.access import NEEDS, OF_THE_INSTALLATION
from app.installation import KeyScope
from app.services.events.cursors import Position, cursor_at
from tests.factories import email, sms
from tests.residents import SHARED_CONTACT, SHARED_CONTACTS, Asked, Resident

Served = tuple[APIRoute, str]
Said = tuple[int, dict[str, str], str]


@dataclass(frozen=True, slots=True)
class Made:
    """A parameter's value for a thing of a tenant on a path, and for a thing that never was.

    Without a `never` there is no such thing: a made-up cursor is malformed.
    """

    of: Callable[[Resident, str], list[str]]
    never: Callable[[], str] | None


def _ids(table: str) -> Made:
    return Made(lambda who, path: [str(row["id"]) for row in who.things[table]], lambda: "999999999")


def _cursor_of(row: dict[str, Any]) -> str:
    return cursor_at(row["tenant_id"], Position(row["generation"], row["transaction_id"], row["id"]))


#: By path, the table of the things that an address finds, where these are not contacts.
_FOUND_BY_ADDRESS = {"/api/suppressions": "suppressions"}
#: By name, what is somebody's.
MADE: Mapping[str, Made] = {
    "message_id": _ids("messages"),
    "conversation_id": _ids("conversations"),
    "contact_id": _ids("contacts"),
    "tenant_id": _ids("tenants"),
    "key_id": _ids("api_keys"),
    "address_id": _ids("tenant_addresses"),
    "file_id": Made(lambda who, path: [row["id"] for row in who.things["files"]], lambda: "0" * 64),
    "call_id": _ids("webhook_calls"),
    "endpoint_id": _ids("webhook_endpoints"),
    "suppression_id": _ids("suppressions"),
    "batch_id": _ids("batches"),
    "q": Made(lambda who, path: [who.word, who.number[:-2]], lambda: "nothing"),
    "address": Made(
        lambda who, path: sorted(
            {row["address"] for row in who.things[_FOUND_BY_ADDRESS.get(path, "contacts")]} - SHARED_CONTACTS
        ),
        lambda: "+12025559999",
    ),
    "cursor": Made(lambda who, path: who.cursors[path], None),
    "after": Made(lambda who, path: [_cursor_of(row) for row in who.things["events"]], lambda: "evt_AAAAAAAAAA"),
    "Last-Event-ID": Made(
        lambda who, path: [_cursor_of(row) for row in who.things["events"]], lambda: "evt_AAAAAAAAAA"
    ),
    "Idempotency-Key": Made(
        lambda who, path: (
            [row["key"] for row in who.things["batches"] if path == "/api/batches"]
            or [
                row["idempotency_key"]
                for row in who.things["messages"]
                if row["idempotency_key"] and path.endswith(row["channel"])
            ]
        ),
        lambda: f"never-{secrets.token_hex(8)}",
    ),
}
#: A channel that a provider brings, with phone numbers at both ends; the test that walks registers it.
CHANNEL = "whatsapp"
#: By name, what is nobody's, and a value for it.
NOBODYS: Mapping[str, str] = {
    "limit": "2",
    "types": "message.accepted",
    "status": "failed",
    "provider": "sms",
    "name": "sms",
    "channel": CHANNEL,
    "since": "2024-01-01T00:00:00Z",
    "until": "2099-01-01T00:00:00Z",
    "Prefer": "wait=0",
    "wait": "0",
    "source": "api",
    "scope": "everything",
    "scope_value": "newsletter",
    "priority": "bulk",
    "topic": "newsletter",
    "of": "tenant",
    "assignee": "none",
    "tag": "walked",
    "unread": "false",
    "include": "last_message",
    "kind": "message",
}
#: The same where a path has other values.
_NOBODYS_AT = {("/api/conversations", "status"): "open"}
#: By path, a body with the addresses of somebody.
BODIES: Mapping[str, Callable[[str, str], dict[str, Any]]] = {
    "/api/messages/sms": lambda number, mail: sms(from_=number, to="+18045559999"),
    "/api/messages/email": lambda number, mail: email(from_=mail),
    "/api/messages/preview": lambda number, mail: {"channel": "sms", **sms(from_=number, to="+18045559999")},
    "/api/messages/{channel}": lambda number, mail: {"from": number, "to": "+18045559999", "body": "Hello!"},
    "/api/batches": lambda number, mail: {"channel": "sms", **sms(from_=number, to="+18045559999")},
    "/api/suppressions": lambda number, mail: {
        "address": SHARED_CONTACT,
        "scope": "sender",
        "scope_value": number,
    },
}
#: By path, a body without a thing of a tenant.
PLAIN_BODIES: Mapping[str, Any] = {
    "/api/files": {"any": "document"},
    "/api/suppressions/batch": {"address": SHARED_CONTACT},
    "/api/conversations/{conversation_id}": {"status": "closed", "metadata": {"step": "walked"}},
    "/api/conversations/{conversation_id}/messages": {"body": "We are open until six."},
    "/api/conversations/{conversation_id}/read": {},
    "/api/contacts/{contact_id}": {"metadata": {"step": "walked"}},
    "/api/suppressions/{suppression_id}/lift": {"reason": "They have asked for it."},
    "/api/quiet-hours": [{"begins": "21:00", "ends": "08:00", "time_zone": "Europe/Berlin"}],
    "/api/messages/retry": {"status": "failed", "limit": 1},
    "/api/providers/{name}/pause": {"reason": "Their texts arrive twice."},
}
#: By path, the headers that a request needs.
_HEADERS: Mapping[str, dict[str, str]] = {
    "/api/suppressions/batch": {"Content-Type": "application/jsonl"},
    "/api/batches": {"Content-Type": "application/x-ndjson", "Idempotency-Key": "walk"},
}
#: By path, the query that a request needs.
_QUERIES: Mapping[str, Callable[[Resident], dict[str, str]]] = {"/api/search": lambda who: {"q": who.word}}


def _with_event(name: str) -> Callable[[Resident | None], dict[str, Any]]:
    return lambda who: {name: _cursor_of(who.things["events"][0]) if who else "evt_AAAAAAAAAA"}


def _with_conversation(**others: object) -> Callable[[Resident | None], dict[str, Any]]:
    return lambda who: {"conversation_id": who.things["conversations"][0]["id"] if who else 999999999, **others}


_ENDPOINT = "/api/webhook-endpoints/{endpoint_id}"
#: By path, a body with a thing of a tenant, or with one that never was.
BODIES_WITH_THINGS: Mapping[str, Callable[[Resident | None], dict[str, Any]]] = {
    "/api/webhook-endpoints": _with_conversation(url="http://127.0.0.1:9/"),
    _ENDPOINT: _with_conversation(),
    f"{_ENDPOINT}/redeliver": _with_event("event_id"),
    f"{_ENDPOINT}/replay": _with_event("after"),
}
_NOBODYS_ADDRESSES = ("+12025559998", "nobody@never.example")

#: The name of the first tenant, which is also in every Content-Security-Policy.
_WORDS = {"default"}
#: What differs between two answers that say the same.
_PASSING_HEADERS = {"x-request-id", "content-length", "date", "location"}
_PASSING = re.compile(
    r'(?<="message_id":)"\d+"|(?<="conversation_id":)\d+(?=,"status":"accepted")|(?<="exported_at":)"[^"]+"'
    r'|(?<="batch_id":)\d+(?=,"status":"complete")'
    r"|retry: \d+|id: evt_\S+(?=\n\n)"  # how far a stream is, which has no event
)


@dataclass(frozen=True, slots=True)
class Step:
    """A request about a thing of a tenant, and the same about a thing that never was, if there can be one."""

    path: str
    name: str
    value: str
    theirs: Asked
    never: Asked | None

    def __str__(self) -> str:
        return f"{self.theirs.method} {self.path} {self.name}={self.value}".removesuffix(" =")


def api_routes(app: FastAPI) -> Iterator[Served]:
    """Every route with each of its methods."""
    for route in app.routes:
        if isinstance(route, APIRoute):
            yield from ((route, method) for method in sorted((route.methods or set()) - {"HEAD"}))


def is_of_the_installation(route: APIRoute, method: str) -> bool:
    """Tell if it shows or changes things of every tenant, which only the operator may."""
    return needs_admin(route, method) and route.path.startswith(OF_THE_INSTALLATION)


def needs_admin(route: APIRoute, method: str) -> bool:
    return NEEDS.get(route.path, {}).get(method) is KeyScope.ADMIN


def _scope_of(route: APIRoute, method: str) -> KeyScope:
    return NEEDS.get(route.path, {}).get(method) or KeyScope.READ


def tenants_routes(app: FastAPI) -> Iterator[Served]:
    """Those that are about the tenant who asks."""
    for route, method in api_routes(app):
        is_open = NEEDS.get(route.path, {}).get(method, KeyScope.READ) is None
        if not is_open and not is_of_the_installation(route, method):
            yield route, method


def parameters_of(route: APIRoute) -> dict[str, str]:
    """The names of what a route takes, and where each stands; bodies are `BODIES`' business."""
    found = {param.alias: param.field_info.in_.value for param in get_flat_params(route.dependant)}  # type: ignore[attr-defined]
    found |= {each["name"]: each["in"] for each in (route.openapi_extra or {}).get("parameters", [])}
    found |= dict.fromkeys(re.findall(r"{(\w+)}", route.path), "path")  # an endpoint may read it off the request
    unknown = set(found) - set(MADE) - set(NOBODYS)
    assert not unknown, f"{route.path} takes {unknown}: say in MADE whose that is, or in NOBODYS that it is nobody's"
    known = {*BODIES, *BODIES_WITH_THINGS, *PLAIN_BODIES}
    assert route.body_field is None or route.path in known, f"{route.path} takes a body: say in BODIES which"
    return found


def steps(route: APIRoute, method: str, asking: Resident, having: Resident) -> Iterator[Step]:
    """The requests of `asking` to a route with each thing of `having`, one at a time; the two may be the same."""
    path, parameters = route.path, parameters_of(route)
    own = {name: _values(name, asking, path)[0] for name, where in parameters.items() if where == "path"}
    body = BODIES.get(path) if method != "GET" else None
    own_body = body(asking.number, asking.mail) if body else PLAIN_BODIES.get(path)
    needed = _HEADERS.get(path, {}) if method != "GET" else {}
    query = _query_of(path, asking)
    body_with = BODIES_WITH_THINGS.get(path) if route.body_field is not None else None
    if body_with is not None:
        own_body = body_with(asking)

    def asked_with(name: str, value: str) -> Asked:
        where = parameters[name]
        return Asked(
            method,
            path.format_map(own | ({name: value} if where == "path" else {})),
            query=query | ({name: value} if where == "query" else {}),
            headers=needed | ({name: value} if where == "header" else {}),
            body=own_body,
        )

    if not own:
        yield Step(path, "", "", Asked(method, path, query=query, headers=needed, body=own_body), None)
    for name in parameters:
        never = MADE[name].never if name in MADE else None
        for value in _values(name, having, path):
            yield Step(path, name, value, asked_with(name, value), asked_with(name, never()) if never else None)
    if body_with is not None:
        theirs, never_was = (Asked(method, path.format_map(own), body=body_with(who)) for who in (having, None))
        yield Step(path, "body", str(next(iter((theirs.body or {}).values()))), theirs, never_was)
    if body is not None:
        theirs = Asked(method, path.format_map(own), headers=needed, body=body(*having.addresses))
        nobodys = Asked(method, path.format_map(own), headers=needed, body=body(*_NOBODYS_ADDRESSES))
        # What is nobody's is the first tenant's, who is bound to be told apart what is not.
        yield Step(path, "body", having.number, theirs, nobodys if asking.tenant_id != DEFAULT_TENANT_ID else None)


def _query_of(path: str, who: Resident) -> dict[str, str]:
    return _QUERIES[path](who) if path in _QUERIES else {}


def _values(name: str, having: Resident, path: str) -> list[str]:
    if name in MADE:
        return MADE[name].of(having, path)
    return [_NOBODYS_AT.get((path, name), NOBODYS[name])]


async def gather_cursors(app: FastAPI, who: Resident) -> None:
    """Page through all lists of a tenant, and keep the cursors."""
    for route, method in tenants_routes(app):
        parameters = parameters_of(route)
        if "cursor" in parameters:
            names = [name for name, where in parameters.items() if where == "path"]
            for ids in product(*(_values(name, who, route.path) for name in names)):
                path = route.path.format_map(dict(zip(names, ids, strict=True)))
                who.cursors.setdefault(route.path, []).extend(await _leaf(who, _scope_of(route, method), path))


async def _leaf(who: Resident, scope: KeyScope, path: str) -> list[str]:
    """The cursors of the first two pages of a list: of those after them, and of the one before."""
    found: list[str] = []
    for _ in range(2):
        query = {"limit": "1"} | _query_of(path, who) | ({"cursor": found[0]} if found else {})
        answer = await who.ask(scope, Asked("GET", path, query=query))
        found += re.findall(r"cursor=([\w-]+)", answer.headers.get("link", ""))
    return sorted(set(found))


async def leaks(routes: Iterable[Served], asking: Resident, having: Resident) -> list[str]:
    """The facts that `asking` learns of `having` with each of its keys: none, if all is well.

    Its texts must be in no answer, and an answer about something of its has to be the one about what never was.
    """
    found = []
    # A key that a batch was sent with is shown to its sender.
    marks = having.marks(asking) - _WORDS - {row["key"] for row in having.things["batches"]}
    for (route, method), scope in product(routes, KeyScope):
        about_nothing: dict[str, Said] = {}
        for step in steps(route, method, asking, having):
            answer = await asking.ask(scope, step.theirs)
            # What was asked with may stand in the answer, as in a link to the next page.
            whole = f"{dict(answer.headers)} {answer.text}"
            whole = whole.replace(step.value, "") if step.value else whole
            shown = [mark for mark in marks if mark in whole]
            if shown:
                found.append(f"{step}, {scope}: shows {shown}")
            if step.never is not None:
                if step.name not in about_nothing:
                    about_nothing[step.name] = said(await asking.ask(scope, step.never))
                if said(answer) != about_nothing[step.name]:
                    found.append(f"{step}, {scope}: says {said(answer)}, not {about_nothing[step.name]}")
    return found


async def views(routes: Iterable[Served], who: Resident) -> dict[str, Said]:
    """The answers to a tenant that reads everything of its own."""
    seen = {}
    for route, method in routes:
        if method == "GET":
            for step in steps(route, method, who, who):
                seen[str(step)] = said(await who.ask(_scope_of(route, method), step.theirs))
    return seen


def said(answer: httpx.Response) -> Said:
    """An answer without what differs each time, and without the sender that it was asked with."""
    headers = {name: value for name, value in answer.headers.items() if name not in _PASSING_HEADERS}
    asked = json.loads(answer.request.content or b"{}")
    sender = asked.get("from") if isinstance(asked, dict) else None
    text = answer.text.replace(sender, "#") if sender else answer.text
    return answer.status_code, headers, _PASSING.sub("#", text)
