"""Names, copies and several recipients of a mail, over the API: what is taken, shown, left out, and erased."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.consent import ReportedConsent
from app.db.models import Base
from app.details import Automatic, MessageDetails
from app.domain import MessageStatus
from app.providers.base import BaseProvider, InboundMessage, MailReport, OutboundMessage, ProviderResult, Receipt
from app.providers.registry import provider_registry
from tests.cases import each_case
from tests.factories import CONTACT_EMAIL, CUSTOMER_EMAIL, email, until
from tests.wire import locations_of, problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]


class Carrier(BaseProvider):
    """Takes every mail, and keeps it; refuses copies as it is told."""

    channels = {"email": "email"}  # noqa: RUF012
    takes_mail_fields = True

    def __init__(self) -> None:
        self.sent: list[OutboundMessage] = []
        self.refused: list[str] = []

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        self.sent.append(payload)
        return ProviderResult(f"carrier-{payload.message_id}", self.refused)


@pytest.fixture
def carrier(monkeypatch: pytest.MonkeyPatch) -> Carrier:
    carrier = Carrier()
    monkeypatch.setitem(provider_registry, "carrier", carrier)
    return carrier


@pytest.fixture
async def mailing(serve: Serve, settings: Settings, carrier: Carrier) -> httpx.AsyncClient:
    """A client of an application whose mails the carrier takes."""
    return await serve(settings.model_copy(update={"routes": {"email": ["carrier"]}, "worker_poll_seconds": 0.05}))


async def send(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    answer = await client.post("/api/messages/email", json=email(**changes))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def message(client: httpx.AsyncClient, sent: dict[str, Any]) -> dict[str, Any]:
    return dict((await client.get(f"/api/messages/{sent['message_id']}")).json())


async def left(client: httpx.AsyncClient, sent: dict[str, Any]) -> dict[str, Any]:
    """A message once it has left, or ended."""
    return await until(
        lambda: message(client, sent), lambda found: found["status"] not in {"queued", "sending"}, seconds=15
    )


async def test_what_a_mail_has_is_handed_over_and_shown(mailing: httpx.AsyncClient, carrier: Carrier) -> None:
    sent = await send(
        mailing,
        from_='"Doe, Jane" <user@example.com>',
        to="Änn <Contact@example.com>",
        cc=["Boss <boss@example.org>", "BOSS@example.org", "contact@example.com"],
        bcc=["hidden@example.org", "boss@example.org"],
        reply_to="Desk <desk@example.com>",
        headers={"X-Campaign": "spring"},
    )
    shown = await left(mailing, sent)
    expected = {
        "from": "user@example.com",
        "from_name": "Doe, Jane",
        "to": "Contact@example.com",
        "to_name": "Änn",
        "cc": ["boss@example.org"],
        "bcc": ["hidden@example.org"],
        "reply_to": ["desk@example.com"],
        "names": {"boss@example.org": "Boss", "desk@example.com": "Desk"},
        "headers": {"X-Campaign": "spring"},
        "status": "sent",
    }
    assert {name: shown[name] for name in expected} == expected
    [listed] = (await mailing.get("/api/messages")).json()
    [event] = (await mailing.get("/api/events", params={"types": "message.sent"})).json()["events"]
    assert {name: listed[name] for name in expected} == expected
    assert {name: event["data"]["message"][name] for name in expected} == expected
    [payload] = carrier.sent
    assert (payload.mail.from_name, payload.mail.to_name) == ("Doe, Jane", "Änn")
    assert (list(payload.mail.cc), list(payload.mail.bcc)) == (["boss@example.org"], ["hidden@example.org"])


#: Fields that a mail can't have, and where the fault is.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"cc": "boss@example.org"}, "body.cc"),
    ({"cc": ["not an address"]}, "body.cc.0"),
    ({"cc": ["a@example.org", 5]}, "body.cc.1"),
    ({"bcc": ["a@example.org\r\nBcc: b@example.org"]}, "body.bcc.0"),
    ({"cc": [f"a{number}@example.org" for number in range(51)]}, "body.cc"),
    ({"cc": [f"a{n}@example.org" for n in range(25)], "bcc": [f"b{n}@example.org" for n in range(25)]}, "body"),
    ({"cc": ["a@example.org"], "topic": "offers"}, "body"),
    ({"cc": ["a@example.org"], "to": ["b@example.org", "c@example.org"]}, "body"),
    ({"reply_to": "no address"}, "body.reply_to.0"),
    ({"reply_to": ["a@example.org\nX-Evil: 1"]}, "body.reply_to.0"),
    ({"to": []}, "body.to"),
    ({"to": [f"a{number}@example.org" for number in range(51)]}, "body.to"),
    ({"to": ["a@example.org", "nonsense"]}, "body.to"),
    ({"to": {"address": "a@example.org"}}, "body.to"),
    ({"headers": {"Subject": "x"}}, "body.headers"),
    ({"headers": {"References": "<x@y>"}}, "body.headers"),
    ({"headers": {"Bcc": "x@example.org"}}, "body.headers"),
    ({"headers": {"X-": "x"}}, "body.headers"),
    ({"headers": {"X-A:": "x"}}, "body.headers"),
    ({"headers": {"X-A\r\nBcc": "x"}}, "body.headers"),
    ({"headers": {"X-A": "x\r\nBcc: y@example.org"}}, "body.headers"),
    ({"headers": {"X-A": "x\ny"}}, "body.headers"),
    ({"headers": {"X-A": "é"}}, "body.headers"),
    ({"headers": {"X-A": ""}}, "body.headers"),
    ({"headers": {"X-A": " x"}}, "body.headers"),
    ({"headers": {"X-A": "x" * 501}}, "body.headers"),
    ({"headers": {"X-A": "x", "x-a": "y"}}, "body.headers"),
    ({"headers": {"X-SMTPAPI": '{"to":["x@example.org"]}'}}, "body.headers"),
    ({"headers": {"x-ses-configuration-set": "x"}}, "body.headers"),
    ({"headers": {"X-PM-KeepID": "false"}}, "body.headers"),
    ({"headers": {"X-Mailgun-Recipient-Variables": "{}"}}, "body.headers"),
    ({"headers": {f"X-{number}": "x" for number in range(21)}}, "body.headers"),
    ({"headers": ["X-A"]}, "body.headers"),
]


@each_case(("changes", "location"), REFUSED)
async def test_fields_that_a_mail_can_not_have_are_refused(
    untouched: httpx.AsyncClient, changes: dict[str, Any], location: str
) -> None:
    assert locations_of(await untouched.post("/api/messages/email", json=email(**changes))) == [location]


async def refuse(client: httpx.AsyncClient, address: str) -> None:
    assert (await client.post("/api/suppressions", json={"address": address})).status_code == 201


async def test_a_copy_that_is_refused_is_left_out_and_the_mail_goes_to_the_others(
    mailing: httpx.AsyncClient, carrier: Carrier
) -> None:
    await refuse(mailing, "no@example.org")
    await refuse(mailing, "never@example.org")
    sent = await send(mailing, cc=["No@example.org", "yes@example.org"], bcc=["never@example.org", "b@example.org"])
    shown = await left(mailing, sent)
    assert (shown["status"], shown["left_out"]) == ("sent", ["No@example.org", "never@example.org"])
    [payload] = carrier.sent
    assert (list(payload.mail.cc), list(payload.mail.bcc)) == (["yes@example.org"], ["b@example.org"])
    steps = (await mailing.get(f"/api/messages/{sent['message_id']}/timeline")).json()
    told = [step["sentence"] for step in steps if step["kind"] == "copy_left_out"]
    assert len(told) == 2
    assert all(sentence.startswith("A copy was left out: the recipient is on the list") for sentence in told)


async def test_a_refusal_of_the_recipient_stops_the_mail_with_its_copies(
    mailing: httpx.AsyncClient, carrier: Carrier
) -> None:
    await refuse(mailing, CONTACT_EMAIL)
    sent = await send(mailing, cc=["yes@example.org"])
    assert (await left(mailing, sent))["status"] == "suppressed"
    assert carrier.sent == []


async def test_an_erased_person_who_refused_gets_no_copy(mailing: httpx.AsyncClient, carrier: Carrier) -> None:
    await left(mailing, await send(mailing, to="no@example.org"))
    await refuse(mailing, "no@example.org")
    [contact] = (await mailing.get("/api/contacts", params={"address": "no@example.org"})).json()
    assert (await mailing.delete(f"/api/contacts/{contact['id']}")).status_code == 200
    shown = await left(mailing, await send(mailing, cc=["no@example.org"]))
    assert shown["left_out"] == ["no@example.org"]
    assert list(carrier.sent[-1].mail.cc) == []


async def test_a_copy_that_the_server_refuses_is_shown(mailing: httpx.AsyncClient, carrier: Carrier) -> None:
    carrier.refused = ["bad@example.org"]
    await refuse(mailing, "no@example.org")
    sent = await send(mailing, cc=["bad@example.org", "good@example.org", "no@example.org"])
    shown = await left(mailing, sent)
    assert (shown["status"], shown["left_out"]) == ("sent", ["bad@example.org", "no@example.org"])
    steps = (await mailing.get(f"/api/messages/{sent['message_id']}/timeline")).json()
    assert [step["sentence"] for step in steps if "the mail server refuses" in step["sentence"]] != []


@pytest.fixture
def told(mailing: httpx.AsyncClient) -> Callable[..., Awaitable[None]]:
    """Has the carrier report about a message."""
    app: Any = mailing._transport.app  # type: ignore[attr-defined]

    async def tell(sent: dict[str, Any], status: MessageStatus | None, recipient: str, **facts: Any) -> None:
        number = len(rows_of(app.state.settings.database_url.get_secret_value(), "SELECT id FROM provider_events"))
        receipt = Receipt(f"event-{number}", status, f"carrier-{sent['message_id']}", recipient=recipient)
        receipt = replace(receipt, raw={"to": recipient}, **facts)
        await app.state.services.callback_items.accept("carrier", receipt)

    return tell


async def test_a_receipt_of_a_copy_says_nothing_of_the_mail(
    mailing: httpx.AsyncClient, told: Callable[..., Awaitable[None]]
) -> None:
    sent = await send(mailing, cc=["Copy@example.org"])
    await left(mailing, sent)
    bounced = {"consent": ReportedConsent.HARD_BOUNCE, "detail": "550 5.1.1 no such user"}
    await told(sent, MessageStatus.UNDELIVERED, "copy@EXAMPLE.org", **bounced)
    assert (await message(mailing, sent))["status"] == "sent"
    await told(sent, MessageStatus.DELIVERED, "copy@example.org")
    assert (await message(mailing, sent))["status"] == "sent"
    # The bounce is that of the copy's address.
    refusals = (await mailing.get("/api/suppressions")).json()
    assert [(each["address"], each["source"]) for each in refusals] == [("copy@example.org", "hard_bounce")]
    await told(sent, MessageStatus.DELIVERED, f"Contact <{CONTACT_EMAIL.upper()}>")
    assert (await message(mailing, sent))["status"] == "delivered"
    steps = (await mailing.get(f"/api/messages/{sent['message_id']}/timeline")).json()
    assert sum("of the copy to copy@example.org," in step["sentence"] for step in steps) == 2
    assert (await left(mailing, await send(mailing, cc=["copy@example.org"])))["left_out"] == ["copy@example.org"]


async def test_a_report_by_mail_about_a_copy_says_nothing_of_the_mail(mailing: httpx.AsyncClient) -> None:
    sent = await send(mailing, cc=["copy@example.org"])
    await left(mailing, sent)
    report = MailReport(
        Automatic.BOUNCE,
        "report-1",
        [f"carrier-{sent['message_id']}"],
        ["Copy@example.org"],
        MessageStatus.UNDELIVERED,
        "550 5.1.1 no such user",
        ReportedConsent.HARD_BOUNCE,
    )
    came = InboundMessage("in-1", "email", "email", "mailer@example.org", CUSTOMER_EMAIL, "Sorry", report=report)
    app: Any = mailing._transport.app  # type: ignore[attr-defined]
    await app.state.services.callback_items.accept("email", came)
    assert (await message(mailing, sent))["status"] == "sent"
    assert [each["address"] for each in (await mailing.get("/api/suppressions")).json()] == ["copy@example.org"]


async def test_copies_count_against_the_daily_cap(serve: Serve, settings: Settings, carrier: Carrier) -> None:
    client = await serve(settings.model_copy(update={"routes": {"email": ["carrier"]}, "daily_caps": {"email": 4}}))
    problem_of(await client.post("/api/messages/email", json=email(cc=[f"a{n}@example.org" for n in range(4)])), 429)
    problem_of(await client.post("/api/messages/email", json=email(to=[f"a{n}@example.org" for n in range(5)])), 429)
    assert (await client.get("/api/messages")).json() == []
    await send(client, cc=["a@example.org", "b@example.org", "c@example.org"])
    problem_of(await client.post("/api/messages/email", json=email()), 429)


async def test_several_recipients_get_a_mail_each(mailing: httpx.AsyncClient, carrier: Carrier) -> None:
    to = ["Ann <ann@example.org>", "bo@example.org", "BO@example.org", "cy@example.org"]
    answer = await send(mailing, to=to, topic="offers", metadata={"run": "1"})
    assert [each["to"] for each in answer["messages"]] == ["ann@example.org", "bo@example.org", "cy@example.org"]
    assert answer["messages"][0]["message_id"] == answer["message_id"]
    assert len({each["conversation_id"] for each in answer["messages"]}) == 3
    found = [await left(mailing, each) for each in answer["messages"]]
    first = int(answer["message_id"])
    assert [each.get("sent_with") for each in found] == [None, first, first]
    assert [each.get("to_name") for each in found] == ["Ann", None, None]
    assert all(each["metadata"] == {"run": "1"} for each in found)
    assert sorted(each.to_address for each in carrier.sent) == ["ann@example.org", "bo@example.org", "cy@example.org"]
    assert not any(each.mail.copies for each in carrier.sent)
    one = await send(mailing, to=["dee@example.org"])
    assert [each["to"] for each in one["messages"]] == ["dee@example.org"]
    assert "messages" not in await send(mailing)


async def test_a_repeat_completes_what_was_cut_off(mailing: httpx.AsyncClient, database_url: str) -> None:
    body, key = email(to=["a@example.org", "b@example.org", "c@example.org"]), {"Idempotency-Key": "run-1"}
    first = await mailing.post("/api/messages/email", json=body, headers=key)
    again = await mailing.post("/api/messages/email", json=body, headers=key)
    assert first.json() == again.json()
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    problem_of(await mailing.post("/api/messages/email", json=email(to=["a@example.org"]), headers=key), 422)
    # As if the service had died after the first of them.
    [gone, *_] = first.json()["messages"][1:]
    [contact] = (await mailing.get("/api/contacts", params={"address": gone["to"]})).json()
    assert (await mailing.delete(f"/api/contacts/{contact['id']}")).status_code == 200
    third = await mailing.post("/api/messages/email", json=body, headers=key)
    ids = [each["message_id"] for each in third.json()["messages"]]
    assert ids[0] == first.json()["message_id"]
    assert ids[1] != gone["message_id"]
    assert "idempotent-replayed" not in third.headers
    assert rows_of(database_url, "SELECT count(*) FROM messages") == [(3,)]


async def test_a_recipient_who_is_refused_stops_none_of_the_others(
    mailing: httpx.AsyncClient, carrier: Carrier
) -> None:
    await refuse(mailing, "no@example.org")
    answer = await send(mailing, to=["no@example.org", "yes@example.org"])
    statuses = [(await left(mailing, each))["status"] for each in answer["messages"]]
    assert statuses == ["suppressed", "sent"]
    assert [each.to_address for each in carrier.sent] == ["yes@example.org"]


def everything(url: str) -> list[tuple[str, str]]:
    """The name of each table, and all that it holds."""
    tables = [table.name for table in Base.metadata.sorted_tables]
    question = " UNION ALL ".join(f"SELECT '{name}', lower(to_jsonb(t)::text) FROM {name} t" for name in tables)
    return [(name, content) for name, content in rows_of(url, question)]


async def test_an_erased_person_is_gone_from_the_mails_of_others(
    mailing: httpx.AsyncClient, told: Callable[..., Awaitable[None]], database_url: str
) -> None:
    mark = "Mark.Lastname@example.org"
    await left(mailing, await send(mailing, to=mark))
    others = [
        await send(mailing, to="ann@example.org", cc=[f"Quixote <{mark}>", "bo@example.org"]),
        await send(mailing, to="bo@example.org", bcc=[mark.lower()], reply_to=[f"Quixote <{mark.upper()}>"]),
    ]
    await refuse(mailing, mark)
    others.append(await send(mailing, to="cy@example.org", cc=[mark], headers={"X-A": "1"}))
    for each in others:
        await left(mailing, each)
    await told(others[0], MessageStatus.DELIVERED, mark)
    await told(others[0], MessageStatus.DELIVERED, "bo@example.org", detail="fine")
    [contact] = (await mailing.get("/api/contacts", params={"address": mark})).json()
    export = (await mailing.get(f"/api/contacts/{contact['id']}/export")).json()
    assert export["named_in"] == [int(each["message_id"]) for each in others]
    erased = (await mailing.delete(f"/api/contacts/{contact['id']}")).json()
    assert erased["named_in"] == 3
    found = [
        table for table, content in everything(database_url) if "mark.lastname" in content or "quixote" in content
    ]
    assert found == []
    first, second, third = [await message(mailing, each) for each in others]
    assert first["cc"] == ["bo@example.org"]
    assert not {"bcc", "reply_to", "names", "left_out"} & {*first, *second, *third} - {"cc"}
    assert third["headers"] == {"X-A": "1"}
    steps = (await mailing.get(f"/api/messages/{others[0]['message_id']}/timeline")).json()
    assert any("fine" in step["sentence"] for step in steps)


async def test_an_erased_person_is_gone_from_mails_that_came_in(client: httpx.AsyncClient, database_url: str) -> None:
    await send(client, to="mark@bücher.example")
    app: Any = client._transport.app  # type: ignore[attr-defined]
    details = MessageDetails(cc=["MARK@xn--bcher-kva.example", "Bo@example.org"], reply_to=["Mark@Bücher.example"])
    came = InboundMessage("in-1", "email", "email", "ann@example.org", CUSTOMER_EMAIL, "Hi", details=details)
    await app.state.services.callback_items.accept("email", came)
    [contact] = (await client.get("/api/contacts", params={"address": "mark@bücher.example"})).json()
    assert (await client.delete(f"/api/contacts/{contact['id']}")).json()["named_in"] == 1
    [left_over] = (await client.get("/api/messages")).json()
    assert left_over["cc"] == ["Bo@example.org"]
    assert "reply_to" not in left_over
    assert [table for table, content in everything(database_url) if "mark" in content] == []
