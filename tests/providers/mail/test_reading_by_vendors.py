"""The same reading wherever a mail comes from: raw or parsed, in a form of either kind."""

import json
from urllib.parse import urlencode

import httpx

from app.providers.base import Callback, InboundMessage
from app.providers.mail.formats import mailgun_inbound, postmark_inbound, sendgrid_inbound
from tests.cases import each_case
from tests.providers.mail.mime.test_tnef import BODY, DATA, NEW_FILE, TITLE, winmail

URL = "https://messages.example/api/webhooks/x"
RAW = "From: =?utf-8?Q?J=C3=BC?= <jane@example.com>\r\nSubject: x\r\nContent-Type: text/plain{}\r\n\r\n"


def sendgrid_fields(*files: tuple[str, bytes, str], **fields: str | bytes) -> InboundMessage:
    given = {"envelope": '{"to":["user@example.com"],"from":"bounce@example.com"}', "headers": "From: a@example.com"}
    parts = [(name, (None, value)) for name, value in (given | fields).items()]
    attached = [(f"attachment{number}", file) for number, file in enumerate(files, 1)]
    request = httpx.Request("POST", URL, files=[*parts, *attached])
    callback = Callback("POST", URL, [("content-type", request.headers["content-type"])], request.read())
    [message] = sendgrid_inbound(callback)
    return message


def mailgun_raw(raw: bytes) -> InboundMessage:
    body = urlencode({"recipient": "user@example.com", "sender": "bounce@example.com", "body-mime": raw}).encode()
    [message] = mailgun_inbound(Callback("POST", URL, [("content-type", "application/x-www-form-urlencoded")], body))
    return message


def author(headers: str) -> str:
    return mailgun_raw(f"{headers}\r\n\r\nHello".encode()).from_address


@each_case(
    ("charset", "text"),
    [
        ("windows-1251", "Заказ".encode("cp1251")),
        ("koi8-r", "Заказ".encode("koi8-r")),
        ("ibm866", "Заказ".encode("cp866")),
        ("UTF-8", "Заказ".encode()),
        ("x-mac-cyrillic", "Заказ".encode("mac_cyrillic")),
    ],
)
def test_parsed_and_raw_texts_are_read_in_any_charset(charset: str, text: bytes) -> None:
    assert mailgun_raw(RAW.format(f"; charset={charset}").encode() + text).body == "Заказ"
    assert sendgrid_fields(text=text, charsets=json.dumps({"text": charset})).body == "Заказ"


def test_html_that_a_vendor_parsed_states_its_charset() -> None:
    html = "<meta charset=windows-1251><p>Заказ</p>"
    assert sendgrid_fields(html=html, charsets='{"html":"UTF-8"}').body == "Заказ"
    assert sendgrid_fields(html=html.encode("cp1251")).body == "Заказ"


def test_a_winmail_file_is_unpacked_wherever_it_comes_from() -> None:
    packed = winmail((BODY, b"Words"), (NEW_FILE, b""), (TITLE, b"plan.pdf"), (DATA, b"%PDF"))
    raw = RAW.replace("text/plain{}", "application/ms-tnef; name=winmail.dat").encode() + packed
    for message in (sendgrid_fields(("winmail.dat", packed, "application/ms-tnef")), mailgun_raw(raw)):
        assert message.body == "Words"
        assert [(file.name, file.content) for file in message.files] == [("plan.pdf", b"%PDF")]


@each_case(
    ("headers", "address"),
    [
        ("From: jane@bank.example <mallory@example.com>", "mallory@example.com"),
        ("From: =?utf-8?Q?jane=40bank.example=2C?= <mallory@example.com>", "mallory@example.com"),
        ("From: a@example.com, b@example.com", "a@example.com"),
        ("From: a@example.com, b@example.com\r\nSender: B@example.com", "b@example.com"),
        ("From: jane@bank.example, bounce@example.com", "bounce@example.com"),
        ("From: =?utf-8?Q?Jane_=3Cjane=40bank.example=3E?=", "bounce@example.com"),
        ("From: =?utf-8?Q?Jane?=\r\nSender: list@example.com", "list@example.com"),
        ("From: undisclosed-senders:;", "bounce@example.com"),
        ("Sender: " + "(" * 20_000 + "\r\nFrom: jane@example.com", "jane@example.com"),
    ],
)
def test_who_wrote_it_is_read_from_the_structure(headers: str, address: str) -> None:
    assert author(headers) == address


def test_recipients_are_read_from_the_structure() -> None:
    to = '"Roe, a@b" <one@example.com>, =?utf-8?Q?x=40example.com=2C?= <two@example.com>'
    body = json.dumps({"From": "jane@example.com", "To": to, "Headers": []}).encode()
    messages = postmark_inbound(Callback("POST", URL, [], body))
    assert [message.to_address for message in messages] == ["one@example.com", "two@example.com"]
