"""Inbound mails as the vendors hand them over: repeats, the order of mails, verdicts of filters, and details."""

import json
import re
from datetime import UTC, datetime
from typing import Any

from app.details import Automatic, MessageDetails
from app.providers.mail.formats import mailgun_inbound, ses_inbound
from tests.cases import each_case
from tests.providers.mail.test_inbound import (
    AT,
    documented,
    fields_of,
    posted,
    postmark,
    sendgrid,
    sendgrid_raw,
)
from tests.providers.vendors import payload

HASH = re.compile(r"[0-9a-f]{64}")
MAIL = (
    "From: Jane <jane@client.example>\nTo: user@example.com\nSubject: Parcel\nMessage-ID: <1@client.example>\n"
    "Date: Fri, 1 Nov 2024 14:00:00 +0000\n\nIt is lost."
)


def ids_of(*mails: str) -> list[str]:
    return [message.provider_message_id for mail in mails for message in sendgrid_raw(mail.encode())]


def test_a_mail_that_comes_again_is_the_same() -> None:
    raw = payload("mail", "broken.eml")
    [first], [again] = sendgrid_raw(raw), sendgrid_raw(raw)
    assert HASH.fullmatch(first.provider_message_id)
    assert again.provider_message_id == first.provider_message_id


@each_case(
    "was, becomes",
    [
        ("It is lost.", "It is broken."),
        ("Jane <jane@", "Jane <john@"),
        ("Subject: Parcel", "Subject: Parcel 2"),
        ("1 Nov 2024", "8 Nov 2024"),
        ("<1@client.example>", "<2@client.example>"),
        ("\n\nIt", "\nContent-Type: text/html\n\nIt"),
        ("\n\nIt", '\nContent-Type: application/pdf; name="a.pdf"\n\nIt'),
        ("To: user@example.com", "To: shop@example.com\nDelivered-To: shop@example.com"),
    ],
)
def test_another_mail_with_the_same_message_id_is_another(was: str, becomes: str) -> None:
    one, other = ids_of(MAIL, MAIL.replace(was, becomes))
    assert one != other


@each_case(
    "was, becomes",
    [
        ("From:", "Received: from mx2.client.example\nFrom:"),
        ("From:", "X-Spam-Score: 1.2\nFrom:"),
        ("Message-ID:", "MESSAGE-ID:"),
        ("Subject: Parcel", "Subject: =?utf-8?Q?Parcel?="),
        ("Jane <jane@", "=?utf-8?Q?Jane?=\n <Jane@"),
        ("It is lost.", "It is lost.\n\n"),
    ],
)
def test_what_servers_on_the_way_change_makes_no_other_mail(was: str, becomes: str) -> None:
    one, again = ids_of(MAIL, MAIL.replace(was, becomes))
    assert one == again


def test_a_vendors_own_id_decides_alone() -> None:
    def postmarks(id: str | None, text: str) -> str:
        return postmark(MessageID=id, TextBody=text)[0].provider_message_id

    def sess(id: str, text: str) -> str:
        notification = documented("ses")
        notification["mail"] |= {"messageId": id}
        notification["content"] = notification["content"].replace("This is the message.", text)
        return ses_inbound(notification, AT)[0].provider_message_id

    for of in (postmarks, sess):
        assert of("1", "One") == of("1", "Read in another way")
        assert of("1", "One") != of("2", "One")
    assert postmarks(None, "One") == postmarks("", "One") != postmarks(None, "Another")


def test_each_route_of_mailgun_has_a_token_of_its_own_for_one_mail() -> None:
    one, again, other = (
        mailgun_inbound(posted(fields_of("mailgun", token=token, **{"body-plain": text})))[0].provider_message_id
        for token, text in (("a", "Hello"), ("b", "Hello"), ("c", "Goodbye"))
    )
    assert one == again != other


def test_without_a_message_id_headers_and_envelope_tell_mails_apart() -> None:
    raw = payload("mail", "broken.eml")
    both = sendgrid_raw(raw, "user@example.com", "desk@example.com")
    other = sendgrid_raw(raw.replace(b"yesterday", b"today"))
    assert len({message.provider_message_id for message in [*both, *other]}) == 3


@each_case("message_id", ["", "none", "<>", "<a b>", "<é@example.com>", f"<{'a' * 600}@example.com>"])
def test_a_message_id_that_can_not_be_kept_is_none(message_id: str) -> None:
    [message] = sendgrid_raw(f"From: a@example.com\nMessage-ID: {message_id}\n\nHello".encode())
    assert HASH.fullmatch(message.provider_message_id)


def test_a_long_message_id_is_kept_within_the_longest_id() -> None:
    [message] = sendgrid_raw(f"From: a@example.com\nMessage-ID: <{'a' * 425}@example.com>\n\nHello".encode())
    assert message.provider_message_id.startswith("<aaa")
    assert len(message.provider_message_id) <= 512


def test_who_a_mail_came_from_is_who_wrote_it() -> None:
    def sender(headers: str) -> str:
        [message] = sendgrid_raw(f"{headers}\n\nHello".encode())
        return message.from_address

    assert sender('From: "a, b" <jane@example.com>, bob@example.com') == "jane@example.com"
    assert sender("From: =?utf-8?Q?J=C3=BC?= <jane@example.com>\nSender: list@example.com") == "jane@example.com"
    assert sender("From: nobody\nSender: list@example.com") == "list@example.com"
    assert sender("Subject: x") == "bounce@example.com"


@each_case(
    "date, sent_at, shown",
    [
        ("Fri, 1 Nov 2024 15:00:00 +0100", datetime(2024, 11, 1, 14, tzinfo=UTC), None),
        ("Fri, 25 Oct 2024 14:00:05 +0000", datetime(2024, 10, 25, 14, 0, 5, tzinfo=UTC), None),
        ("Fri, 1 Nov 2024 14:00:05 +0000", AT, None),
        ("Fri, 25 Oct 2024 14:00:04 +0000", AT, datetime(2024, 10, 25, 14, 0, 4, tzinfo=UTC)),
        ("Fri, 1 Nov 2024 14:00:06 +0000", AT, datetime(2024, 11, 1, 14, 0, 6, tzinfo=UTC)),
        ("Mon, 01 Jan 2018 01:04:44 +0100", AT, datetime(2018, 1, 1, 0, 4, 44, tzinfo=UTC)),
        ("Sat, 17 Mar 2096 05:32:00 +0000", AT, datetime(2096, 3, 17, 5, 32, tzinfo=UTC)),
        ("Thu, 1 Jan 1970 00:00:00 +0000", AT, datetime(1970, 1, 1, tzinfo=UTC)),
        ("Sat, 17 Mar 2196 05:32:00 +0000", AT, None),
        ("yesterday", AT, None),
        ("", AT, None),
    ],
)
def test_a_clock_that_can_not_be_right_does_not_order(date: str, sent_at: datetime, shown: datetime | None) -> None:
    [message] = sendgrid_raw(f"From: a@client.example\nDate: {date}\n\nHello".encode())
    assert (message.sent_at, message.details.date) == (sent_at, shown)


@each_case(
    "timestamp, arrived_at",
    [
        ("1730469600", datetime(2024, 11, 1, 14, tzinfo=UTC)),
        ("1730469500.5", datetime(2024, 11, 1, 13, 58, 20, 500_000, tzinfo=UTC)),
        ("1999999999", AT),
        ("soon", AT),
        ("nan", AT),
        (None, AT),
    ],
)
def test_mailgun_signs_a_time(timestamp: str | None, arrived_at: datetime) -> None:
    [message] = mailgun_inbound(posted(fields_of("mailgun", timestamp=timestamp)))
    assert message.sent_at == arrived_at


def test_ses_tells_the_time_of_arrival() -> None:
    notification = documented("ses")
    notification["content"] = notification["content"].replace("Fri, 11 Sep 2015", "Fri, 11 Sep 2065")
    assert ses_inbound(notification, AT)[0].sent_at == datetime(2015, 9, 11, 20, 32, 33, 936_000, tzinfo=UTC)
    notification["mail"] |= {"timestamp": "soon"}
    assert ses_inbound(notification, AT)[0].sent_at == AT


@each_case(
    "spam, virus, expected",
    [
        ("PASS", "PASS", {"spam": "pass", "virus": "pass"}),
        ("FAIL", "GRAY", {"spam": "fail", "virus": "gray"}),
        ("PROCESSING_FAILED", "FAIL", {"spam": "unknown", "virus": "fail"}),
        ("DISABLED", "DISABLED", {}),
        (None, 5, {}),
    ],
)
def test_of_ses(spam: Any, virus: Any, expected: dict[str, str]) -> None:
    notification = documented("ses")
    notification["receipt"] |= {"spamVerdict": {"status": spam}, "virusVerdict": {"status": virus}}
    assert ses_inbound(notification, AT)[0].details.verdicts == expected


@each_case(
    "flag, score, expected",
    [
        ("Yes", "0.1", {"spam": "fail"}),
        ("No", "9", {"spam": "pass"}),
        ("No, score=1.2 required=5.0", None, {"spam": "pass"}),
        (None, "5.0", {"spam": "fail"}),
        (None, "-0.4", {"spam": "pass"}),
        (None, "nan", {}),
        ("perhaps", "high", {}),
        (None, None, {}),
    ],
)
def test_of_postmark_and_mailgun(flag: str | None, score: str | None, expected: dict[str, str]) -> None:
    def spam(flag_name: str, score_name: str) -> list[tuple[str, str]]:
        written = [(flag_name, flag), (score_name, score)]
        return [(name, value) for name, value in written if value is not None]

    headers = [{"Name": name, "Value": value} for name, value in spam("X-Spam-Status", "X-Spam-Score")]
    assert postmark(Headers=headers)[0].details.verdicts == expected
    fields = fields_of("mailgun", **{"message-headers": None}, **dict(spam("X-Mailgun-Sflag", "X-Mailgun-Sscore")))
    assert mailgun_inbound(posted(fields))[0].details.verdicts == expected


@each_case("score, expected", [("5.1", {"spam": "fail"}), ("0.011", {"spam": "pass"}), ("", {}), ("inf", {})])
def test_of_sendgrid(score: str, expected: dict[str, str]) -> None:
    assert sendgrid(spam_score=score)[0].details.verdicts == expected


def test_every_vendor_tells_names_reply_addresses_and_copies() -> None:
    head = (
        'From: "Roe, Jane" <jane@client.example>\nReply-To: Desk <desk@client.example>\nCc: ann@client.example\n'
        "To: user@example.com\nAuto-Submitted: auto-replied\nIn-Reply-To: <1-17-5@example.com>\n"
    )
    pairs = [(name, value) for name, _, value in (line.partition(": ") for line in head.splitlines())]
    notification = documented("ses", content=f"{head}\nHello")
    notification["receipt"] |= {"spamVerdict": {}, "virusVerdict": {}}
    removed = {"From", "To", "Cc", "Reply-To"}
    fields: dict[str, Any] = {
        "From": "jane@client.example",
        "FromName": "Roe, Jane",
        "To": "user@example.com",
        "OriginalRecipient": "user@example.com",
        "Cc": "ann@client.example",
        "ReplyTo": "Desk <desk@client.example>",
        "Date": "",
        "Headers": [{"Name": name, "Value": value} for name, value in pairs if name not in removed],
    }
    without: dict[str, str | None] = {"message-headers": None, "from": None} | dict(pairs)
    for [message, *_] in (
        sendgrid_raw(f"{head}\nHello".encode()),
        sendgrid(headers=head),
        mailgun_inbound(posted(fields_of("mailgun", **{"message-headers": json.dumps(pairs)}))),
        mailgun_inbound(posted(fields_of("mailgun", **without))),
        postmark(**fields),
        ses_inbound(notification, AT),
    ):
        assert message.from_address == "jane@client.example"
        assert message.details == MessageDetails(
            from_name="Roe, Jane",
            reply_to=["desk@client.example"],
            cc=["ann@client.example"],
            automatic=Automatic.REPLY,
        )
        assert message.claims is not None
        assert message.claims.answers == [("", "1-17-5")]


def test_what_a_mail_does_not_depend_on_may_be_of_any_type() -> None:
    odd: dict[str, Any] = {
        "FromName": 5,
        "Cc": None,
        "ReplyTo": [],
        "Subject": {},
        "Date": 7,
        "TextBody": None,
        "HtmlBody": 1.5,
    }
    [message] = postmark(**odd)
    assert (message.from_address, message.subject, message.body) == ("support@postmarkapp.com", None, "")
