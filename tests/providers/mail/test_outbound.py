"""Outbound mail: nothing leaves its header line, both parts have the same text, threads hold."""

import asyncio
import email
import email.policy
import re
from collections.abc import Sequence
from dataclasses import replace
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.providers.base import OutboundMessage, PermanentFailure, TemporaryFailure
from app.providers.mail.outbound import Composer, Mail, MailSettings, message_id_of
from app.providers.toolbox.remote_files import RemoteFiles
from tests.cases import each_case
from tests.providers import outbound
from tests.providers.mails import FileStore

pytestmark = pytest.mark.anyio

_HEADERS = {"From", "To", "Date", "Message-ID", "In-Reply-To", "References"}


def message(to: str = "jane@example.com", **values: Any) -> OutboundMessage:
    return outbound(to, **{"from_address": "shop@example.com", "subject": "Greetings", **values})


async def mail_of(message: OutboundMessage) -> Mail:
    return await Composer(MailSettings(_env_file=None)).mail(message)


def read_back(mail: Mail) -> EmailMessage:
    parsed = email.message_from_bytes(mail.as_bytes(), policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    assert not parsed.defects
    return parsed


def part(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    assert body is not None
    text: str = body.get_content()
    return text


async def test_a_text_is_one_part_and_html_is_two() -> None:
    text, html = await mail_of(message(body="1 < 2 and 3 > 2")), await mail_of(message(body="<p>Hello</p>"))
    assert (text.text, text.html) == ("1 < 2 and 3 > 2", None)
    assert read_back(text).get_content_type() == "text/plain"
    assert (html.text, html.html) == ("Hello", "<p>Hello</p>")
    assert read_back(html).get_content_type() == "multipart/alternative"


@each_case(
    ("body", "html", "text", "sent"),
    [
        ("Size <b> is out of stock", None, "Size <b> is out of stock", None),
        ("see <div> in your template", None, "see <div> in your template", None),
        ("use <em>, <i> or <br>", None, "use <em>, <i> or <br>", None),
        ("<section><h1>Sale</h1>now</section>", None, "Sale\n\nnow", "<section><h1>Sale</h1>now</section>"),
        ("<p>is a tag", "", "<p>is a tag", None),
        ("<html>", "", "<html>", None),
        ("Hello", "Hello <b>you</b>", "Hello", "Hello <b>you</b>"),
        ("<b>", "<p>&lt;b></p>", "<b>", "<p>&lt;b></p>"),
    ],
)
async def test_a_body_is_html_by_its_beginning_unless_both_forms_are_given(
    body: str, html: str | None, text: str, sent: str | None
) -> None:
    mail = await mail_of(message(body=body, html=html))
    assert (mail.text, mail.html) == (text, sent)
    read = read_back(mail)
    assert part(read, "plain").splitlines() == text.splitlines()
    assert read.get_content_type() == ("multipart/alternative" if sent else "text/plain")


@pytest.mark.parametrize("broken", ["\r\n", "\n", "\r", "\x00", "\x85", "\u2028", "\u2029", "\x0b", "\x0c"])
async def test_no_subject_begins_another_header(broken: str) -> None:
    mail = await mail_of(message(subject=f"Hello{broken}Bcc: evil@example.com"))
    assert mail.subject == "Hello Bcc: evil@example.com"
    parsed = read_back(mail)
    assert parsed["subject"] == "Hello Bcc: evil@example.com"
    assert parsed["bcc"] is None


@each_case(
    "address",
    [
        "jane@example.com\r\nBcc: evil@example.com",
        "jane@example.com\x00",
        "jane@example.com, evil@example.com",
        "jane@example.com> SIZE=1",
        "Jane <jane@example.com>",
        "jane@exa mple.com",
        "+18045551234",
        "",
        "@example.com",
    ],
)
async def test_what_is_no_address_is_refused_for_good(address: str) -> None:
    with pytest.raises(PermanentFailure, match="recipient"):
        await mail_of(message(address))
    with pytest.raises(PermanentFailure, match="sender"):
        await mail_of(message(from_address=address))


_lines = st.text(st.characters(exclude_categories=["Cs"]), max_size=1200)


@given(subject=_lines, body=_lines, thread=st.lists(_lines, max_size=3))
async def test_whatever_is_written_stays_where_it_belongs(subject: str, body: str, thread: list[str]) -> None:
    mail = await mail_of(message(subject=subject, body=body, thread=["<a@b.example>", *thread]))
    content = mail.as_bytes()
    head = content.partition(b"\r\n\r\n")[0]
    names = re.findall(rb"^([A-Za-z-]+):", head, re.MULTILINE)
    ours = sorted(name.decode() for name in names if not name.startswith((b"Content", b"MIME")))
    assert ours == sorted(_HEADERS | {"Subject"} if mail.subject else _HEADERS)
    assert all(len(line) <= 998 for line in content.split(b"\r\n"))
    assert content.isascii()
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert b"\r" not in content.replace(b"\r\n", b"")
    parsed = read_back(mail)
    assert (parsed["subject"] or "").split() == mail.subject.split()


async def test_a_thread_names_the_last_ten_and_answers_the_last() -> None:
    thread = [f"<{number}-{'x' * 80}@example.com>" for number in range(12)]
    parsed = read_back(await mail_of(message(thread=[*thread[:6], "not an id", "<a\r\nBcc: x@y.z>", *thread[6:]])))
    assert parsed["references"].split() == thread[2:]
    assert parsed["in-reply-to"] == thread[-1]
    first = read_back(await mail_of(message()))
    assert (first["in-reply-to"], first["references"]) == (None, None)


def test_our_message_ids_contain_their_key() -> None:
    assert message_id_of("1-17-1700000000000000", "shop@bücher.example") == (
        "<1-17-1700000000000000@xn--bcher-kva.example>"
    )
    assert message_id_of("a b>\r\n", "shop@example.com") == "<a%20b%3E%0D%0A@example.com>"
    assert message_id_of("1", "nonsense") == "<1@nonsense>"


async def test_domains_are_in_ascii_by_the_newer_rules() -> None:
    mail = await mail_of(message("jörg@straße.example", from_address="info@bücher.example"))
    assert (mail.recipient, mail.sender) == ("jörg@xn--strae-oqa.example", "info@xn--bcher-kva.example")
    assert mail.needs_smtputf8
    assert not (await mail_of(message("jane@straße.example"))).needs_smtputf8


async def test_attachments_are_links_below_both_parts() -> None:
    urls = ["https://example.com/a.pdf?x=1&y=2", 'https://example.com/"><script>']
    mail = await mail_of(message(body="<html><body><p>Hi</p></body></html>", attachments=urls))
    assert mail.text == "Hi\n\n" + "\n".join(urls)
    assert mail.html is not None
    assert 'href="https://example.com/a.pdf?x=1&amp;y=2"' in mail.html
    assert "<script>" not in mail.html
    assert mail.html.endswith("</p></body></html>")
    assert (await mail_of(message(body="Hi", attachments=urls[:1]))).text == f"Hi\n\n{urls[0]}"


async def test_fetched_attachments_are_sent_along() -> None:
    composer = Composer(MailSettings(_env_file=None, fetch_attachments=True), FileStore())
    mail = await composer.mail(message(body="<p>Hi</p>", attachments=["https://example.com/a.pdf"]))
    assert mail.text == "Hi"
    content = await mail.encoded()
    assert content.isascii()
    parsed = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    first, second = parsed.iter_attachments()
    assert (first.get_filename(), first.get_content_type()) == ("Prüfung.pdf", "application/pdf")
    assert first.get_content() == b"%PDF\r\n\x00\xff"
    assert second.get_content_type() == "text/plain"
    assert part(parsed, "html").strip() == "<p>Hi</p>"


async def test_fetching_leaves_the_vendor_half_of_the_time_that_there_is() -> None:
    async def silent(_: str) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    files = RemoteFiles(timeout_seconds=60, most_bytes=1000, resolve=silent)
    composer = Composer(MailSettings(_env_file=None, fetch_attachments=True), files)
    began = asyncio.get_running_loop().time()
    mail = message(attachments=["https://example.com/a.pdf"], give_up_at=began + 0.6)
    with pytest.raises(TemporaryFailure, match="Attachment 1 did not come within 0"):
        await composer.mail(mail)
    assert asyncio.get_running_loop().time() - began < 0.6
    with pytest.raises(TemporaryFailure, match="did not come within 0 seconds"):
        await composer.mail(replace(mail, give_up_at=began))


async def test_a_mail_without_words_says_so() -> None:
    composer = Composer(MailSettings(_env_file=None, fetch_attachments=True), FileStore())
    urls = ["https://example.com/a.pdf"]
    picture = '<p><img src="https://example.com/a.png"></p>'
    for body, html in (("", None), (" \n", None), (picture, picture)):
        mail = await composer.mail(message(body=body, attachments=urls))
        assert (mail.text, mail.html, len(mail.files)) == ("(no text)", html, 2)
    assert (await mail_of(message(body="", attachments=urls))).text.strip() == urls[0]
