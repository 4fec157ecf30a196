"""Leaving a mailing: the headers of a mail, the page behind its link, and mails that unsubscribe."""

import asyncio
import email
import email.policy
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from email.message import EmailMessage
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import FastAPI

from app.addresses import email_address
from app.config import Settings
from app.details import Automatic, MessageDetails
from app.domain import Direction, NewMessage, Purpose
from app.providers.mail.outbound import Composer, MailSettings
from app.providers.registry import provider_registry
from app.providers.smtp import SmtpProvider
from tests.cases import each_case
from tests.conftest import client_of, execute, make_settings, started
from tests.factories import CONTACT_EMAIL, CUSTOMER_EMAIL, email_webhook, until
from tests.logs import captured
from tests.providers.mail.test_inbound import sendgrid_raw
from tests.providers.test_smtp import Mailbox, Server
from tests.providers.test_smtp import settings as smtp_settings
from tests.tenancy import make_tenant
from tests.wire import problem_of, rows_of

pytestmark = pytest.mark.anyio

PUBLIC_URL = "https://messages.example/service"
FORM = "application/x-www-form-urlencoded"
#: A POST as Gmail makes it, and as RFC 8058 also allows it.
ONE_CLICK: dict[str, dict[str, Any]] = {
    "urlencoded": {"content": b"List-Unsubscribe=One-Click", "headers": {"content-type": FORM}},
    "multipart": {"files": {"List-Unsubscribe": (None, "One-Click")}},
    "without a body": {},
}


class Mailing:
    """The service with an SMTP server that takes its mails."""

    def __init__(self, app: FastAPI, client: httpx.AsyncClient, mailbox: Mailbox, database_url: str) -> None:
        self.client = client
        self.mailbox = mailbox
        self._services = app.state.services
        self._database_url = database_url
        self._count = 0

    async def sends(self, topic: str | None = "newsletter", **changes: Any) -> str:
        """The status of a mail to the contact, once it is final."""
        ends = {"sender": email_address(CUSTOMER_EMAIL), "recipient": email_address(CONTACT_EMAIL)}
        facts = {"body": "Hello!", "subject": "Weekly", "topic": topic, **ends, **changes}
        message = NewMessage(Direction.OUTBOUND, "email", "email", **facts)
        return await self.outcome_of((await self._services.messages.accept(message)).id)

    async def outcome_of(self, message_id: int) -> str:
        async def status() -> str:
            [(found,)] = rows_of(self._database_url, f"SELECT status FROM messages WHERE id = {message_id}")
            return str(found)

        return await until(status, lambda found: found not in {"queued", "sending"})

    async def gets(self, body: str = "", subject: str | None = None, **changes: Any) -> None:
        """A mail from the contact comes in."""
        self._count += 1
        ends = {"sender": email_address(CONTACT_EMAIL), "recipient": email_address(CUSTOMER_EMAIL)}
        identity = {"provider_type": "smtp", "provider_message_id": f"inbound-{self._count}"}
        facts = {"body": body, "subject": subject, **ends, **identity, **changes}
        await self._services.messages.accept(NewMessage(Direction.INBOUND, "email", "email", **facts))

    async def gets_raw(self, raw: bytes) -> None:
        """A mail comes in as its sender's program wrote it, by a vendor."""
        await self._services.callback_items.accept("sendgrid", *sendgrid_raw(raw, CUSTOMER_EMAIL))

    def mail(self) -> EmailMessage:
        """The latest mail, as a foreign library reads it."""
        content = self.mailbox.envelopes[-1].original_content
        assert content is not None
        parsed = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed

    def links(self) -> tuple[str, str]:
        """The path of the page, and the subject of the mail, that the latest mail offers."""
        page, mail = re.findall("<([^>]+)>", self.mail()["list-unsubscribe"])
        assert page.startswith(f"{PUBLIC_URL}/u/")
        assert urlsplit(mail).path == CUSTOMER_EMAIL
        [subject] = parse_qs(urlsplit(mail).query)["subject"]
        return page.removeprefix(PUBLIC_URL), subject

    def refusals(self) -> list[tuple[str, ...]]:
        question = "SELECT address, scope, scope_value, source FROM suppressions ORDER BY id"
        return rows_of(self._database_url, question)

    def entries(self) -> list[tuple[Any, ...]]:
        return rows_of(self._database_url, "SELECT message_id, detail FROM consent_entries ORDER BY id")


@pytest.fixture
async def mailing(settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mailing]:
    mailbox = Mailbox()
    changes = {"public_url": PUBLIC_URL, "routes": {"email": ["smtp"]}, "worker_poll_seconds": 0.05}
    async with AsyncExitStack() as stack:
        listener = await asyncio.get_running_loop().create_server(
            lambda: Server(mailbox, hostname="mx.test"), "127.0.0.1", 0
        )
        await stack.enter_async_context(listener)
        smtp = SmtpProvider(
            smtp_settings(listener.sockets[0].getsockname()[1]), Composer(MailSettings(_env_file=None))
        )
        monkeypatch.setitem(provider_registry, "smtp", smtp)
        stack.push_async_callback(smtp.close)
        quiet = {"access_log": True, "log_format": "json"}
        app = await started(stack, settings.model_copy(update=changes | quiet))
        client = await stack.enter_async_context(client_of(app))
        yield Mailing(app, client, mailbox, database_url)
    await mailbox.gone.wait()


@pytest.mark.parametrize("request_", ONE_CLICK.values(), ids=ONE_CLICK)
async def test_one_click_unsubscribes_from_the_topic_of_a_mail_and_from_nothing_else(
    mailing: Mailing, request_: dict[str, Any]
) -> None:
    assert await mailing.sends() == "sent"
    assert mailing.mail()["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    page, _ = mailing.links()
    answer = await mailing.client.post(page, **request_)
    assert (answer.status_code, answer.history) == (200, [])
    assert "set-cookie" not in answer.headers
    assert "newsletter" in answer.text
    assert mailing.refusals() == [(CONTACT_EMAIL, "topic", "newsletter", "unsubscribe_link")]
    again = await mailing.client.post(page, **request_)
    assert (again.status_code, again.text) == (200, answer.text)
    assert mailing.entries() == [(1, "one-click" if request_ else "page")]
    assert await mailing.sends() == "suppressed"
    assert await mailing.sends("offers") == "sent"
    assert await mailing.sends(None) == "sent"
    assert await mailing.sends(purpose=Purpose.SERVICE) == "sent"


async def test_only_a_mail_with_a_topic_has_the_headers(mailing: Mailing) -> None:
    await mailing.sends(None)
    assert not [name for name in mailing.mail() if name.lower().startswith("list-")]


async def test_the_page_has_buttons_and_looking_at_it_changes_nothing(mailing: Mailing) -> None:
    await mailing.sends("deals & <b>offers</b>")
    page, _ = mailing.links()
    shown = await mailing.client.get(page)
    assert shown.status_code == 200
    assert "deals &amp; &lt;b&gt;offers&lt;/b&gt;" in shown.text
    assert shown.text.count("<button") == 2
    assert not re.search("<script|<img|<link|href=|src=|@", shown.text)
    assert (await mailing.client.head(page)).status_code == 200
    assert mailing.refusals() == []
    headers = shown.headers
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert (headers["cache-control"], headers["x-robots-tag"]) == ("no-store", "noindex, nofollow")
    assert headers["referrer-policy"] == "no-referrer"
    policy = headers.get_list("content-security-policy")
    assert len(policy) == 1
    assert "default-src 'none'" in policy[0]
    assert "form-action 'self'" in policy[0]
    assert "unsafe" not in policy[0]


async def test_the_second_button_stops_all_mail(mailing: Mailing) -> None:
    await mailing.sends()
    page, _ = mailing.links()
    answer = await mailing.client.post(page, data={"all": "1"})
    assert answer.status_code == 200
    assert mailing.refusals() == [(CONTACT_EMAIL, "everything", "", "unsubscribe_link")]
    assert await mailing.sends(purpose=Purpose.SERVICE) == "suppressed"


async def test_a_link_works_after_its_message_was_removed(mailing: Mailing, database_url: str) -> None:
    await mailing.sends()
    page, _ = mailing.links()
    execute(
        database_url,
        "DELETE FROM delivery_attempts",
        "DELETE FROM messages",
    )
    assert (await mailing.client.post(page)).status_code == 200
    assert len(mailing.refusals()) == 1


@each_case("token", ["nonsense", "a" * 110, "a" * 3000, "%00", "é"])
@each_case("method", ["GET", "POST", "HEAD"])
async def test_a_link_of_somebody_else_s_making_gets_404_and_a_page(
    untouched: httpx.AsyncClient, token: str, method: str
) -> None:
    answer = await untouched.request(method, f"/u/{token}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "incomplete" in answer.text or method == "HEAD"


async def test_other_methods_and_paths_are_problems(untouched: httpx.AsyncClient) -> None:
    answer = await untouched.put("/u/token")
    assert problem_of(answer, 405)
    assert answer.headers["allow"] == "GET, POST, HEAD"
    problem_of(await untouched.get("/u"), 404)
    problem_of(await untouched.post("/u/token", content=b"x" * 1_000_001), 413)


async def test_the_log_never_holds_a_token(mailing: Mailing) -> None:
    await mailing.sends()
    page, subject = mailing.links()
    written = captured()
    await mailing.client.get(page)
    await mailing.client.post(page)
    await mailing.gets(subject=subject)
    lines = [json.loads(line) for line in written.getvalue().splitlines() if '"request"' in line]
    assert [line["path"] for line in lines] == ["/u/***", "/u/***"]
    assert page.removeprefix("/u/") not in written.getvalue()


async def test_a_mail_with_the_token_as_its_subject_unsubscribes_whoever_sent_it(mailing: Mailing) -> None:
    await mailing.sends()
    _, subject = mailing.links()
    await mailing.gets(
        "This message was automatically generated.", subject, sender=email_address("other@example.com")
    )
    assert mailing.refusals() == [(CONTACT_EMAIL, "topic", "newsletter", "mail")]
    assert mailing.entries() == [(2, "link by mail")]
    assert await mailing.sends() == "suppressed"
    assert await mailing.sends("offers") == "sent"


async def test_a_mail_program_follows_the_link_by_mail(mailing: Mailing) -> None:
    await mailing.sends()
    _, subject = mailing.links()
    written = EmailMessage(email.policy.SMTP)
    written["From"], written["To"], written["Subject"] = "Jane Roe <jane@example.org>", CUSTOMER_EMAIL, subject
    written.set_content("")
    await mailing.gets_raw(written.as_bytes())
    assert mailing.refusals() == [(CONTACT_EMAIL, "topic", "newsletter", "mail")]


async def test_a_long_subject_may_come_folded_and_in_capitals_at_its_beginning(mailing: Mailing) -> None:
    await mailing.sends()
    _, subject = mailing.links()
    await mailing.gets(subject=f" Unsubscribe  {subject[12:60]} {subject[60:]}\n")
    assert len(mailing.refusals()) == 1


async def test_the_token_of_a_tenant_counts_for_it_wherever_the_mail_comes_in(
    mailing: Mailing, database_url: str
) -> None:
    other = make_tenant(database_url, "Osprey")
    await mailing.sends(tenant_id=other)
    _, subject = mailing.links()
    await mailing.gets(subject=subject)
    assert rows_of(database_url, "SELECT tenant_id, message_id FROM consent_entries") == [(other, 1)]


@each_case(
    ("subject", "body"),
    [
        (None, "unsubscribe"),
        ("", "STOP"),
        ("stop", ""),
        ("Unsubscribe", "unsubscribe"),
        ("unsubscribe", "Please unsubscribe me"),
        ("Re: Weekly", "Stop."),
        ("AW: Weekly", "bitte abmelden"),
        ("Re: Weekly", "STOP\n\nSent from my iPhone"),
        ("Re: Weekly", "stop\n-- \nJane Roe\nAcme Ltd."),
        ("Re: Weekly", "<div>unsubscribe</div><blockquote>On Monday you wrote: Hello!</blockquote>"),
    ],
)
async def test_a_mail_that_says_nothing_but_stop_stops_all_mail(
    mailing: Mailing, database_url: str, subject: str | None, body: str
) -> None:
    execute(database_url, "TRUNCATE suppressions, consent_entries")
    await mailing.gets(body, subject)
    assert mailing.refusals() == [(CONTACT_EMAIL, "everything", "", "mail")]


@each_case(
    ("subject", "body", "details"),
    [
        ("Cancel", "my order number 17, please", MessageDetails()),
        ("Stop", "We should stop by at five.", MessageDetails()),
        ("Your invoice", "cancel", MessageDetails()),
        ("Re: Weekly", "Please do not stop, I like it.", MessageDetails()),
        ("Re: unsubscribe", "How does this work?", MessageDetails()),
        ("Re: unsubscribe", "", MessageDetails()),
        ("unsubscribe", "", MessageDetails(automatic=Automatic.REPLY)),
        ("Re: Weekly", "STOP", MessageDetails(automatic=Automatic.BOUNCE)),
        ("unsubscribe me from " + "a" * 100, "", MessageDetails()),
        ("", "", MessageDetails()),
        ("Re: Weekly", "yes", MessageDetails()),
        ("Re: Weekly", "<p>stop</p>" + "<br>" * 10_000, MessageDetails()),
    ],
)
async def test_another_mail_changes_nothing(
    mailing: Mailing, subject: str, body: str, details: MessageDetails
) -> None:
    await mailing.gets(body, subject, details=details)
    assert mailing.refusals() == []


async def test_a_mail_that_comes_twice_counts_once_and_gets_no_answer(mailing: Mailing, database_url: str) -> None:
    callback = email_webhook(subject="unsubscribe", body="<p>Stop</p>")
    answers = await asyncio.gather(*(mailing.client.post("/api/webhooks/email", json=callback) for _ in range(9)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(mailing.entries()) == 1
    assert rows_of(database_url, "SELECT count(*) FROM messages") == [(1,)]


async def test_only_the_subject_of_a_mail_that_came_in_holds_a_token(mailing: Mailing) -> None:
    await mailing.sends()
    _, subject = mailing.links()
    assert await mailing.sends(subject=subject, body="stop") == "sent"
    await mailing.gets(subject, "Re: Weekly")
    assert mailing.refusals() == []


@each_case(
    ("public_url", "env", "expected"),
    [
        ("https://messages.example", "development", "https://messages.example/u/"),
        ("HTTPS://messages.example:8443/sms/", "development", "https://messages.example:8443/sms/u/"),
        ("http://127.0.0.1:8080", "development", "http://127.0.0.1:8080/u/"),
        ("http://localhost:8080/", "development", "http://localhost:8080/u/"),
        ("http://messages.example", "development", None),
        ("https://us:secret@messages.example", "development", None),
        ("https://messages.example", "production", "https://messages.example/u/"),
        ("http://localhost:8080", "production", None),
        ("messages.example", "development", None),
        (None, "development", None),
    ],
)
def test_links_need_a_public_address_with_https(public_url: str | None, env: str, expected: str | None) -> None:
    settings = make_settings(public_url=public_url).model_copy(update={"env": env})
    assert settings.unsubscribe_url == expected
