"""Parts of mails as they come: what mail programs, lists and gateways write beside the RFCs."""
# ruff: noqa: RUF001 - the words are of many languages, and so are their letters

import base64

from app.providers.mail.mime.parameters import parameters_of
from app.providers.mail.mime.parts import MailParts, read_mail
from app.providers.mail.mime.transfer import without_transfer_encoding
from tests.cases import each_case

PDF = "Content-Type: application/pdf; name=a.pdf\nContent-Transfer-Encoding: base64\n\nJVBERg==\n"


def mail_of(text: str) -> MailParts:
    return read_mail(text.replace("\n", "\r\n").encode("utf-8", "surrogateescape"))


@each_case(
    ("value", "name", "text"),
    [
        ("attachment; filename=\"a.pdf\"; filename*=UTF-8''%E2%82%AC.pdf", "filename", "€.pdf"),
        ("attachment; filename*=UTF-8'de'%C3%BC.pdf; filename=u.pdf", "filename", "ü.pdf"),
        ("attachment; filename*=us-ascii''W%F6lbung.pdf", "filename", "Wölbung.pdf"),
        ("attachment; filename*=iso-8859-1''%C3%BC.pdf", "filename", "ü.pdf"),
        ("attachment; filename*=utf-8''%FC.pdf", "filename", "ü.pdf"),
        ("attachment; filename*=%C3%BC.pdf", "filename", "ü.pdf"),
        ("attachment; filename*=\"utf-8''%C3%BC.pdf\"", "filename", "ü.pdf"),
        ("attachment; filename*=made-up'x'%C3%BC.pdf", "filename", "ü.pdf"),
        ('attachment; filename*1="two.pdf"; filename*0="one "', "filename", "one two.pdf"),
        ("attachment; filename*0*=utf-8''%C3; filename*1*=%BC; filename*2=.pdf", "filename", "ü.pdf"),
        ("attachment; filename*0*=utf-8''a; filename*2=b; filename*10=c", "filename", "abc"),
        ('attachment; filename="=?utf-8?Q?=C3=BC=3B.pdf?="', "filename", "ü;.pdf"),
        ("attachment; filename==?utf-8?B?w7wucGRm?=", "filename", "ü.pdf"),
        ('attachment; filename="=?utf-8?Q?=C3=BC?= =?utf-8?Q?.pdf?="', "filename", "ü.pdf"),
        ("attachment; filename=my plan (1).pdf", "filename", "my plan (1).pdf"),
        ('attachment; filename="the "big" plan.pdf"', "filename", 'the "big" plan.pdf'),
        ('attachment; filename="C:\\plans\\a.pdf"', "filename", "C:\\plans\\a.pdf"),
        ('attachment; filename="a;b.pdf"; size=5', "filename", "a;b.pdf"),
        ('attachment; filename="a.pdf', "filename", "a.pdf"),
        ("attachment; filename=gr\udcfc\udcdfe.pdf", "filename", "grüße.pdf"),
        ('text/plain; charset="utf-8" (Unicode); x=y', "charset", "utf-8"),
        ("text/plain charset=utf-8", "charset", "utf-8"),
        ("TEXT/PLAIN;CHARSET = utf-8", "charset", "utf-8"),
        ("multipart/mixed; boundary==_a=b", "boundary", "=_a=b"),
        ('multipart/mixed; boundary="<a: b, c>"', "boundary", "<a: b, c>"),
        ("(made by hand) multipart/mixed; boundary=b", "boundary", "b"),
        ('multipart/mixed; boundary="b1"\r\n folded', "boundary", "b1"),
    ],
)
def test_a_parameter_is_read_however_it_is_written(value: str, name: str, text: str) -> None:
    assert parameters_of(value).named[name] == text


@each_case(
    ("encoding", "content", "read"),
    [
        ("quoted-printable (qp)", b"Gr=C3=BC", "Grü"),
        ('"base64"', b"SGVsbG8=", "Hello"),
        ("BASE64 ", b"SGVsbG8", "Hello"),
        ("base64", b"SGVsbG8=\r\nIFdvcmxk", "Hello World"),
        ("base64", b"SGVsbG8=IFdvcmxk", "Hello World"),
        ("base64", b"SGVs!\r\n bG8=", "Hello"),
        ("base64", b"SGVsbG8=\r\n\r\n-- \r\nScanned by a filter.", "Hello"),
        ("base64", b"SGVsbG8h\r\n\r\n____\r\nlist mailing list", "Hello!"),
        ("base64", b"SGVsbG8hS", "Hello!"),
        ("base64", b"!!!", ""),
        ("(seven bits) x-base64", b"SGVsbG8=", "Hello"),
        ("base-64", b"SGVsbG8=", "Hello"),
        ("Quoted_Printable", b"Gr=C3=BC", "Grü"),
        ("quoted-printable", b"soft =  \r\nbreak=\r\n=zz end=", "soft break=zz end"),
        ("x-uuencode", b"begin 644 a\n%2&5L;&\\ \n`\nend\n", "Hello"),
        ("x-uuencode", b"no file", "no file"),
        ("8bits", b"as it is", "as it is"),
        ("", b"as it is", "as it is"),
    ],
)
def test_content_is_read_whatever_is_wrong_with_its_encoding(encoding: str, content: bytes, read: str) -> None:
    assert without_transfer_encoding(content, encoding).decode() == read


def multipart(boundary: str, *parts: str, kind: str = "mixed", end: str = "--") -> str:
    stated = f'Content-Type: multipart/{kind}; boundary="{boundary}"\n\n'
    return stated + "".join(f"--{boundary}\n{part}\n" for part in parts) + f"--{boundary}{end}\n"


@each_case(
    "raw",
    [
        multipart("<--- b --->", "\nHello", PDF),
        multipart("=_a:b/c?", "\nHello", PDF),
        multipart("b", "\nHello", PDF, end=""),
        multipart("b", "\nHello", PDF).removesuffix("--b--\n"),
        multipart("b", "\nHello", PDF).replace('; boundary="b"', ""),
        multipart("b", "\nHello", PDF).replace('boundary="b"', 'boundary="c"'),
        multipart("b", "\nHello", PDF).replace("--b\n", "--b \t\n"),
        "\ufeff" + multipart("b", "\nHello", PDF),
        "\n\n" + multipart("b", "\nHello", PDF),
        "From jane@example.com Fri Nov  1\n" + multipart("b", "\nHello", PDF),
        multipart("b", "Content-Type: text/plain\nHello", PDF),
        multipart("b", "Content-Type: x; charset=\xff\n\nHello", PDF),
        multipart("b", multipart("b", "\nHello", PDF)),
        multipart("out", multipart("in", "\nHello", end="").removesuffix("--in\n") + PDF.join(["--out\n", ""])),
        multipart("b", "\nHello", PDF, "Content-Type: text/plain; name=(((((\nContent-Transfer-Encoding: \x00\n\n"),
    ],
)
def test_a_text_and_a_file_arrive_whatever_is_wrong_with_their_mail(raw: str) -> None:
    mail = mail_of(raw)
    assert mail.text.strip() == "Hello"
    assert (mail.files[0].name, mail.files[0].content) == ("a.pdf", b"%PDF")


@each_case(
    ("raw", "text"),
    [
        (multipart("b", "\nBefore", PDF, "Content-Type: text/html\n\n<p>After</p>"), "Before\nAfter"),
        (multipart("b", "Content-Type: text/html\n\n<p>Body</p>", "\n_____\na list"), "Body\n_____\na list"),
        (multipart("b", "\nOne", PDF, "\nTwo"), "One\nTwo"),
        (multipart("b", "\nSame text.", "Content-Type: text/html\n\n<p>Same text.</p>"), "Same text."),
        (
            multipart(
                "b", "\nCan't show HTML, use a browser.", "Content-Type: text/html\n\n<p>Hi</p>", kind="alternative"
            ),
            "",
        ),
        (multipart("b", "\nplain", "Content-Type: text/x-amp-html\n\n<html>", kind="alternative"), "plain"),
        ("Content-Type: multipart/mixed; boundary=b\n\nno part at all", "no part at all"),
        ("Content-Type: text/enriched\n\n<bold>Hello</bold>\nthere <<\n\nnew", "Hellothere <\nnew"),
        (
            "Content-Type: text/calendar\n\nBEGIN:VEVENT\nSUMMARY:Visit\\, on\n  site\nDTSTART;TZID=Europe/Berlin:"
            "20261201T100000\nLOCATION:Hall 3\nEND:VEVENT",
            "Visit, on site\n2026-12-01 10:00 Europe/Berlin\nHall 3",
        ),
        ("Content-Type: text/plain\n\nSee\n\nbegin 644 a.txt\n%2&5L;&\\ \n`\nend\nbelow", "See\n\nbelow"),
        ("Content-Type: text/plain\n\nbegin 644 is no file\nend", "begin 644 is no file\nend"),
    ],
)
def test_the_text_is_what_people_read(raw: str, text: str) -> None:
    assert mail_of(raw).text == text


@each_case(
    ("stated", "body", "text"),
    [
        ("text/html", "<meta charset=koi8-r><p>Заказ</p>".encode("koi8-r"), "Заказ"),
        ("text/html; charset=us-ascii", "<meta charset=koi8-r><p>Заказ</p>".encode("koi8-r"), "Заказ"),
        ("text/html", "<meta charset=koi8-r><p>Заказ</p>".encode(), "Заказ"),
        ("text/html; charset=utf-8", "<meta charset=koi8-r><p>Заказ</p>".encode(), "Заказ"),
        ("text/html", "<p>Grüße</p>".encode("cp1252"), "Grüße"),
    ],
)
def test_html_is_read_in_its_charset(stated: str, body: bytes, text: str) -> None:
    assert text in read_mail(b"Content-Type: %s\n\n%s" % (stated.encode(), body)).html


def test_headers_without_a_charset_are_read_in_that_of_the_text() -> None:
    raw = "Subject: Заказ\nContent-Type: text/plain; charset=koi8-r\n\nЗаказ".encode("koi8-r")
    assert dict(read_mail(raw).headers)["Subject"] == "Заказ"


def test_a_text_without_a_charset_is_read_in_that_of_the_subject() -> None:
    raw = b"Subject: =?koi8-r?B?5MHOztk=?=\n\n" + "Заказ".encode("koi8-r")
    assert read_mail(raw).text == "Заказ"


@each_case("kind", ["delivery-status", "disposition-notification", "feedback-report", "rfc822", "global"])
def test_the_parts_of_a_report_are_files_as_they_came(kind: str) -> None:
    content = "Reporting-MTA: dns; mx.example\n\nFinal-Recipient: rfc822; jane@example.com\nStatus: 5.1.1\n"
    headers = "Content-Type: text/rfc822-headers\n\nMessage-ID: <a@b>\n"
    mail = mail_of(multipart("b", "\nSorry", f"Content-Type: message/{kind}\n\n{content}", headers, kind="report"))
    assert mail.text == "Sorry"
    assert [(file.content_type, file.content) for file in mail.files] == [
        (f"message/{kind}", content.replace("\n", "\r\n").encode()),
        ("text/rfc822-headers", b"Message-ID: <a@b>\r\n"),
    ]


def test_a_mail_in_base64_is_a_file_that_is_a_mail() -> None:
    inner = base64.encodebytes(b"Subject: x\n\nHello").decode()
    mail = mail_of(f"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n{inner}")
    assert read_mail(mail.files[0].content).text == "Hello"
