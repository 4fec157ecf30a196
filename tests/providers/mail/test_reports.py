"""Mails about an earlier mail, as mail servers and mailbox providers write them."""

import time

from app.consent import ReportedConsent
from app.details import Automatic
from app.domain import MessageStatus
from app.providers.base import InboundFile, MailReport
from app.providers.mail.automatic import automatic_kind
from app.providers.mail.events import Notice
from app.providers.mail.mime.parts import read_mail
from app.providers.mail.reports import report_of
from tests.cases import each_case

OURS = "1-17-1764328500123456@shop.example"
UNDELIVERED, DELIVERED, READ = MessageStatus.UNDELIVERED, MessageStatus.DELIVERED, MessageStatus.READ
COPY = f"From: shop@shop.example\nTo: Jane@client.example\nSubject: Hi\nMessage-ID: <{OURS}>\n"


def read(raw: str) -> MailReport | None:
    mail = read_mail(raw.replace("\n", "\r\n").encode())
    return report_of(mail.headers, mail.text, mail.files, automatic_kind(mail.headers, None))


def multipart(fields: str, *, kind: str = "delivery-status", head: str = "", copy: str = COPY, text: str = "") -> str:
    return (
        f"From: MAILER-DAEMON@mx.client.example (Mail Delivery System)\nTo: shop@shop.example\n{head}"
        f"Content-Type: multipart/report; report-type={kind}; boundary=b\n\n"
        f"--b\nContent-Type: text/plain\n\n{text or 'This is the mail system.'}\n"
        f"--b\nContent-Type: message/{kind}\n\n{fields}\n"
        f"--b\nContent-Type: text/rfc822-headers\n\n{copy}\n--b--\n"
    )


def text(body: str, head: str = "") -> str:
    return f"From: mailer-daemon@mx.client.example\nSubject: failure notice\n{head}\n{body}"


POSTFIX = multipart(
    "Reporting-MTA: dns; mx.client.example\nX-Postfix-Queue-ID: 4XgF2\n\n"
    "Final-Recipient: rfc822; jane@client.example\nOriginal-Recipient: rfc822;jane@client.example\n"
    "Action: failed\nStatus: 5.1.1\n"
    "Remote-MTA: dns; in.client.example\nDiagnostic-Code: smtp; 550 5.1.1 <jane@client.example>:\n    User unknown\n"
)
EXPIRED = multipart(
    "Reporting-MTA: dns; mx.shop.example\n\nFinal-Recipient: rfc822; jane@client.example\nAction: failed\n"
    "Status: 4.4.1\nDiagnostic-Code: X-Postfix; connect to client.example[192.0.2.1]:25: Connection timed out\n"
)
GMAIL_LATE = multipart(
    "Reporting-MTA: dns; googlemail.com\nArrival-Date: Thu, 05 Feb 2026 06:00:00 -0800 (PST)\n"
    f"X-Original-Message-ID: <{OURS}>\n\nFinal-Recipient: rfc822; jane@client.example\nAction: delayed\n"
    "Status: 4.4.1\nDiagnostic-Code: smtp; The recipient server did not accept our requests to connect.\n",
    head="X-Failed-Recipients: jane@client.example\n",
    copy="",
)
EXCHANGE = (
    "From: Microsoft Outlook <MicrosoftExchange329e71ec88ae4615bbc36ab6ce41109e@client.example>\n"
    f"Auto-Submitted: auto-replied\nIn-Reply-To: <{OURS}>\nReferences: <first@x.example> <{OURS}>\n"
    "Subject: Undeliverable: Hi\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\n\n"
    "--b\nContent-Type: text/html\n\n<p>Delivery has failed to these recipients.</p>\n"
    "--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns;AM0.prod.outlook.com\n\n"
    "Final-Recipient: rfc822;jane@client.example\nAction: failed\nStatus: 5.1.10\n"
    "Diagnostic-Code: smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found\n\n--b--\n"
)
EXIM = (
    "From: Mail Delivery System <Mailer-Daemon@mx.client.example>\nX-Failed-Recipients: jane@client.example\n"
    "Auto-Submitted: auto-replied\nSubject: Mail delivery failed: returning message to sender\n\n"
    "This message was created automatically by mail delivery software.\n\n"
    "A message that you sent could not be delivered to one or more of its\nrecipients. This is a permanent error.\n\n"
    "  jane@client.example\n    Unrouteable address\n\n"
    "------ This is a copy of the message, including all the headers. ------\n\n"
    f"Return-path: <a@b.example>\n{COPY}\nHi\n"
)
EXIM_LATE = (
    "From: Mail Delivery System <Mailer-Daemon@mx.client.example>\nAuto-Submitted: auto-replied\n"
    "Subject: Warning: message 1abc delayed 24 hours\n\nThis message was created automatically.\n"
    "A message that you sent has not yet been delivered to one or more of its recipients.\n\n"
    f"The message identifier is: 1abc\n\nMessage-Id: <{OURS}>\n  jane@client.example\n"
    "    host said: 451 4.3.2 try later\n"
)
QMAIL = text(
    "Hi. This is the qmail-send program at mx.client.example.\nI'm afraid I wasn't able to deliver your message.\n\n"
    "<jane@client.example>:\n192.0.2.1 does not like recipient.\nRemote host said: 553 5.3.0 no such user\n\n"
    f"--- Below this line is a copy of the message.\n\nReturn-Path: <>\n{COPY}\nHi\n"
)
SES_BOUNCE = multipart(
    "Reporting-MTA: dns; a.smtp-out.amazonses.com\n\nFinal-Recipient: rfc822; jane@client.example\nAction: failed\n"
    "Status: 5.0.0\n",
    copy="To: jane@client.example\nMessage-ID: <0102-aa@eu-west-1.amazonses.com>\n"
    f"References: <old@x.example>\n <{OURS}>\n",
)
ALIAS = multipart(
    "Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; board@client.example\nAction: expanded\nStatus: 2.0.0\n\n"
    "Original-Recipient: rfc822; jane@client.example\nFinal-Recipient: rfc822; j@lan.client.example\nAction: failed\n"
    "Status: 5.2.2\nDiagnostic-Code: smtp; 552 mailbox full\n"
)


@each_case(
    "raw, status, detail",
    [
        (POSTFIX, UNDELIVERED, "550 5.1.1 <jane@client.example>: User unknown"),
        (EXPIRED, UNDELIVERED, "4.4.1 connect to client.example[192.0.2.1]:25: Connection timed out"),
        (GMAIL_LATE, None, f"{Notice.DELAY}: 4.4.1 The recipient server did not accept our requests to connect."),
        (EXCHANGE, UNDELIVERED, "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found"),
        (EXIM, UNDELIVERED, "Mail delivery failed: returning message to sender"),
        (EXIM_LATE, None, f"{Notice.DELAY}: host said: 451 4.3.2 try later"),
        (QMAIL, UNDELIVERED, "Remote host said: 553 5.3.0 no such user"),
        (SES_BOUNCE, UNDELIVERED, "5.0.0"),
        (ALIAS, UNDELIVERED, "5.2.2 552 mailbox full"),
    ],
)
def test_a_bounce_names_the_mail_and_says_what_became_of_it(
    raw: str, status: MessageStatus | None, detail: str
) -> None:
    report = read(raw)
    assert report is not None
    assert (report.kind, report.status, report.detail) == (Automatic.BOUNCE, status, detail)
    assert OURS in report.message_ids
    assert "jane@client.example" in [address.lower() for address in report.recipients]


def disposition(written: str, named: str = f"Original-Message-ID: <{OURS}>") -> str:
    fields = (
        f"Reporting-UA: client; 1\nFinal-Recipient: rfc822;jane@client.example\n{named}\nDisposition: {written}\n"
    )
    return multipart(fields, kind="disposition-notification", copy="")


def feedback(kind: str, copy: str = COPY) -> str:
    fields = f"Feedback-Type: {kind}\nUser-Agent: loop/1\nVersion: 1\nOriginal-Rcpt-To: <jane@client.example>\n"
    return multipart(fields, kind="feedback-report", copy=copy)


@each_case(
    "raw, kind, status, begins",
    [
        (disposition("manual-action/MDN-sent-manually; displayed"), "disposition", READ, "manual-action"),
        (disposition("manual-action/MDN-sent-automatically;displayed"), "disposition", READ, "manual-action"),
        (disposition("automatic-action/MDN-sent-automatically; displayed"), "disposition", None, Notice.PROCESSED),
        (disposition("automatic-action/MDN-sent-automatically; deleted"), "disposition", None, Notice.DELETED),
        (disposition("manual-action/MDN-sent-manually; processed"), "disposition", None, Notice.PROCESSED),
        (disposition("manual-action/x; displayed", f"Original-Message-ID: {OURS}"), "disposition", READ, "manual"),
        (feedback("abuse"), "complaint", None, Notice.COMPLAINT),
        (feedback("fraud"), "complaint", None, Notice.COMPLAINT),
        (feedback("opt-out"), "complaint", None, Notice.UNSUBSCRIBED),
        (feedback("not-spam"), "complaint", None, Notice.NO_SPAM),
        (feedback("auth-failure"), "complaint", None, Notice.UNVERIFIED),
    ],
)
def test_other_reports_say_what_people_and_programs_did(
    raw: str, kind: str, status: MessageStatus | None, begins: str
) -> None:
    report = read(raw)
    assert report is not None
    assert (report.kind, report.status, report.message_ids) == (kind, status, [OURS])
    assert report.detail.startswith(begins)
    assert "jane@client.example" in report.recipients


@each_case(
    "raw, consent",
    [
        (POSTFIX, ReportedConsent.HARD_BOUNCE),
        (EXCHANGE, ReportedConsent.HARD_BOUNCE),
        (QMAIL, ReportedConsent.HARD_BOUNCE),
        (ALIAS, ReportedConsent.SOFT_BOUNCE),
        (EXPIRED, ReportedConsent.SOFT_BOUNCE),
        (SES_BOUNCE, None),  # it does not say why
        (EXIM, None),
        (EXIM_LATE, None),
        (POSTFIX.replace("5.1.1", "5.7.1").replace("User unknown", "Rejected as spam"), None),
        (feedback("abuse"), ReportedConsent.COMPLAINT),
        (feedback("opt-out"), ReportedConsent.UNSUBSCRIBED),
        (feedback("not-spam"), None),
        (feedback("virus"), None),
        (disposition("manual-action/MDN-sent-manually; displayed"), None),
    ],
)
def test_a_report_says_what_it_means_for_consent(raw: str, consent: ReportedConsent | None) -> None:
    report = read(raw)
    assert report is not None
    assert report.consent is consent


@each_case(
    "action, status, expected",
    [
        ("Failed", "5.7.1", UNDELIVERED),
        ("failed (bounce)", "5.0.0", UNDELIVERED),
        ("delivered", "2.0.0", DELIVERED),
        ("relayed", "2.0.0", None),
        ("expanded", "2.0.0", None),
        ("delayed", "4.4.7", None),
        ("", "5.4.4", UNDELIVERED),
        ("", "4.2.2", None),
    ],
)
def test_the_action_decides_and_without_one_the_code(
    action: str, status: str, expected: MessageStatus | None
) -> None:
    report = read(multipart(f"Reporting-MTA: dns; mx\n\nAction: {action}\nStatus: {status}\n"))
    assert report is not None
    assert report.status is expected


@each_case(
    "raw",
    [
        f"From: jane@client.example\nIn-Reply-To: <{OURS}>\nSubject: Re: Hi\n\nIt failed: 550 5.1.1\n",
        f"From: jane@client.example\nAuto-Submitted: auto-replied\nIn-Reply-To: <{OURS}>\n\nI am away. 5.1.1\n",
        f"From: postmaster@client.example\nIn-Reply-To: <{OURS}>\n\nYour mail failed our policy, please call me.\n",
        "From: jane@client.example\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nSee below\n--b\n"
        f"Content-Type: message/rfc822\n\n{COPY}\nHi\n--b--\n",
        "From: jane@client.example\nSubject: Fwd: it came back\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\n"
        "See below\n--b\nContent-Type: message/delivery-status\n\nReporting-MTA: x\n\nAction: failed\n\n--b--\n",
        "",
    ],
)
def test_the_mail_of_a_person_or_an_automatic_reply_is_no_report(raw: str) -> None:
    assert read(raw) is None


def test_a_bounce_that_says_nothing_certain_changes_nothing() -> None:
    report = read(text("Message-ID: <a@b.example>\nSomething happened.", "X-Other: 1\n").replace("failure", "a"))
    assert report is not None
    assert (report.status, report.detail) == (None, f"{Notice.UNCLEAR_BOUNCE}: a notice")


def test_parts_are_known_by_their_fields_where_a_vendor_has_not_kept_their_types() -> None:
    headers = [("From", "MAILER-DAEMON@mx.example"), ("Content-Type", "multipart/report; boundary=b")]
    status = b"Reporting-MTA: dns; mx\r\n\r\nFinal-Recipient: rfc822; jane@client.example\r\nAction: failed\r\n"
    files = [
        InboundFile("details.txt", "application/octet-stream", status),
        InboundFile("mail.eml", "application/octet-stream", COPY.encode()),
    ]
    report = report_of(headers, "", files, None)
    assert report is not None
    assert (report.status, report.message_ids) == (UNDELIVERED, [OURS])
    assert report_of([("From", "jane@client.example")], "", files, None) is None
    without_type = [
        InboundFile("a", "message/disposition-notification", b"Disposition: manual-action/x; displayed\r\n")
    ]
    report = report_of([("From", "jane@client.example")], "", without_type, None)
    assert report is not None
    assert report.status is READ


def test_a_complaint_needs_no_report_of_its_own_where_a_vendor_has_left_it_out() -> None:
    headers = [("From", "loop@mail.example"), ("Content-Type", "multipart/report; report-type=feedback-report")]
    files = [InboundFile("mail.eml", "message/rfc822", COPY.encode())]
    report = report_of(headers, "", files, automatic_kind(headers, None))
    assert report is not None
    assert (report.kind, report.detail, report.message_ids) == (Automatic.COMPLAINT, Notice.COMPLAINT, [OURS])


def test_a_copy_that_names_another_mail_does_not_name_the_one_before_it() -> None:
    report = read(multipart("\nAction: failed\n", copy=f"Message-ID: <other@x.example>\nReferences: <{OURS}>\n"))
    assert report is not None
    assert report.message_ids == ["other@x.example"]


def test_a_repeat_has_the_same_id_and_the_next_report_another() -> None:
    first, again = read("Message-ID: <1@mx>\n" + POSTFIX), read("Message-ID: <1@mx>\n" + POSTFIX)
    late = read("Message-ID: <2@mx>\n" + POSTFIX)
    assert first is not None
    assert again is not None
    assert late is not None
    assert first.report_id == again.report_id != late.report_id


@each_case(
    "body",
    [
        "\n" * 200_000,
        "> " * 200_000,
        "message-id: " * 50_000,
        "a@" * 200_000,
        '"' * 200_000,
        "<" * 200_000,
        "5." * 200_000,
        "not " * 100_000,
    ],
)
def test_no_text_takes_long(body: str) -> None:
    headers = [("From", "mailer-daemon@mx.example"), ("Content-Type", "multipart/report")]
    files = [InboundFile("x", "message/delivery-status", body.encode()), InboundFile("y", "", body.encode())]
    before = time.process_time()
    report = report_of(headers, body, files, Automatic.BOUNCE)
    report_of(headers, body, [], Automatic.BOUNCE)
    assert report is not None
    assert time.process_time() - before < 1
