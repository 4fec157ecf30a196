"""Names, copies, reply_to and headers of a mail, as each vendor gets them."""

import base64
import email
import email.policy
import inspect
import json
import re
from dataclasses import replace
from email.message import EmailMessage
from typing import Any

import httpx
import pytest

from app.providers.base import OutboundMessage, PermanentFailure, all_refusals, send_through
from app.providers.email import EmailProvider
from app.providers.http import GenericProvider, HttpSettings
from app.providers.mail.fields import MailFields
from app.providers.mail.mime.mailboxes import mailboxes
from app.providers.mail.outbound import Composer
from app.testing.vendor import Vendor
from tests.cases import each_case
from tests.providers import outbound
from tests.providers.test_mail_vendors_over_http import VENDORS

pytestmark = pytest.mark.anyio

FIELDS = MailFields(
    from_name="Doe, Jané",
    to_name="Ann O'Hara",
    cc=["cc@example.org", "Second@Bücher.example"],
    bcc=["hidden@example.org"],
    reply_to=["desk@example.com", "help@example.com"],
    names={"cc@example.org": 'The "Boss"', "hidden@example.org": "Secret", "desk@example.com": "Desk; front"},
    headers={"X-Campaign": "spring  sale", "X-Ref": "17"},
)


def with_copies(**changes: Any) -> OutboundMessage:
    return outbound("ann@example.net", from_address="jane@example.com", subject="Hi", mail=replace(FIELDS, **changes))


async def asked_of(name: str, message: OutboundMessage) -> Any:
    """The request that a vendor gets, read."""
    server = Vendor(*VENDORS[name].accepts)
    sending = VENDORS[name].provider(server).send(message)
    assert inspect.isawaitable(sending)
    await sending
    content = server.requests[0].content
    return dict(httpx.QueryParams(content.decode())) if name == "mailgun" else json.loads(content)


def parsed(raw: bytes) -> EmailMessage:
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(mail, EmailMessage)
    return mail


def people(content: bytes, name: str) -> list[tuple[str, str]]:
    """The names and addresses in a header, by our reader; the library's puts spaces between encoded words."""
    written = email.message_from_bytes(content)[name]
    assert [each.addr_spec for each in parsed(content)[name].addresses] == [
        each.address for each in mailboxes(written)
    ]
    return [(each.name, each.address) for each in mailboxes(written)]


async def raw(message: OutboundMessage) -> bytes:
    return (await Composer().mail(message)).as_bytes()


async def test_sendgrid_gets_personalizations() -> None:
    asked = await asked_of("sendgrid", with_copies())
    [to_all] = asked["personalizations"]
    assert to_all["to"] == [{"email": "ann@example.net", "name": "Ann O'Hara"}]
    assert to_all["cc"] == [
        {"email": "cc@example.org", "name": 'The "Boss"'},
        {"email": "Second@xn--bcher-kva.example"},
    ]
    assert to_all["bcc"] == [{"email": "hidden@example.org", "name": "Secret"}]
    assert asked["from"] == {"email": "jane@example.com", "name": '"Doe, Jané"'}
    assert asked["reply_to_list"] == [
        {"email": "desk@example.com", "name": '"Desk; front"'},
        {"email": "help@example.com"},
    ]
    assert asked["headers"]["X-Campaign"] == "spring  sale"
    one = await asked_of("sendgrid", with_copies(reply_to=["help@example.com"]))
    assert one["reply_to"] == {"email": "help@example.com"}
    assert "reply_to_list" not in one


async def test_postmark_gets_lists_with_names_in_quotes() -> None:
    asked = await asked_of("postmark", with_copies())
    assert asked["From"] == '"Doe, Jané" <jane@example.com>'
    assert asked["To"] == '"Ann O\'Hara" <ann@example.net>'
    assert asked["Cc"] == '"The \\"Boss\\"" <cc@example.org>, Second@xn--bcher-kva.example'
    assert asked["Bcc"] == '"Secret" <hidden@example.org>'
    assert asked["ReplyTo"] == '"Desk; front" <desk@example.com>, help@example.com'
    assert {"Name": "X-Ref", "Value": "17"} in asked["Headers"]


async def test_mailgun_gets_fields_of_a_form() -> None:
    asked = await asked_of("mailgun", with_copies())
    assert asked["from"] == '"Doe, Jané" <jane@example.com>'
    assert asked["to"] == '"Ann O\'Hara" <ann@example.net>'
    assert asked["cc"] == '"The \\"Boss\\"" <cc@example.org>, Second@xn--bcher-kva.example'
    assert asked["bcc"] == '"Secret" <hidden@example.org>'
    assert asked["h:Reply-To"] == '"Desk; front" <desk@example.com>, help@example.com'
    assert asked["h:X-Campaign"] == "spring  sale"


async def test_ses_gets_the_destination_and_a_raw_mail_without_blind_copies() -> None:
    asked = await asked_of("ses", with_copies())
    assert asked["Destination"] == {
        "ToAddresses": ["ann@example.net"],
        "CcAddresses": ["cc@example.org", "Second@xn--bcher-kva.example"],
        "BccAddresses": ["hidden@example.org"],
    }
    assert asked["FromEmailAddress"] == "jane@example.com"
    content = base64.b64decode(asked["Content"]["Raw"]["Data"])
    assert b"hidden" not in content
    assert b"Secret" not in content
    assert people(content, "cc")[0] == ('The "Boss"', "cc@example.org")


async def test_ses_refuses_local_parts_outside_of_ascii_by_field() -> None:
    provider = VENDORS["ses"].provider(Vendor(*VENDORS["ses"].accepts))
    refused = provider.refusals(with_copies(cc=["jürgen@example.org"], reply_to=["ä@example.org"]))
    assert set(refused) == {"cc", "reply_to"}


async def test_a_raw_mail_has_names_in_ascii_that_programs_read_back() -> None:
    content = await raw(with_copies())
    head = content.partition(b"\r\n\r\n")[0]
    assert head.isascii()
    assert all(len(line) <= 998 for line in head.split(b"\r\n"))
    mail = parsed(content)
    assert people(content, "from") == [("Doe, Jané", "jane@example.com")]
    assert people(content, "to") == [("Ann O'Hara", "ann@example.net")]
    assert people(content, "cc") == [('The "Boss"', "cc@example.org"), ("", "Second@xn--bcher-kva.example")]
    assert people(content, "reply-to") == [("Desk; front", "desk@example.com"), ("", "help@example.com")]
    assert mail["bcc"] is None
    assert b"hidden" not in content
    assert mail["x-campaign"] == "spring  sale"
    assert re.search(rb"\r\n[ \t]*\r\n", head) is None


#: Names that are odd, or that try to begin a header, another address, or an encoded word.
ODD_NAMES = [
    "Jane",
    "Doe, Jane",
    'Jane "JD" Doe',
    "Back\\slash",
    "J. Doe",
    "<x@evil.example>",
    "a@b.example, c",
    "=?utf-8?q?Jane?=",
    "Jané " * 30,
    "田中 太郎",
    "😀",
    "x" * 200,
    "word " * 39 + "end",
    "Jane\r\nBcc: evil@example.net",
    "Jane\nX-Evil: 1",
    "Jane\x00",
    "tab\there",
    "(comment)",
    ":;",
    "Müller; GmbH <sales>",
]


@each_case("name", ODD_NAMES)
async def test_no_name_becomes_a_header_or_another_address(name: str) -> None:
    fields = {"names": {"cc@example.org": name}, "cc": ["cc@example.org"], "bcc": [], "reply_to": [], "headers": {}}
    content = await raw(with_copies(from_name=name, to_name=name, **fields))
    mail = parsed(content)
    shown = re.sub(r"[\x00-\x1f]", " ", name).strip()
    shown = re.sub(r" +", " ", shown)
    expected = {"from": "jane@example.com", "to": "ann@example.net", "cc": "cc@example.org"}
    for header, address in expected.items():
        [(found, mailbox)] = people(content, header)
        assert mailbox == address
        assert re.sub(r" +", " ", found) == shown
    assert set(mail.keys()) <= {
        *("From", "To", "Cc", "Date", "Message-ID", "Subject", "MIME-Version"),
        *("Content-Type", "Content-Transfer-Encoding"),
    }


async def test_a_recipient_gets_one_copy_however_often_it_is_named() -> None:
    mail = await Composer().mail(
        with_copies(
            cc=["ANN@example.net", "cc@example.org", "CC@example.org"], bcc=["cc@example.org", "b@example.org"]
        )
    )
    assert [each.address for each in mail.cc] == ["cc@example.org"]
    assert [each.address for each in mail.bcc] == ["b@example.org"]


async def test_a_provider_that_knows_no_copies_refuses_them_and_does_not_drop_them() -> None:
    vendor = Vendor(httpx.Response(200))
    settings = HttpSettings(_env_file=None, url="https://mail.example/send", channels="email")
    provider = GenericProvider(settings, vendor.client)
    assert set(all_refusals(provider, with_copies())) == {"cc", "bcc", "reply_to", "headers"}
    with pytest.raises(PermanentFailure, match="without copies"):
        await send_through(provider, with_copies())
    assert vendor.requests == []
    assert all_refusals(EmailProvider(), with_copies()) == {}
    # A name is only for show.
    plain = with_copies(cc=[], bcc=[], reply_to=[], headers={})
    assert all_refusals(provider, plain) == {}
