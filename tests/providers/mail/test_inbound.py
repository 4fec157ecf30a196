"""Inbound mail in the formats of SendGrid, Mailgun, Postmark and SES."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from app.providers.base import Callback, InboundMessage
from app.providers.mail.formats import mailgun_inbound, postmark_inbound, sendgrid_inbound, ses_inbound
from app.providers.mail.inbound import LONGEST_HTML, LONGEST_TEXT
from tests.providers.vendors import payload

Files = list[tuple[str, tuple[str, bytes, str]]]
PDF = ("attachment1", ("Men%C3%BC.pdf", b"%PDF", "application/pdf"))
LOGO = ("attachment2", ("logo.png", b"\x89PNG", "image/png"))
#: The time at which everything arrives here.
AT = datetime(2024, 11, 1, 14, 0, 5, tzinfo=UTC)


def fields_of(name: str, **changes: bytes | str | None) -> dict[str, bytes | str]:
    fields = dict(json.loads(payload("mail", f"{name}.json"))) | changes
    return {name: value for name, value in fields.items() if value is not None}


def posted(fields: dict[str, bytes | str], files: Files | None = None) -> Callback:
    everything = [(name, (None, value)) for name, value in fields.items()] + list(files or [])
    request = httpx.Request("POST", "https://messages.example/api/webhooks/x", files=everything)
    headers = [("content-type", request.headers["content-type"])]
    return Callback("POST", str(request.url), headers, request.read(), received_at=AT)


def sendgrid(files: Files | None = None, **changes: bytes | str | None) -> list[InboundMessage]:
    return sendgrid_inbound(posted(fields_of("sendgrid", **changes), files))


def sendgrid_raw(raw: bytes, *recipients: str) -> list[InboundMessage]:
    envelope = json.dumps({"to": recipients or ["user@example.com"], "from": "bounce@example.com"})
    return sendgrid_inbound(posted({"envelope": envelope, "email": raw}))


def documented(name: str, **changes: Any) -> dict[str, Any]:
    return dict(json.loads(payload("mail", f"{name}.json"))) | changes


def postmark(**changes: Any) -> list[InboundMessage]:
    body = json.dumps(documented("postmark", **changes)).encode()
    return postmark_inbound(Callback("POST", "https://messages.example/api/webhooks/postmark", [], body, AT))


class TestSendgrid:
    def test_a_mail_to_two_addresses_is_two_messages(self) -> None:
        text = "Hello back, café!\n\nOn Fri, Nov 1, 2024 at 2:00 PM <user@example.com> wrote:\n> Hello!\n"
        first, second = sendgrid([PDF, LOGO], text=text.encode("latin-1"))
        assert (first.channel, first.type) == ("email", "email")
        assert (first.from_address, first.to_address) == ("contact@example.com", "user@example.com")
        assert (first.subject, first.body) == ("Re: Greetings", "Hello back, café!")
        assert first.quoted == "On Fri, Nov 1, 2024 at 2:00 PM <user@example.com> wrote:\n> Hello!"
        assert first.sent_at == datetime(2024, 11, 1, 14, tzinfo=UTC)
        assert first.provider_message_id.startswith("<CAF8vQx-sendgrid-1@mail.gmail.com> ")
        assert [(file.name, file.content_type, file.content) for file in first.files] == [
            ("Menü.pdf", "application/pdf", b"%PDF"),
            ("logo.png", "image/png", b"\x89PNG"),
        ]
        assert second.to_address == "desk@example.com"
        assert second.provider_message_id.startswith("<CAF8vQx-sendgrid-1@mail.gmail.com> ")
        assert second.provider_message_id != first.provider_message_id
        assert second.body == first.body

    def test_html_is_read_where_there_is_no_plain_text(self) -> None:
        assert sendgrid(text=None)[0].body == "Hello back, café!"
        assert sendgrid(text=" \n")[0].body == "Hello back, café!"

    def test_the_html_is_kept_beside_the_text(self) -> None:
        [message, _] = sendgrid(text=b"Hi", html=b"<p>Hi\0 there</p>\r\n")
        assert (message.body, message.html) == ("Hi", "<p>Hi\ufffd there</p>\n")
        assert sendgrid(text=None)[0].html
        assert sendgrid(html=None)[0].html is None
        assert sendgrid(html=b"<p>" * LONGEST_HTML)[0].html is None

    def test_a_mail_without_words_is_a_message_without_words(self) -> None:
        assert sendgrid([PDF], text=None, html=None)[0].body == ""

    def test_a_raw_mail_says_the_same(self) -> None:
        [message] = sendgrid_raw(payload("mail", "gmail_reply.eml"))
        assert (message.from_address, message.subject) == ("contact@example.com", "Re: Grüße")
        assert message.body == "Yes, Friday at 10 is fine. Grüße!"
        assert message.quoted is not None
        assert message.quoted.endswith("> would Friday suit you?\n>")
        assert message.provider_message_id.startswith("<CAF8vQxGmail01@mail.gmail.com> ")

    @pytest.mark.parametrize(
        "changes",
        [
            {"envelope": None},
            {"envelope": "{"},
            {"envelope": "[]"},
            {"envelope": '{"to":[],"from":"a@example.com"}'},
            {"envelope": '{"to":[" "],"from":"a@example.com"}'},
            {"envelope": '{"to":["a@example.com"]}', "headers": "Subject: x\n"},
        ],
    )
    def test_what_cannot_be_understood_is_a_value_error(self, changes: dict[str, str | None]) -> None:
        with pytest.raises(ValueError, match=r"."):
            sendgrid([PDF], **changes)


class TestMailgun:
    def test_a_route_posts_a_mail_with_its_files(self) -> None:
        file = ("attachment-1", ("test.txt", b"attached", "text/plain"))
        [message] = mailgun_inbound(posted(fields_of("mailgun"), [file]))
        assert (message.from_address, message.to_address) == ("bob@example.com", "alice@example.com")
        assert message.subject == "Re: Sample POST request"
        assert message.body == "Hi Alice,\n\nThis is Bob.\n\nI also attached a file.\n\nThanks,\nBob"
        assert message.quoted is not None
        assert message.quoted.startswith("On 04/26/2013 11:29 AM, Alice wrote:\n> Hi Bob,")
        assert message.provider_message_id.startswith("<517ACC75.5010709@example.com> ")
        assert message.details.date == datetime(2013, 4, 26, 18, 50, 29, tzinfo=UTC)
        assert [(each.name, each.content) for each in message.files] == [("test.txt", b"attached")]

    def test_what_mailgun_keeps_is_named_by_its_address(self) -> None:
        url = "https://storage.example/v3/attachments/0"
        fields = fields_of("mailgun", attachments=json.dumps([{"url": url, "name": "test.txt"}, {"size": 1}]))
        [message] = mailgun_inbound(posted(fields))
        assert (message.attachments, list(message.files)) == ([url], [])

    def test_without_the_headers_what_is_given_beside_them_counts(self) -> None:
        fields = fields_of("mailgun", **{"message-headers": None, "Message-Id": "<a@example.com>"})
        [message] = mailgun_inbound(posted(fields))
        assert message.provider_message_id.startswith("<a@example.com> ")
        assert (message.from_address, message.subject) == ("bob@example.com", "Re: Sample POST request")

    def test_a_mime_route_posts_the_raw_mail(self) -> None:
        raw = payload("mail", "japanese.eml")
        fields: dict[str, bytes | str] = {"recipient": "user@example.com", "sender": "", "body-mime": raw}
        [message] = mailgun_inbound(posted(fields))
        assert (message.subject, message.body) == ("Re: 会議", "はい、行きます。")
        assert message.quoted == "2024年11月1日(金) 14:00 Jane Roe <user@example.com>:\n\n> 会議に来ますか。"


class TestPostmark:
    def test_a_mail_comes_as_json(self) -> None:
        [message] = postmark()
        assert message.from_address == "support@postmarkapp.com"
        assert message.to_address == "yourhash+SampleHash@inbound.postmarkapp.com"
        assert (message.subject, message.body) == ("Test subject", "This is a test text body.")
        assert message.details.date == datetime(2014, 8, 1, 20, 45, 32, tzinfo=UTC)
        assert message.provider_message_id.startswith("<CAGXpo2WKfxHWZ5UFYCR3H_J9SNMG+5AXUovfEFL6DjWBJSyZaA@mail")
        assert [(file.name, file.content) for file in message.files] == [
            ("test.txt", b"This is attachment contents, base-64 encoded.")
        ]

    @pytest.mark.parametrize(
        "changes",
        [
            {"From": None},
            {"From": "", "Headers": []},
            {"OriginalRecipient": "", "To": ""},
            {"Attachments": [{"Name": "x", "Content": "abc"}]},
        ],
    )
    def test_what_cannot_be_understood_is_a_value_error(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"."):
            postmark(**changes)


class TestSes:
    def test_a_notification_holds_the_mail(self) -> None:
        [message] = ses_inbound(documented("ses"), AT)
        assert (message.from_address, message.to_address) == ("jane@example.com", "recipient@example.com")
        assert (message.subject, message.body) == ("Example subject", "This is the message.")

    def test_the_mail_may_be_in_base64(self) -> None:
        notification = documented("ses", content=base64.b64encode(payload("mail", "apple_attachments.eml")).decode())
        notification["receipt"] = notification["receipt"] | {"action": {"type": "SNS", "encoding": "BASE64"}}
        [message] = ses_inbound(notification, AT)
        assert [file.name for file in message.files] == ["Lageplan Süd.pdf", "notes.txt"]

    def test_without_the_mail_in_it_a_notification_is_not_understood(self) -> None:
        notification = documented("ses")
        del notification["content"]
        with pytest.raises(ValueError, match="content"):
            ses_inbound(notification, AT)


class TestText:
    def test_html_that_quotes_is_split_like_a_text(self) -> None:
        [message] = sendgrid_raw(payload("mail", "outlook_html_only.eml"))
        assert message.body == "Guten Tag,\n\ndas Angebot über 80\xa0€ nehmen wir an – danke!"  # noqa: RUF001
        assert message.quoted is not None
        assert message.quoted.startswith("Von: desk <user@example.com>\nGesendet: Freitag, 1. November 2024 15:00")

    def test_quotations_of_html_are_marked(self) -> None:
        said = "On Fri, Nov 1, 2024 at 14:00 Jane wrote:"
        html = f"<p>Before</p>{said}<blockquote>One<blockquote>two</blockquote></blockquote><p>After</p>"
        message = sendgrid(text=None, html=html)[0]
        assert message.body.split() == ["Before", "After"]
        assert message.quoted is not None
        assert [line for line in message.quoted.splitlines() if line.strip("> ")] == [said, "> One", ">> two"]

    def test_what_is_forwarded_stays(self) -> None:
        [message] = sendgrid_raw(payload("mail", "forwarded_mail.eml"))
        assert message.body.endswith("42 dollars, please.")
        assert message.quoted is None

    @pytest.mark.parametrize(("field", "name"), [("text", "message.txt"), ("html", "message.html")])
    def test_of_a_very_long_mail_the_whole_is_a_file(self, field: str, name: str) -> None:
        long = "All work and no play. " * 20_000
        [message, _] = sendgrid(None, **({"text": None} | {field: long}))
        assert 0 < len(message.body) <= LONGEST_TEXT
        [file] = message.files
        assert (file.name, file.content) == (name, long.encode())

    def test_a_subject_is_one_line(self) -> None:
        raw = "From: a@example.com\nSubject: =?utf-8?Q?a=0D=0AX:_b=00c?= " + "d" * 2000 + "\n\nHello"
        [message] = sendgrid_raw(raw.encode())
        assert message.subject is not None
        assert message.subject.startswith("a X: b")
        assert len(message.subject) == 998


def test_a_mail_of_thirty_megabytes_is_read_without_many_copies() -> None:
    content = b"0123456789abcdef" * 1_900_000
    [message, _] = sendgrid([("attachment1", ("big.bin", content, "application/octet-stream"))])
    assert message.files[0].content == content
