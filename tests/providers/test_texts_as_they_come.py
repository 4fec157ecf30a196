"""Texts as vendors really write them: subjects, RCS, groups, older formats, parts, and fields of another type."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import telnyx

from app.consent import ReportedConsent
from app.domain import Keyword, MessageStatus
from app.providers.base import BaseProvider, Callback, InboundMessage, PermanentFailure, Receipt, Unread, send_through
from app.providers.http import GenericProvider, HttpSettings
from app.providers.plivo import PlivoProvider, PlivoSettings
from app.providers.telnyx import TelnyxProvider, TelnyxSettings
from app.providers.twilio import TwilioProvider, TwilioSettings
from app.providers.vonage import VonageProvider, VonageSettings
from app.testing.vendor import Vendor
from tests.cases import each_case
from tests.providers import outbound
from tests.providers.vendors import form

pytestmark = pytest.mark.anyio

OURS, JANE, MAX, ANN = "+12016661234", "+18045551234", "+18045557777", "+13125550101"
GROUP = f"group:{JANE},{MAX}"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HTTP: dict[str, Any] = {
    "url": "https://sms.example/send",
    "inbound_id_path": "message.id",
    "inbound_from_path": "message.from",
    "inbound_to_path": "message.to",
    "inbound_body_path": "message.text",
    "receipt_id_path": "message.id",
    "receipt_status_path": "state",
}


def read(provider: BaseProvider, body: bytes) -> Any:
    """The one item of a callback."""
    parsed = provider.parse(Callback("POST", "https://messages.example/api/webhooks/x", [], body))
    assert isinstance(parsed, Sequence)
    [item] = parsed
    return item


def twilio(**fields: str) -> Any:
    given = {"MessageSid": "SM1", "From": JANE, "To": OURS, "Body": "Hi", **fields}
    return read(TwilioProvider(TwilioSettings(_env_file=None)), form(given.items()))


def plivo(**fields: str) -> Any:
    given = {"MessageUUID": "1", "From": JANE[1:], "To": OURS[1:], "Text": "Hi", **fields}
    return read(PlivoProvider(PlivoSettings(_env_file=None)), form(given.items()))


def telnyx_(changes: dict[str, Any], event: str = "message.received", **more: Any) -> Any:
    message = {"id": "1", "type": "MMS", "from": {"phone_number": JANE}, "to": [{"phone_number": OURS}], "text": "Hi"}
    event_ = {"id": "ev", "event_type": event, "occurred_at": "2026-03-01T12:00:00Z", **more}
    document = {"data": event_ | {"payload": message | changes}}
    return read(TelnyxProvider(TelnyxSettings(_env_file=None)), json.dumps(document).encode())


def vonage(changes: dict[str, Any]) -> Any:
    message = {"message_uuid": "1", "channel": "mms", "from": JANE[1:], "to": OURS[1:], "text": "Hi"}
    return read(VonageProvider(VonageSettings(_env_file=None)), json.dumps(message | changes).encode())


def http(event: Mapping[str, Any]) -> Any:
    return read(GenericProvider(HttpSettings(_env_file=None, **HTTP)), json.dumps(event).encode())


@each_case(
    "message, words",
    [
        (telnyx_({"subject": "Gate 7"}), "Gate 7\nHi"),
        (telnyx_({"subject": "Gate 7", "text": None}), "Gate 7"),
        (telnyx_({"subject": "Gate 7", "text": "", "media": [{"url": "https://x.example/1"}]}), "Gate 7"),
        (telnyx_({"subject": "NoSubject"}), "Hi"),
        (vonage({"subject": "Gate 7", "text": ""}), "Gate 7"),
        (vonage({"mms": {"subject": "Gate 7"}, "text": None}), "Gate 7"),
        (
            vonage({"text": "", "image": {"url": "https://x.example/1", "caption": "Look"}, "subject": "Me"}),
            "Me\nLook",
        ),
        (vonage({"text": None, "content": [{"type": "text", "text": "a"}, {"url": "u", "caption": "b"}]}), "a\nb"),
        (twilio(Subject="Gate 7", Body=""), "Gate 7"),
        (twilio(Subject="Gate 7"), "Gate 7\nHi"),
        (plivo(Subject="Gate 7", Text="", Body="in the MMS", Type="mms"), "Gate 7\nin the MMS"),
    ],
)
def test_words_outside_of_the_text_are_read(message: InboundMessage, words: str) -> None:
    assert message.body == words


@each_case(
    "message, words, ours",
    [
        (twilio(From=f"rcs:{JANE}", To="rcs:brand_a1_agent"), "Hi", "rcs:brand_a1_agent"),
        (twilio(From=f"rcs:{JANE}", To=f"rcs:{OURS}", MediaUrl0="https://x.example/1"), "Hi", OURS),
        (twilio(From=f"rcs:{JANE}", To=OURS, Body="", ButtonText="Yes", ButtonPayload="y"), "Yes", OURS),
        (
            twilio(From=f"rcs:{JANE}", To=OURS, Body="", Latitude="48.2", Longitude="16.4", Label="Café"),
            "Café\n48.2, 16.4",
            OURS,
        ),
        (vonage({"channel": "rcs", "to": "Brand"}), "Hi", "Brand"),
        (vonage({"channel": "rcs", "from": f"rcs:{JANE}", "text": None, "reply": {"title": "Yes"}}), "Yes", OURS),
        (vonage({"channel": "rcs", "text": None, "button": {"text": "Pay", "payload": "p"}}), "Pay", OURS),
        (vonage({"channel": "rcs", "text": None, "button": {"payload": "p"}}), "p", OURS),
        (vonage({"channel": "rcs", "text": None, "reply": {"id": "yes-1"}}), "yes-1", OURS),
        (telnyx_({"type": "RCS", "text": None, "body": "as it is"}), "as it is", OURS),
        (vonage({"channel": "rcs", "text": None, "location": {"lat": 48.2, "long": 16.4}}), "48.2, 16.4", OURS),
        (telnyx_({"type": "RCS", "text": None, "body": {"text": "Hi"}, "to": [{"agent_id": "a1"}]}), "Hi", "rcs:a1"),
        (telnyx_({"type": "RCS", "text": None, "body": {"suggestion_response": {"text": "Yes"}}}), "Yes", OURS),
        (telnyx_({"type": "RCS", "from": {"phone_number": f"rcs:{JANE}"}}), "Hi", OURS),
        (
            telnyx_({"type": "RCS", "text": None, "body": {"location": {"latitude": 1.5, "longitude": 2.5}}}),
            "1.5, 2.5",
            OURS,
        ),
    ],
)
def test_what_comes_by_rcs_is_of_the_number(message: InboundMessage, words: str, ours: str) -> None:
    assert (message.type, message.channel) == ("rcs", "sms")
    assert (message.from_address, message.to_address, message.body) == (JANE, ours, words)


@each_case(
    ("fields", "kind"),
    [
        ({"SmsSid": "SM2"}, InboundMessage),
        ({"SmsMessageSid": "SM2", "SmsStatus": "received"}, InboundMessage),
        ({"MessageSid": "SM2", "MessageStatus": "received", "SmsStatus": "received"}, InboundMessage),
        ({"MessageSid": "SM2", "SmsStatus": "receiving"}, InboundMessage),
        ({"SmsSid": "SM2", "SmsStatus": "delivered"}, Receipt),
        ({"MessageSid": "SM2", "SmsSid": "SM2", "MessageStatus": "sent", "SmsStatus": "sent"}, Receipt),
    ],
)
def test_twilio_s_older_names_are_read(fields: dict[str, str], kind: type) -> None:
    given = {"From": JANE, "To": OURS, **fields}
    item = read(TwilioProvider(TwilioSettings(_env_file=None)), form(given.items()))
    assert (type(item), item.provider_message_id) == (kind, "SM2")


def test_a_file_that_came_by_rcs_is_an_attachment() -> None:
    body = {"user_file": {"payload": {"file_uri": "https://x.example/1.png", "mime_type": "image/png"}}}
    assert telnyx_({"type": "RCS", "text": None, "body": body}).attachments == ["https://x.example/1.png"]


def parties(*numbers: str, **more: str) -> list[dict[str, str]]:
    return [{"phone_number": number, **more} for number in numbers]


@each_case(
    "message, conversation",
    [
        (telnyx_({"to": parties(OURS), "cc": parties(MAX)}), GROUP),
        (telnyx_({"to": parties(MAX, OURS), "cc": parties(MAX)}), GROUP),
        (telnyx_({"to": parties(MAX) + parties(OURS, status="webhook_delivered"), "cc": []}), GROUP),
        (telnyx_({"to": [OURS, MAX], "cc": [MAX]}), GROUP),
        (telnyx_({"from": {"phone_number": MAX}, "to": parties(OURS), "cc": parties(JANE, OURS)}), GROUP),
        (telnyx_({"to": parties(OURS), "cc": parties(ANN, MAX)}), f"group:{ANN},{JANE},{MAX}"),
        (telnyx_({"to": parties(OURS), "cc": None}), JANE),
        (telnyx_({"to": parties(OURS), "cc": parties(OURS)}), JANE),
        (twilio(OtherRecipients0=MAX), GROUP),
        (twilio(OtherRecipients0=OURS, OtherRecipients3=MAX), GROUP),
        (twilio(OtherRecipients0=""), JANE),
        (vonage({"mms": {"participants": [MAX[1:]]}}), GROUP),
        (vonage({"mms": {"participants": [MAX[1:], OURS[1:], JANE[1:]]}}), GROUP),
        (vonage({"mms": {"participants": []}}), JANE),
    ],
)
def test_a_group_is_never_stored_with_one_person(message: InboundMessage, conversation: str) -> None:
    assert (message.from_address, message.to_address, message.body) == (conversation, OURS, "Hi")
    author = message.details.author
    assert author in conversation.split(":")[1].split(",") if conversation.startswith("group:") else author is None


async def test_a_group_is_answered_as_telnyx_s_own_library_asks() -> None:
    accepted = httpx.Response(200, json={"data": {"id": "40385f64"}})
    vendor = Vendor(accepted)
    provider = TelnyxProvider(TelnyxSettings(_env_file=None, api_key="KEY"), vendor.client)
    message = outbound(GROUP, body="All", attachments=["https://x.example/1.png"], key="1-17-5")
    result = await send_through(provider, message)
    assert result.provider_message_id == "40385f64"
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json=accepted.json())

    with (
        httpx.Client(transport=httpx.MockTransport(answer)) as client,
        telnyx.Telnyx(api_key="KEY", http_client=client) as library,
    ):
        library.messages.send_group_mms(
            from_=OURS, to=[JANE, MAX], text="All", media_urls=["https://x.example/1.png"]
        )
    assert vendor.request.url == asked[0].url
    assert json.loads(vendor.request.content) == json.loads(asked[0].content)


@each_case(
    "provider, group",
    [
        *(
            (provider, GROUP)
            for provider in (
                TwilioProvider(TwilioSettings(_env_file=None)),
                PlivoProvider(PlivoSettings(_env_file=None)),
                VonageProvider(VonageSettings(_env_file=None)),
                GenericProvider(HttpSettings(_env_file=None, **HTTP)),
            )
        ),
        *(
            (TelnyxProvider(TelnyxSettings(_env_file=None)), group)
            for group in (
                f"group:{MAX},{JANE}",
                f"group:sha256-{'0' * 64}",
                "group:" + ",".join(f"+1804555000{number}" for number in range(9)),
                f"group:{JANE},max@example.com",
            )
        ),
    ],
)
async def test_a_group_that_a_vendor_can_t_write_to_is_refused(provider: BaseProvider, group: str) -> None:
    assert list(provider.refusals(outbound(group))) == ["to"]
    with pytest.raises(PermanentFailure, match="group"):
        await send_through(provider, outbound(group))


V01: dict[str, Any] = {
    "message_uuid": "1",
    "channel": None,
    "from": {"type": "sms", "number": JANE[1:]},
    "to": {"type": "sms", "number": OURS[1:]},
    "text": None,
    "timestamp": "2026-03-01T12:00:00.000Z",
}


@each_case(
    "changes, kind, words, media",
    [
        ({"message": {"content": {"type": "text", "text": "Hi"}}}, "sms", "Hi", []),
        (
            {
                "from": {"type": "mms", "number": JANE[1:]},
                "to": {"type": "mms", "number": OURS[1:]},
                "message": {"content": {"type": "image", "image": {"url": "https://x.example/1", "caption": "Me"}}},
            },
            "mms",
            "Me",
            ["https://x.example/1"],
        ),
        ({"message": {"content": {"type": "file", "file": {"url": "u"}}}}, "sms", "", ["u"]),
        ({"from": {"number": int(JANE[1:])}, "message": {"content": {"text": "Hi"}}}, "sms", "Hi", []),
        ({"from": {"type": "sms", "id": JANE[1:]}, "message": {"content": {"text": "Hi"}}}, "sms", "Hi", []),
        ({"from": {"type": None, "number": JANE[1:]}, "message": {"content": {"text": "Hi"}}}, "sms", "Hi", []),
        ({"from": {"number": JANE[1:]}, "message": {"content": {"text": "Hi"}}}, "sms", "Hi", []),
        ({"message": {"content": None}}, "sms", "", []),
    ],
)
def test_vonage_s_older_format_is_read(changes: dict[str, Any], kind: str, words: str, media: list[str]) -> None:
    message = vonage(V01 | changes)
    assert (message.type, message.from_address, message.to_address) == (kind, JANE, OURS)
    assert (message.body, message.attachments, message.sent_at) == (words, media, NOON)


@each_case(
    "word, error, status, detail",
    [
        ("delivered", None, MessageStatus.DELIVERED, None),
        ("rejected", {"code": 1300, "reason": "Not part of the network"}, MessageStatus.FAILED, "1300 Not part of"),
        ("undeliverable", {"code": "1260"}, MessageStatus.UNDELIVERED, "1260"),
        ("undeliverable", "no object", MessageStatus.UNDELIVERED, None),
        ("read", None, MessageStatus.READ, None),
    ],
)
def test_a_receipt_in_vonage_s_older_format_is_read(
    word: str, error: object, status: MessageStatus, detail: str | None
) -> None:
    receipt = vonage(V01 | {"status": word, "error": error, "client_ref": "1-17-5"})
    assert (receipt.status, receipt.idempotency_key, receipt.recipient) == (status, "1-17-5", OURS)
    assert (receipt.detail or "").startswith(detail or "")
    assert receipt.raw["to"] == V01["to"]


def outcome(*words: str, **more: Any) -> Receipt:
    to = [{"phone_number": number, "status": word} for number, word in zip((JANE, MAX, ANN), words, strict=False)]
    receipt: Receipt = telnyx_({"direction": "outbound", "to": to, **more}, "message.finalized")
    return receipt


@each_case("direction", [None, "", 7, [], "outbound"])
@each_case("event", ["message.sent", "message.finalized"])
def test_an_event_of_a_sent_message_needs_no_direction_at_telnyx(direction: object, event: str) -> None:
    receipt: Receipt = telnyx_({"direction": direction, "to": parties(JANE, status="delivered")}, event)
    assert (receipt.status, receipt.recipient) == (MessageStatus.DELIVERED, JANE)


@each_case(
    "receipt, status, detail",
    [
        (twilio(MessageStatus="partially_delivered"), "undelivered", "In part: "),
        (twilio(MessageStatus="partially_delivered", ErrorCode="30008"), "undelivered", "In part: "),
        (plivo(Status="undelivered", PartInfo="1 of 2"), "undelivered", "In part: part 1 of 2 undelivered"),
        (plivo(Status="failed", ParentMessageUUID="0", ErrorCode="300"), "undelivered", "In part: "),
        (plivo(Status="rejected", PartInfo="3 of 3"), "undelivered", "In part: part 3 of 3 rejected"),
        (plivo(Status="failed", PartInfo="1 of 1", ParentMessageUUID="1"), "failed", None),
        (plivo(Status="delivered", PartInfo="2 of 2", ParentMessageUUID="0"), "sent", "part 2 of 2: delivered"),
        (vonage({"status": "undeliverable", "sms": {"count_total": "3"}}), "undelivered", "In part: "),
        (vonage({"status": "undeliverable", "sms": {"count_total": "1"}}), "undelivered", None),
        (vonage({"status": "rejected", "sms": {"count_total": 3}}), "failed", None),
        (outcome("delivered", "delivery_failed", "delivered"), "undelivered", "In part: 1 of 3"),
        (outcome("sending_failed", "sent"), "undelivered", "In part: 1 of 2"),
        (outcome("delivery_failed", "delivery_failed"), "undelivered", None),
        (outcome("delivered", "sent"), "sent", None),
        (outcome("delivered", "unknown"), None, None),
        (outcome("delivered", "delivered"), "delivered", None),
    ],
)
def test_a_part_that_did_not_arrive_is_told(receipt: Receipt, status: str | None, detail: str | None) -> None:
    assert receipt.status == status
    assert (receipt.detail or "").startswith(detail or "")
    assert detail or not receipt.detail


@each_case(
    "message",
    [
        telnyx_({"media": None, "cc": "x", "received_at": "2026-03-01 12:00:00", "subject": 0.5, "type": 7}),
        telnyx_({"id": 1, "media": [{"url": None}, None, "x"], "received_at": 1772366400, "body": []}),
        telnyx_({"from": JANE, "to": OURS, "received_at": "1772366400000", "errors": "none"}),
        telnyx_({"from": {"phone_number": 18045551234, "carrier": 5}, "received_at": [], "parts": "x"}),
        vonage({"message_uuid": 1, "timestamp": "2026-03-01 12:00:00 +0000", "sms": None, "image": [], "mms": 3}),
        vonage({"from": 18045551234, "to": 1.2016661234e10, "timestamp": 1772366400, "content": None}),
        vonage({"timestamp": {}, "location": {"lat": "x"}, "reply": "x", "image": {"caption": None}}),
        http({"message": {"id": 7, "from": 18045551234, "to": OURS, "text": "Hi"}}),
        http({"message": {"id": 1e3, "from": 1.8045551234e10, "to": OURS, "text": "Hi"}, "state": None}),
        twilio(NumMedia="x", Latitude="x", OtherRecipients="", SmsStatus=""),
        plivo(Units="x", TotalRate="", MediaCount="none", Subject=""),
    ],
)
def test_an_optional_field_of_another_type_costs_nothing(message: InboundMessage) -> None:
    assert message.from_address.lstrip("+") == JANE.lstrip("+")
    assert message.to_address == OURS
    assert message.body.endswith("Hi")
    assert message.sent_at in {None, NOON}


@each_case(
    "event, kind",
    [
        ({"message": {"id": "1", "from": JANE, "to": OURS, "text": None}}, InboundMessage),
        ({"message": {"id": "1", "from": JANE, "to": OURS}}, InboundMessage),
        ({"message": {"id": "1", "from": JANE, "to": OURS, "text": {"x": 1}}}, InboundMessage),
        ({"message": {"id": "1", "from": JANE, "to": OURS}, "state": "DELIVRD"}, Receipt),
        ({"message": {"id": "1", "from": JANE, "to": OURS, "text": "Hi"}, "state": "new"}, InboundMessage),
        ({"message": {"id": "1", "from": None, "to": OURS}}, Unread),
        ({"message": None, "state": "DELIVRD"}, Unread),
    ],
)
def test_an_event_without_words_is_a_message_unless_it_is_a_receipt(event: Mapping[str, Any], kind: type) -> None:
    assert isinstance(http(event), kind)


def test_one_bad_event_of_several_costs_no_other() -> None:
    good = {"message": {"id": "1", "from": JANE, "to": OURS, "text": "half @"}}
    body = json.dumps([good, {"message": None}, None, good]).replace("@", "\\ud83d").encode("utf-8-sig")
    provider = GenericProvider(HttpSettings(_env_file=None, **HTTP))
    first, second, third, last = provider.parse(Callback("POST", "https://x.example/", [], body))
    assert isinstance(first, InboundMessage)
    assert (first.body, last) == ("half \ufffd", first)
    assert isinstance(second, Unread)
    assert isinstance(third, Unread)


@each_case(
    "message, keyword",
    [
        (twilio(Body="STOP", OptOutType="STOP"), Keyword.STOP),
        (twilio(Body="Arrêt svp", OptOutType="STOP"), Keyword.STOP),
        (twilio(Body="START", OptOutType="START"), Keyword.START),
        (twilio(Body="HELP", OptOutType="HELP"), Keyword.HELP),
        (twilio(Body="STOP"), None),
        (twilio(Body="STOP", OptOutType=""), None),
        (twilio(Body="STOP", OptOutType="LATER"), None),
        (telnyx_({"text": "STOP", "autoresponse_type": "STOP"}), Keyword.STOP),
        (telnyx_({"text": "JOIN", "autoresponse_type": "START"}), Keyword.START),
        (telnyx_({"text": "INFO", "autoresponse_type": "HELP"}), Keyword.HELP),
        (telnyx_({"text": "STOP", "autoresponse_type": None}), None),
        (telnyx_({"text": "STOP"}), None),
        (plivo(Text="STOP"), None),
        (vonage({"text": "STOP"}), None),
    ],
)
def test_a_keyword_that_the_vendor_has_handled_is_told(message: InboundMessage, keyword: Keyword | None) -> None:
    assert message.handled_keyword is keyword


def plivo_outcome(code: str) -> Any:
    return plivo(Status="failed", ErrorCode=code)


def vonage_outcome(code: str) -> Any:
    problem = {"type": f"https://developer.vonage.com/api-errors/messages#{code}", "title": code, "detail": "So."}
    return vonage({"status": "rejected", "error": problem})


@each_case(
    "receipt, consent",
    [
        (twilio(MessageStatus="failed", ErrorCode="21610"), ReportedConsent.OPTED_OUT),
        (twilio(MessageStatus="undelivered", ErrorCode="21610"), ReportedConsent.OPTED_OUT),
        (twilio(MessageStatus="undelivered", ErrorCode="30004"), None),  # the carrier or the phone blocks it
        (twilio(MessageStatus="delivered"), None),
        (outcome("sending_failed", errors=[{"code": "40300", "title": "STOP"}]), ReportedConsent.OPTED_OUT),
        (outcome("sending_failed", errors=[{"code": 40300}, {"code": "40001"}]), ReportedConsent.OPTED_OUT),
        (outcome("delivery_failed", errors=[{"code": "40003", "title": "Blocked as spam"}]), None),
        (plivo_outcome("200"), ReportedConsent.OPTED_OUT),
        (plivo_outcome("100"), None),
        (vonage_outcome("1240"), ReportedConsent.OPTED_OUT),
        (vonage_outcome("1210"), None),
        (
            vonage({"status": "rejected", "error": {"code": 1240, "reason": "Illegal Number"}}),
            ReportedConsent.OPTED_OUT,
        ),
    ],
)
def test_a_receipt_tells_that_the_person_has_opted_out(receipt: Receipt, consent: ReportedConsent | None) -> None:
    assert receipt.consent is consent
