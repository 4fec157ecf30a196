"""Raw mails, as mail programs write them and as hostile senders do."""

import base64
import encodings
import os
from datetime import UTC, datetime

from app.providers.mail.mime.charsets import text_of
from app.providers.mail.mime.headers import decoded, header, time_of
from app.providers.mail.mime.parts import read_mail
from app.providers.mail.mime.structure import MOST_HEADERS, MOST_PARTS
from tests.cases import each_case
from tests.providers.vendors import payload


def mail_named(name: str) -> bytes:
    return payload("mail", f"{name}.eml")


def test_of_alternatives_the_plain_text_is_read() -> None:
    mail = read_mail(mail_named("gmail_reply"))
    assert mail.text.startswith("Yes, Friday at 10 is fine. Grüße!\n")
    assert (mail.html, mail.files) == ("", [])
    assert header(mail.headers, "subject") == "Re: Grüße"
    assert header(mail.headers, "from") == "Jürgen Roe <contact@example.com>"
    assert "\n" not in header(mail.headers, "dkim-signature")


def test_files_of_an_alternative_that_is_not_read_are_kept() -> None:
    mail = read_mail(mail_named("apple_attachments"))
    assert (mail.text.strip(), mail.html) == ("Here is the plan.", "")
    assert [(file.name, file.content_type, file.content) for file in mail.files] == [
        ("Lageplan Süd.pdf", "application/pdf", b"%PDF-1.4\n% a plan\n%%EOF\n"),
        ("notes.txt", "text/plain", b"second, bring a ladder\r\n"),
    ]


def test_html_alone_is_read_in_its_charset() -> None:
    mail = read_mail(mail_named("outlook_html_only"))
    assert mail.text == ""
    assert "das Angebot über 80&nbsp;€ nehmen wir an – danke!" in mail.html.replace("=\n", "")  # noqa: RUF001


def test_a_mail_in_a_mail_is_a_file_that_is_a_mail() -> None:
    mail = read_mail(mail_named("forwarded_mail"))
    [file] = mail.files
    assert (file.name, file.content_type) == ("Invoice.eml", "message/rfc822")
    inner = read_mail(file.content)
    assert header(inner.headers, "from") == "billing@supplier.example"
    assert [(each.name, each.content) for each in inner.files] == [("invoice.pdf", b"%PDF-1.4\n")]


def test_what_a_mail_server_reports_is_kept_as_files() -> None:
    mail = read_mail(mail_named("bounce"))
    assert mail.text.startswith("I'm sorry to have to inform you")
    report, returned = mail.files
    assert (report.content_type, returned.content_type) == ("message/delivery-status", "message/rfc822")
    assert b"Status: 5.1.1" in report.content
    assert b"Hello!" in returned.content


def test_bytes_that_should_not_be_there_are_read_as_what_they_are() -> None:
    mail = read_mail(mail_named("broken"))
    assert header(mail.headers, "from") == "Jürgen <contact@example.com>"
    assert header(mail.headers, "subject") == "Straße café"
    assert mail.text == "Grüße\ufffd and\nmore"


@each_case(
    ("written", "read"),
    [
        ("=?utf-8?Q?caf=C3=A9?= =?utf-8?B?IMOpdMOp?=", "café été"),
        ("plain =?utf-8?Q?caf=C3=A9?= plain", "plain café plain"),
        ("=?utf-8?B?!!!?=", ""),
        ("=?utf-8?B?w?=", "=?utf-8?B?w?="),
        ("=?" * 50_000, None),
        ("folded\r\n\tline", "folded line"),
        ("caf\udcc3\udca9", "café"),
        ("caf\udce9", "café"),
        ("a\x00b", "a\ufffdb"),
    ],
)
def test_a_header_is_read_however_it_is_encoded(written: str, read: str | None) -> None:
    assert decoded(written) == (decoded(written) if read is None else read)
    decoded(written).encode()


@each_case(
    ("written", "moment"),
    [
        ("Fri, 1 Nov 2024 15:00:00 +0100", datetime(2024, 11, 1, 14, tzinfo=UTC)),
        ("Fri, 1 Nov 2024 10:00:00 -04:00", datetime(2024, 11, 1, 14, tzinfo=UTC)),
        ("1 Nov 2024 14:00", datetime(2024, 11, 1, 14, tzinfo=UTC)),
        ("Fri, 01 Nov 2024 14:00:00 GMT (a comment)", datetime(2024, 11, 1, 14, tzinfo=UTC)),
        ("", None),
        ("yesterday", None),
        ("Fri, 1 Nov 1824 15:00:00 +0100", None),
        ("Fri, 1 Nov 9999 23:59:59 -2359", None),
        ("Fri, 99 Nov 2024 99:99:99 +9999", None),
    ],
)
def test_a_date_is_read_or_left_out(written: str, moment: datetime | None) -> None:
    assert time_of(written) == moment


def test_a_file_of_thirty_megabytes_arrives_whole() -> None:
    content = os.urandom(22_000_000)
    raw = (
        b"From: a@example.com\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nHello\r\n--b\r\n"
        b"Content-Type: application/zip; name=a.zip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + base64.encodebytes(content).replace(b"\n", b"\r\n")
        + b"--b--\r\n"
    )
    mail = read_mail(raw)
    assert (mail.text, mail.files[0].name, mail.files[0].content == content) == ("Hello", "a.zip", True)


def nested(depth: int) -> bytes:
    return b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (i, i) for i in range(depth)) + b"\nx"


def test_nested_parts_are_read_to_a_depth_that_nobody_needs() -> None:
    assert read_mail(nested(100)).text == "x"


def test_what_is_nested_too_deeply_costs_only_itself() -> None:
    deep = nested(5000)
    mail = read_mail(
        b"Content-Type: multipart/mixed; boundary=out\n\n--out\n\nHello\n--out\n"
        + deep
        + b"\n--out\n\nBye\n--out--\n"
    )
    assert mail.text == "Hello\nBye"
    [file] = mail.files
    assert file.content_type == "multipart/mixed"
    assert file.content.endswith(b"--b4999\n\nx")


@each_case(
    ("raw", "rest"),
    [
        (b"Content-Type: message/rfc822\n\n" * 5000, b"message/rfc822\n\n"),
        (b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\na\n" * (MOST_PARTS + 9) + b"--b\n\nlast", b""),
        (b"X: y\n" * (MOST_HEADERS + 9) + b"\nlast", b""),
        (b"Sender: " + b"(" * 20_000 + b"\n\nlast", b""),
        (b"Content-Type: " + b"(" * 20_000 + b"\n\nlast", b""),
    ],
    ids=["mails in mails", "parts", "headers", "brackets", "brackets in a type"],
)
def test_a_mail_that_would_eat_all_memory_is_read_within_limits(raw: bytes, rest: bytes) -> None:
    mail = read_mail(raw)
    assert mail.text.endswith("last") or mail.files[0].content.endswith(rest)
    assert len(mail.headers) <= MOST_HEADERS


@each_case(
    "raw",
    [
        b"",
        b"\n",
        b"no colon\n\nbody",
        b"Content-Type: \xff\xfe; charset=\xff\n\nbody",
        b"Content-Type: text/plain; charset*=foo'bar'%FF\n\nbody",
        b"Content-Type: multipart/mixed\n\nbody",
        b"Content-Type: multipart/mixed; boundary=\n\n--\nbody",
        b"Content-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: base64\n\n--b\n\nbody",
        b"Content-Type: multipart/mixed; " + b'a="b\\";' * 300_000 + b"\n\nbody",
        b"Content-Transfer-Encoding: base64\n\n!!!",
        b"Content-Transfer-Encoding: x-uuencode\n\nbody",
        b"Content-Transfer-Encoding: \x00\n\nbody",
        b"Content-Disposition: attachment; filename*0*=utf-8''%; filename*2=b\n\nbody",
        b"Content-Disposition: attachment; filename*=utf-8''%FF%00\n\nbody",
        b'Content-Disposition: attachment; filename="=?utf-8?B?w?="\n\nbody',
        b"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nU3ViamVjdDogeA==",
        b"Content-Type: message/delivery-status\n\n\n\n\n",
        b"Content-Disposition: attachment; filename*=\xff'x'%41\n\nbody",
        b"Content-Disposition: attachment; filename*=a\x00'x'%41\n\nbody",
        b"Content-Type: text/plain; charset*=a\x00'x'%41\n\nbody",
        b"Content-Type: message/rfc822\n\nContent-Type: multipart/mixed; charset=utf-8\n\nb\xff\xc3",
        b"Content-Type: message/rfc822\n\nSubject: \xff\n\n\xff\x00",
        b"Content-Type: message/rfc822\n\nContent-Type: multipart/mixed; boundary=b\n\n--b\nA: \xff\n\n\xff\n--b--",
    ],
)
def test_a_mail_is_read_however_broken_it_is(raw: bytes) -> None:
    mail = read_mail(raw)
    for text in (mail.text, mail.html, *(file.name for file in mail.files)):
        text.encode()
        assert "\x00" not in mail.text


def test_charsets_that_strangers_make_up_are_not_remembered() -> None:
    before = len(encodings._cache)
    assert [text_of(b"caf\xc3\xa9", f"made-up-{number}") for number in range(3)] == ["café"] * 3
    assert len(encodings._cache) == before
    assert text_of("caf\xe9".encode("latin-1"), "ISO-8859-1") == "café"
