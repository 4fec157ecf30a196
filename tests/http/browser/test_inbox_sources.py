"""Events, files and mails by the cookie of a session: the same as by the API, for the own tenant alone."""

import hashlib
from collections.abc import Awaitable, Callable

import httpx
import pytest

from app.config import Settings
from app.installation import KeyScope
from app.main import create_app
from app.providers.registry import provider_registry
from tests.conftest import client_of
from tests.factories import email, email_webhook, sms
from tests.providers import test_sendgrid
from tests.providers.mail import test_inbound
from tests.streams import opened
from tests.tenancy import bearer, in_browser, insert, make_key, make_session, make_tenant, production
from tests.wire import problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
MAIL = "<p onclick=alert(1)>Hi <a href='https://shop.example'>shop</a><img src='https://shop.example/a.png'></p>"


def cookie_for(url: str, tenant_id: int = 1) -> dict[str, str]:
    return in_browser(make_session(url, make_key(url, tenant_id)))


def file_of(url: str, tenant_id: int, kind: str) -> str:
    """A stored file: its address among those of the inbox."""
    id = hashlib.sha256(kind.encode()).hexdigest()
    insert(
        url,
        "INSERT INTO files (tenant_id, id, provider_type, provider_message_id, name, content_type, size, content)"
        " VALUES (%s, %s, 'email', 'in-1', 'Zoë.png', %s, 5, 'bytes') RETURNING id",
        (tenant_id, id, kind),
    )
    return f"/inbox/files/{id}/any"


@pytest.fixture
async def guarded(serve: Serve, settings: Settings) -> httpx.AsyncClient:
    return await serve(production(settings))


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("image/png", "inline"),
        ("image/jpeg", "inline"),
        ("image/gif", "inline"),
        ("image/webp", "inline"),
        ("image/svg+xml", "attachment"),
        ("text/html", "attachment"),
        ("application/pdf", "attachment"),
        ("application/xhtml+xml", "attachment"),
    ],
)
async def test_pictures_are_shown_and_other_files_are_downloads(
    guarded: httpx.AsyncClient, database_url: str, kind: str, shown: str
) -> None:
    path = file_of(database_url, 1, kind)
    answer = await guarded.get(path, headers=cookie_for(database_url))
    assert (answer.status_code, answer.content) == (200, b"bytes")
    assert answer.headers["content-disposition"] == f"{shown}; filename*=UTF-8''Zo%C3%AB.png"
    is_known = shown == "inline" or kind == "application/pdf"
    assert answer.headers["content-type"] == (kind if is_known else "application/octet-stream")
    assert answer.headers.get_list("content-security-policy")[0].endswith("; sandbox")
    by_key = await guarded.get(path.replace("/inbox/", "/api/"), headers=bearer(make_key(database_url)))
    assert by_key.headers["content-disposition"].startswith("attachment")
    acme = make_tenant(database_url)
    problem_of(await guarded.get(path, headers=cookie_for(database_url, acme)), 404)


async def test_events_come_by_the_cookie_with_the_cursors_of_the_api(settings: Settings, database_url: str) -> None:
    app = create_app(production(settings))
    cookie, key = cookie_for(database_url), bearer(make_key(database_url))
    async with app.router.lifespan_context(app), client_of(app) as client:
        async with opened(app, "/inbox/events?after=now&types=message.accepted", headers=cookie) as stream:
            await stream.block()
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert stream.headers["cache-control"] == "no-store"
            sent = await client.post("/api/messages/sms", json=sms(), headers=key)
            event = await stream.event()
        assert str(event["data"]["data"]["message_id"]) == sent.json()["message_id"]
        second = await client.post("/api/messages/sms", json=sms(), headers=key)
        for more, first in (({"Last-Event-ID": event["id"]}, second), ({}, sent)):
            async with opened(app, "/inbox/events?types=message.accepted", headers=cookie | more) as stream:
                read = await stream.event()
            assert str(read["data"]["data"]["message_id"]) == first.json()["message_id"]
        problem_of(await client.get("/inbox/events?after=x", headers=cookie), 422)


async def test_the_html_of_a_mail_is_cleaned_and_loads_pictures_only_where_they_are_asked_for(
    guarded: httpx.AsyncClient, database_url: str
) -> None:
    key, cookie = bearer(make_key(database_url)), cookie_for(database_url)
    sent = [
        await guarded.post("/api/messages/email", json=email(body=MAIL, attachments=None), headers=key),
        await guarded.post("/api/messages/email", json=email(body="Hi", html=MAIL, attachments=None), headers=key),
    ]
    for answer in sent:
        assert answer.status_code == 200, answer.text
        path = f"/inbox/messages/{answer.json()['message_id']}/html"
        page = await guarded.get(path, headers=cookie)
        assert page.status_code == 200
        assert "onclick" not in page.text
        assert 'href="https://shop.example"' in page.text
        assert "a.png" not in page.text
        [policy] = page.headers.get_list("content-security-policy")
        assert policy == (
            "default-src 'none'; style-src 'unsafe-inline'; img-src 'none'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'self'; sandbox allow-popups allow-popups-to-escape-sandbox"
        )
        assert page.headers.get_list("referrer-policy") == ["no-referrer"]
        with_images = await guarded.get(f"{path}?images=1", headers=cookie)
        assert 'src="https://shop.example/a.png"' in with_images.text
        assert with_images.headers.get_list("content-security-policy") == [
            policy.replace("img-src 'none'", "img-src https:")
        ]
        acme = make_tenant(database_url, f"Acme {path}")
        problem_of(await guarded.get(path, headers=cookie_for(database_url, acme)), 404)
        assert "a.png" not in (await guarded.get(f"{path}?images=all", headers=cookie)).text


async def test_only_the_operator_is_led_to_the_status_page(guarded: httpx.AsyncClient, database_url: str) -> None:
    keys = {
        make_key(database_url, scopes=(KeyScope.READ, KeyScope.ADMIN)): True,
        make_key(database_url, scopes=(KeyScope.READ, KeyScope.SEND)): False,
        make_key(database_url, make_tenant(database_url, "Acme"), scopes=(KeyScope.READ, KeyScope.ADMIN)): False,
    }
    for key, is_led in keys.items():
        page = await guarded.get("/inbox", headers=in_browser(make_session(database_url, key)))
        assert page.status_code == 200
        assert ('href="/status"' in page.text) == is_led


async def test_a_mail_that_came_in_shows_the_html_of_its_body(client: httpx.AsyncClient, database_url: str) -> None:
    await client.post("/api/webhooks/email", json=email_webhook(body=f"<html><body>{MAIL}</body></html>"))
    [(id,)] = rows_of(database_url, "SELECT id FROM messages")
    page = await client.get(f"/inbox/messages/{id}/html")
    assert 'href="https://shop.example"' in page.text


async def test_a_mail_that_a_vendor_took_in_shows_its_html_beside_the_text(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(provider_registry, "sendgrid", test_sendgrid.provider())
    form = b"<p>Ring <a href='https://shop.example'>us</a><script>x()</script></p>"
    posted = test_inbound.posted(test_inbound.fields_of("sendgrid", text=b"Ring us", html=form))
    url = f"/api/webhooks/sendgrid?token={test_sendgrid.TOKEN}"
    assert (await client.post(url, content=posted.body, headers=dict(posted.headers))).status_code == 200

    for path in ("/api/messages", "/api/conversations/1/messages"):
        for shown in (await client.get(path)).json():
            assert (shown["body"], shown["has_html"], "html" in shown) == ("Ring us", True, False)
    events = (await client.get("/api/events?types=message.received")).json()["events"]
    assert [(each["data"]["message"]["has_html"], "html" in each["data"]["message"]) for each in events] == (
        [(True, False)] * len(events)
    )
    one = (await client.get(f"/api/messages/{shown['id']}")).json()
    assert (one["html"], one["has_html"]) == (form.decode(), True)
    page = await client.get(f"/inbox/messages/{shown['id']}/html")
    assert 'href="https://shop.example"' in page.text
    assert "x()" not in page.text
    assert f"/inbox/messages/{shown['id']}/html" in (await client.get("/inbox/c/1")).text


async def test_what_has_no_html_is_404(client: httpx.AsyncClient) -> None:
    text = (await client.post("/api/messages/sms", json=sms(body="<p>no mail</p>"))).json()["message_id"]
    plain = (await client.post("/api/messages/email", json=email(body="Hi <b>"))).json()["message_id"]
    for id in (text, plain):
        problem = problem_of(await client.get(f"/inbox/messages/{id}/html"), 404)
        assert problem["detail"] == "This message has no HTML."
    assert problem_of(await client.get("/inbox/messages/999/html"), 404)["title"] == "Message not found"
