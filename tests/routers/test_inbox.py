"""The pages of the inbox: what they show, what they escape, what they refuse, and what they cost."""

import html
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from asyncpg import Connection
from fastapi import FastAPI

from app.config import Settings
from app.http import access
from app.installation import KeyScope
from app.routers.inbox.views import spoken
from app.services.tenancy.keys import Access
from app.web.inbox.language import languages
from tests.cases import each_case
from tests.conftest import client_of, started
from tests.factories import CONTACT, CUSTOMER, email_webhook, sms, sms_webhook, until
from tests.tenancy import make_tenant

pytestmark = pytest.mark.anyio

FRAGMENT = {"HX-Request": "true"}
HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)> {{ 7*7 }} {% raw %} </textarea></title>"""
LARGEST_VIEW = 100_000  # bytes on the wire


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    async with AsyncExitStack() as stack:
        yield await started(stack, settings.model_copy(update={"worker_enabled": False}))


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client that shows the token of our pages, as they do."""
    async with client_of(app) as client:
        page = (await client.get("/inbox")).text
        token = re.search('data-csrf="([^"]*)"', page)
        assert token is not None
        client.headers["X-CSRF-Token"] = token[1]
        yield client


async def receive(client: httpx.AsyncClient, path: str = "sms", **changes: object) -> None:
    make = email_webhook if path == "email" else sms_webhook
    answer = await client.post(f"/api/webhooks/{path}", json=make(**changes))
    assert answer.status_code == 200, answer.text


class Outline(HTMLParser):
    """The elements of a page with their attributes, and its visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


async def outline_of(client: httpx.AsyncClient, path: str, status: int = 200, **options: Any) -> Outline:
    answer = await client.get(path, **options)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Outline(answer.text)


PAGES = {
    "the inbox": "/inbox",
    "a view": "/inbox?view=closed",
    "the list": "/inbox/list?view=all",
    "a thread": "/inbox/c/1",
    "a search": "/inbox/search?q=hello",
    "a search for nothing": "/inbox/search?q=",
    "a row": "/inbox/c/1/item",
    "a message": "/inbox/messages/1/item",
    "a timeline": "/inbox/messages/1/timeline",
}
_ALWAYS_A_PART = {"/inbox/c/1/item", "/inbox/messages/1/item"}


@each_case("path", PAGES.values())
async def test_each_address_is_a_page_and_a_part_of_one(browser: httpx.AsyncClient, path: str) -> None:
    await receive(browser)
    whole, part = await browser.get(path), await browser.get(path, headers=FRAGMENT)
    for answer in (whole, part):
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    assert whole.text.startswith("<!doctype html>") == (path not in _ALWAYS_A_PART)
    assert "<html" not in part.text


async def test_a_page_shows_the_list_the_thread_and_the_person(browser: httpx.AsyncClient) -> None:
    await receive(browser, body="Where is my bike?")
    page = await outline_of(browser, "/inbox/c/1")
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert {"list", "row-1", "thread", "messages", "message-1", "composer", "person", "words"} <= ids
    assert "Where is my bike?" in page.text
    [row] = [attributes for attributes in page.all("li") if attributes.get("id") == "row-1"]
    assert row["data-unread"] == "1"


async def test_nothing_in_a_page_is_inline_or_foreign(browser: httpx.AsyncClient) -> None:
    await receive(browser)
    page = await outline_of(browser, "/inbox/c/1")
    for tag, attributes in page.elements:
        assert tag != "style"
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "/").startswith(("/", "#", "?")), (tag, attributes)
    for script in page.all("script"):
        assert script.get("src") or script["type"] == "application/json"


@pytest.mark.parametrize("path", ["/inbox/c/1", "/inbox/list", "/inbox/c/1/item", "/inbox/messages/1/item"])
async def test_words_of_strangers_are_only_words(browser: httpx.AsyncClient, path: str) -> None:
    sender = "Eve 'onerror=alert(3) &lt;b&gt; <ok@simulator.test>"
    await receive(browser, "email", **{"from": sender, "subject": HOSTILE[:200], "body": "plain " + HOSTILE})
    for headers in ({}, FRAGMENT):
        answer = await browser.get(path, headers=headers)
        page = Outline(answer.text)
        assert "alert(" in page.text
        assert "<img src=x" not in answer.text
        assert "<script>alert" not in answer.text
        assert "49" not in re.findall(r"\{\{.*?\}\}|\b49\b", page.text)
        assert not [attributes for _, attributes in page.elements if "onerror" in attributes]


async def test_words_of_our_team_are_only_words(browser: httpx.AsyncClient) -> None:
    await receive(browser)
    [contact] = (await browser.get("/api/contacts", params={"address": CONTACT})).json()
    change = {"name": HOSTILE, "metadata": {"note": HOSTILE}}
    assert (await browser.patch(f"/api/contacts/{contact['id']}", json=change)).status_code == 200
    await browser.post("/inbox/c/1/state", data={"tags": "<b>tag", "assignee": "<i>Ann"})
    page = (await browser.get("/inbox/c/1")).text
    assert html.escape("<b>tag") in page
    assert not {"<b>tag", "<i>Ann", "<img src=x"} & {
        found for found in ("<b>tag", "<i>Ann", "<img src=x") if found in page
    }


async def test_a_search_shows_its_words_as_words(browser: httpx.AsyncClient) -> None:
    page = await browser.get("/inbox/search", params={"q": HOSTILE})
    assert "<img src=x" not in page.text
    assert page.status_code == 200


async def test_an_empty_inbox_says_how_to_begin(browser: httpx.AsyncClient) -> None:
    page = await outline_of(browser, "/inbox")
    assert "Your inbox is ready" in page.text
    assert "/api/webhooks/sms" in page.text


async def test_the_demo_is_played_and_removed_by_forms(browser: httpx.AsyncClient) -> None:
    async def action() -> str | None:
        page = await outline_of(browser, "/inbox")
        [form] = [form for form in page.all("form") if "/demo" in (form.get("action") or "")]
        assert form["method"] == "post"
        return form["action"]

    assert await action() == "/inbox/demo"
    played = await browser.post("/inbox/demo")
    assert (played.status_code, played.headers["location"]) == (303, "/inbox")
    assert await action() == "/inbox/demo/remove"
    assert (await browser.post("/inbox/demo")).status_code == 409
    assert (await browser.post("/inbox/demo/remove")).status_code == 303
    assert await action() == "/inbox/demo"


async def test_the_command_of_an_empty_inbox_works(browser: httpx.AsyncClient) -> None:
    page = await outline_of(browser, "/inbox")
    sent = re.search(r"-d '(\{.*?\})'", page.text)
    assert sent is not None
    assert (await browser.post("/api/webhooks/sms", json=json.loads(sent[1]))).status_code == 200
    assert "Hello!" in (await outline_of(browser, "/inbox")).text


# Replies


async def test_a_reply_is_answered_with_its_item(browser: httpx.AsyncClient) -> None:
    await receive(browser)
    answer = await browser.post("/inbox/c/1/messages", data={"body": "On <Monday>", "key": "k1"}, headers=FRAGMENT)
    assert answer.status_code == 200, answer.text
    [item] = Outline(answer.text).all("li")
    assert (item["data-direction"], item["data-message"]) == ("outbound", "2")
    message = (await browser.get("/api/messages/2")).json()
    assert (message["from"], message["to"], message["body"]) == (CUSTOMER, CONTACT, "On <Monday>")


async def test_a_repeated_reply_is_the_same_message_also_with_undo(browser: httpx.AsyncClient) -> None:
    await receive(browser)
    fields = {"body": "Once", "key": "k1", "undo": "5"}
    first, second = [await browser.post("/inbox/c/1/messages", data=fields, headers=FRAGMENT) for _ in range(2)]
    assert first.status_code == second.status_code == 200, second.text
    assert 'id="message-2"' in first.text
    assert 'id="message-2"' in second.text
    assert 'data-status="scheduled"' in first.text
    assert len((await browser.get("/api/messages")).json()) == 2


async def test_a_reply_can_be_taken_back(browser: httpx.AsyncClient) -> None:
    await receive(browser)
    await browser.post("/inbox/c/1/messages", data={"body": "Oh", "undo": "5"}, headers=FRAGMENT)
    answer = await browser.post("/inbox/messages/2/cancel", headers=FRAGMENT)
    assert 'data-status="canceled"' in answer.text
    late = await browser.post("/inbox/messages/2/cancel", headers=FRAGMENT)
    assert late.status_code == 409
    assert "only one that has not left" in late.text
    assert (await browser.post("/inbox/messages/2/retry", headers=FRAGMENT)).status_code == 409


async def test_a_mail_is_answered_in_its_thread(browser: httpx.AsyncClient) -> None:
    await receive(browser, "email", subject="Parcel 17")
    page = await outline_of(browser, "/inbox/c/1")
    [subject] = [field for field in page.all("input") if field.get("name") == "subject"]
    assert subject["value"] == "Re: Parcel 17"
    answer = await browser.post("/inbox/c/1/messages", data={"body": "<b>It</b> left"}, headers=FRAGMENT)
    assert answer.status_code == 200, answer.text
    message = (await browser.get("/api/messages/2")).json()
    assert (message["subject"], message["body"]) == ("Re: Parcel 17", "<b>It</b> left")


async def test_a_form_without_the_script_leads_back_to_the_thread(browser: httpx.AsyncClient) -> None:
    await receive(browser)
    sent = await browser.post("/inbox/c/1/messages", data={"body": "Hello"})
    assert (sent.status_code, sent.headers["location"]) == (303, "/inbox/c/1#message-2")
    changed = await browser.post("/inbox/c/1/state", data={"status": "closed"})
    assert (changed.status_code, changed.headers["location"]) == (303, "/inbox/c/1")


REFUSED: dict[str, tuple[dict[str, str], int, str]] = {
    "an empty text": ({"body": "  "}, 422, "body or an attachment"),
    "a text that is too long": ({"body": "x" * 100_001}, 422, "characters"),
    "another channel": ({"body": "x", "channel": "email"}, 422, "no message on that channel"),
    "a key that is none": ({"body": "x", "key": "with space"}, 422, "ASCII"),
    "a NUL": ({"body": "x\0"}, 422, "NUL"),
    "too many fields": ({f"field{number}": "x" for number in range(60)}, 422, "fields"),
}


@each_case("fields, status, words", REFUSED.values())
async def test_a_refused_reply_says_why_and_stores_nothing(
    browser: httpx.AsyncClient, fields: dict[str, str], status: int, words: str
) -> None:
    await receive(browser)
    answer = await browser.post("/inbox/c/1/messages", data=fields, headers=FRAGMENT)
    assert answer.status_code == status, answer.text
    assert words in html.unescape(answer.text)
    assert answer.text.lstrip().startswith("<ul")
    assert len((await browser.get("/api/messages")).json()) == 1


async def test_the_preview_is_that_of_the_api(browser: httpx.AsyncClient) -> None:
    await receive(browser)
    answer = await browser.post("/inbox/preview", data={"conversation": "1", "body": "ş" * 71})
    asked = {"channel": "sms", "from": CUSTOMER, "to": CONTACT, "type": "sms", "body": "ş" * 71}
    assert answer.json() == (await browser.post("/api/messages/preview", json=asked)).json()
    assert answer.json()["segments"]["count"] == 2


# State


async def test_views_hold_the_conversations_of_their_state(browser: httpx.AsyncClient) -> None:
    await receive(browser)

    async def views() -> set[str]:
        names = ("open", "mine", "unassigned", "snoozed", "closed", "all")
        pages = {name: (await browser.get(f"/inbox/list?view={name}", headers=FRAGMENT)).text for name in names}
        items = {name: (await browser.get(f"/inbox/c/1/item?view={name}")).status_code for name in names}
        shown = {name for name, page in pages.items() if 'id="row-1"' in page}
        assert shown == {name for name, status in items.items() if status == 200}
        return shown

    async def change(**fields: str) -> str:
        answer = await browser.post("/inbox/c/1/state", data=fields, headers=FRAGMENT)
        assert answer.status_code == 200, answer.text
        assert json.loads(answer.headers["hx-trigger"]) == {"inbox:changed": {"conversation": 1}}
        return answer.text

    assert await views() == {"open", "unassigned", "all"}
    assert "thread-head" in await change(assignee="me")
    assert await views() == {"open", "mine", "all"}
    assert "Open again" in await change(status="closed")
    assert await views() == {"closed", "all"}
    await change(status="snoozed", until="message")
    assert await views() == {"snoozed", "all"}
    await receive(browser, messaging_provider_id="another")
    assert await views() == {"open", "mine", "all"}


async def test_tags_and_unread_filter_the_list(browser: httpx.AsyncClient) -> None:
    await receive(browser)
    await browser.post("/inbox/c/1/state", data={"tags": " late delivery, VIP ,, VIP"})
    row = await outline_of(browser, "/inbox/list?tag=late+delivery", headers=FRAGMENT)
    assert "late delivery" in row.text
    assert "row-1" not in (await browser.get("/inbox/list?tag=late", headers=FRAGMENT)).text
    assert "row-1" in (await browser.get("/inbox/list?unread=1", headers=FRAGMENT)).text
    read = await browser.post("/inbox/c/1/read", data={"up_to": "1"})
    assert (read.status_code, read.content) == (204, b"")
    assert "row-1" not in (await browser.get("/inbox/list?unread=1", headers=FRAGMENT)).text


async def test_reading_a_page_marks_nothing_as_read(browser: httpx.AsyncClient) -> None:
    await receive(browser)
    await browser.get("/inbox/c/1")
    assert 'data-unread="1"' in (await browser.get("/inbox/c/1/item")).text


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "gone"},
        {"status": "snoozed", "until": "2001-01-01T00:00:00Z"},
        {"status": "snoozed", "until": "soon"},
        {"status": "snoozed", "until": "9999-12-31T23:59:59-23:00"},
        {"assignee": "x" * 101},
        {"tags": ",".join(f"tag{number}" for number in range(21))},
        {"tags": "x" * 51},
    ],
)
async def test_a_change_that_makes_no_sense_is_refused(browser: httpx.AsyncClient, fields: dict[str, str]) -> None:
    await receive(browser)
    answer = await browser.post("/inbox/c/1/state", data=fields, headers=FRAGMENT)
    assert answer.status_code == 422
    assert Outline(answer.text).all("li")


# What is not there


async def test_ids_of_another_tenant_are_not_there(
    browser: httpx.AsyncClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await receive(browser)
    other = make_tenant(database_url)
    monkeypatch.setattr(access, "_EVERYTHING", Access(other, frozenset(KeyScope)))
    for path in ("c/1", "c/1/item", "messages/1/item", "messages/1/timeline"):
        for headers in ({}, FRAGMENT):
            await outline_of(browser, f"/inbox/{path}", 404, headers=headers)
    for path in ("c/1/read", "c/1/state", "c/1/messages", "messages/1/cancel", "messages/1/retry"):
        answer = await browser.post(f"/inbox/{path}", data={"body": "x", "status": "closed"}, headers=FRAGMENT)
        assert answer.status_code == 404, (path, answer.text)
    assert "row-1" not in (await browser.get("/inbox/list?view=all", headers=FRAGMENT)).text


@pytest.mark.parametrize("path", ["c/2", "c/0", "c/x", "c/99999999999999999999", "messages/9/item", "nothing"])
async def test_what_is_not_there_is_404(browser: httpx.AsyncClient, path: str) -> None:
    assert (await browser.get(f"/inbox/{path}")).status_code == 404


async def test_a_cursor_that_is_none_is_a_sentence(browser: httpx.AsyncClient) -> None:
    page = await outline_of(browser, "/inbox?cursor=xyz", 422)
    assert "cursor" in page.text.lower()


async def test_a_key_that_may_only_read_gets_no_composer(
    browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await receive(browser)
    monkeypatch.setattr(access, "_EVERYTHING", Access(1, frozenset({KeyScope.READ})))
    page = await outline_of(browser, "/inbox/c/1")
    assert "composer" not in {attributes.get("id") for _, attributes in page.elements}
    assert (await browser.post("/inbox/c/1/messages", data={"body": "x"})).status_code == 403


# Languages


async def test_the_language_is_that_of_the_query_the_cookie_or_the_browser(browser: httpx.AsyncClient) -> None:
    async def lang(path: str = "/inbox", accepted: str = "fr, de-AT;q=0.8, en;q=0.5") -> str:
        page = await browser.get(path, headers={"Accept-Language": accepted})
        found = re.search('<html lang="([a-z]+)"', page.text)
        assert found is not None
        return found[1]

    assert await lang(accepted="") == "en"
    assert await lang(accepted="*, xx;q=0") == "en"
    assert await lang() == "de"
    assert await lang("/inbox?lang=en") == "en"
    assert await lang() == "en"  # by the cookie
    assert await lang("/inbox?lang=xx") == "en"


def test_every_language_has_every_word_and_every_place() -> None:
    english = languages()["en"].words
    for code, language in languages().items():
        assert set(language.words) == set(english), code
        for key, word in language.words.items():
            assert set(re.findall(r"\{(\w+)\}", word)) == set(re.findall(r"\{(\w+)\}", english[key])), (code, key)
            assert word.strip(), (code, key)


# Costs


async def test_the_first_view_is_small(browser: httpx.AsyncClient) -> None:
    for number in range(45):
        await receive(browser, messaging_provider_id=str(number), **{"from": f"+1804555{number:04}"})
    page = await browser.get("/inbox/c/1")
    paths = set(re.findall(r'(?:src|href)="(/inbox/static/[^"]+)"', page.text))
    scripts = {path for path in paths if path.endswith(".js")}
    while scripts:  # and what the scripts import
        path = scripts.pop()
        folder = path.rpartition("/")[0]
        content = (await browser.get(path)).text
        found = {f"{folder}/{name}" for name in re.findall(r"""['"]\./([\w-]+\.js)['"]""", content)} - paths
        scripts |= found
        paths |= found
    assert len(paths) > 8
    sizes = {path: await _size(browser, path) for path in ["/inbox/c/1", *paths]}
    assert sum(sizes.values()) < LARGEST_VIEW, sizes


async def _size(browser: httpx.AsyncClient, path: str) -> int:
    async with browser.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-encoding"] == "gzip"
        assert ("immutable" in answer.headers["cache-control"]) == ("/static/" in path)
        return len(b"".join([part async for part in answer.aiter_raw()]))


async def test_static_files_of_another_version_are_not_kept(browser: httpx.AsyncClient) -> None:
    fresh = await browser.get("/inbox/static/0000/inbox.css")
    assert (fresh.status_code, fresh.headers["cache-control"]) == (200, "no-cache")
    for path in ("0000/none.css", "0000/../templates/page.html", "0000/%2e%2e/__init__.py"):
        assert (await browser.get(f"/inbox/static/{path}")).status_code == 404


#: A page, and the statements that it may cost.
STATEMENTS = {
    "the list": ("/inbox?view=all", 1),
    "a thread": ("/inbox/c/1", 4),
    "a row": ("/inbox/c/1/item", 1),
    "a message": ("/inbox/messages/1/item", 1),
}


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The statements that are executed by the reads of a page."""
    statements: list[str] = []
    fetch = Connection.fetch

    async def noted(self: Connection, query: str, *arguments: Any, **options: Any) -> Any:
        statements.append(query)
        return await fetch(self, query, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "fetch", noted)
        yield statements


@each_case("path, most", STATEMENTS.values())
async def test_a_page_costs_few_statements(
    browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, path: str, most: int
) -> None:
    for number in range(5):
        await receive(browser, messaging_provider_id=str(number), **{"from": f"+1804555{number:04}"})
    with counted(monkeypatch) as statements:
        assert (await browser.get(path)).status_code == 200
    assert 0 < len(statements) <= most, statements


# Search


async def found_by(browser: httpx.AsyncClient, q: str) -> Outline:
    """The hits of a search, once the index has the words that were just accepted."""

    async def find() -> Outline:
        return await outline_of(browser, f"/inbox/search?q={quote(q)}", headers=FRAGMENT)

    return await until(find, lambda page: bool(page.all("a")))


async def test_a_search_shows_messages_with_their_person_and_marks_the_words(client: httpx.AsyncClient) -> None:
    await receive(client, body="The turquoise <kettle> whistles.")
    page = await found_by(client, "turquoise")
    [link] = page.all("a")
    assert link["href"] == "/inbox/c/1?message=1#message-1"
    assert len(page.all("mark")) == 1
    assert "The turquoise <kettle> whistles." in page.text
    assert spoken(CONTACT) in page.text


async def test_a_search_finds_people(client: httpx.AsyncClient) -> None:
    await receive(client)
    page = await found_by(client, CONTACT[-7:])
    [link] = page.all("a")
    assert link["href"] == "/inbox/c/1"
    assert spoken(CONTACT) in page.text


# Threads


async def test_a_long_thread_is_shown_page_by_page(browser: httpx.AsyncClient) -> None:
    for number in range(45):
        await receive(browser, messaging_provider_id=str(number), body=f"number {number}.")
    page = await browser.get("/inbox/c/1")
    assert "number 44." in page.text
    assert "number 4." not in page.text
    older = re.search(r'hx-get="(/inbox/c/1\?cursor=[^"]+)"', page.text)
    assert older is not None
    part = await browser.get(html.unescape(older[1]), headers=FRAGMENT)
    assert [f"number {number}." in part.text for number in (0, 4, 5)] == [True, True, False]
    assert "hx-get" not in part.text
    whole = await browser.get(html.unescape(older[1]))
    assert "number 4." in whole.text
    assert "<html" in whole.text


async def test_a_thread_opens_at_a_message(browser: httpx.AsyncClient) -> None:
    for number in range(60):
        await receive(browser, messaging_provider_id=str(number), body=f"number {number}.")
    page = await browser.get("/inbox/c/1?message=3")
    ids = [int(id) for id in re.findall('data-message="([0-9]+)"', page.text)]
    assert ids == list(range(3, 43))
    assert "Show the newest messages" in page.text


async def test_days_stand_between_messages(browser: httpx.AsyncClient) -> None:
    for day in (2, 1, 1):
        await receive(browser, messaging_provider_id=f"{day}{id(object())}", timestamp=f"2024-11-0{day}T14:00:00Z")
    page = await outline_of(browser, "/inbox/c/1")
    assert [each["datetime"] for each in page.all("time") if each["data-format"] == "day"] == [
        "2024-11-01T14:00:00.000Z",
        "2024-11-02T14:00:00.000Z",
    ]


async def test_a_status_that_needs_a_person_says_why(browser: httpx.AsyncClient) -> None:
    await receive(browser, body="STOP")
    assert (await browser.post("/api/messages/sms", json=sms())).status_code == 200
    page = await outline_of(browser, "/inbox/c/1")
    assert "Refuses all messages" in page.text
    assert "has refused messages" in page.text
