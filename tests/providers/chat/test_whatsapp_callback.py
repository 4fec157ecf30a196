"""WhatsApp's callbacks: people by number or id, groups, changed numbers, echoes, and fields of another type."""

from datetime import UTC, datetime
from typing import Any

from app.consent import ReportedConsent
from app.details import MessageDetails
from app.domain import Direction, MessageStatus
from app.providers.base import InboundMessage, Receipt, Unread
from app.providers.chat.whatsapp_callback import items_of
from tests.cases import each_case

OURS, OUR_ID = "+15550783881", "106540352242922"
AT = datetime(2025, 6, 8, 20, 59, 43, tzinfo=UTC)


def callback(*, field: str = "messages", metadata: object = None, **value: object) -> dict[str, Any]:
    about = metadata or {"display_phone_number": "+1 555-078-3881", "phone_number_id": OUR_ID}
    change = {"field": field, "value": {"messaging_product": "whatsapp", "metadata": about, **value}}
    return {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [change]}]}


def message(**changes: object) -> dict[str, Any]:
    known = {"from": "4915112345678", "id": "wamid.1", "timestamp": "1749416383", "type": "text"}
    return {**known, "text": {"body": "Hallo"}, **changes}


def contact(number: object, user_id: object = None, name: object = "Ida") -> dict[str, Any]:
    return {"profile": {"name": name}, "wa_id": number, "user_id": user_id}


def read(document: object) -> list[Any]:
    return list(items_of(document, {OUR_ID: OURS}))


@each_case(
    ("told", "contacts", "address", "alias", "name"),
    [
        ({"from_user_id": "DE.77"}, [], "+4915112345678", "whatsapp:DE.77", None),
        ({}, [contact("4915112345678", "DE.77")], "+4915112345678", "whatsapp:DE.77", "Ida"),
        ({"from": "", "from_user_id": "DE.77"}, [contact("", "DE.77")], "whatsapp:DE.77", None, "Ida"),
        (
            {"from": None, "from_user_id": "DE.77"},
            [contact("4915112345678", "DE.77")],
            "+4915112345678",
            "whatsapp:DE.77",
            "Ida",
        ),
        (
            {},
            [contact("999", "X", "Leo"), contact("4915112345678", "DE.77")],
            "+4915112345678",
            "whatsapp:DE.77",
            "Ida",
        ),
        ({}, [contact("999", "X", "Leo"), contact("998")], "+4915112345678", None, None),
        ({"from": 4915112345678}, [contact(4915112345678, None, 7)], "+4915112345678", None, "7"),
        ({"from_user_id": "not an id"}, [], "+4915112345678", None, None),
        ({"from_user_id": {"id": "DE.77"}}, "contacts", "+4915112345678", None, None),
        ({}, [{"profile": {"username": "@ida"}, "wa_id": "4915112345678"}], "+4915112345678", None, "@ida"),
    ],
)
def test_a_person_is_a_number_or_else_an_id(
    told: dict[str, Any], contacts: object, address: str, alias: str | None, name: str | None
) -> None:
    [item] = read(callback(messages=[message(**told)], contacts=contacts))
    assert (item.from_address, item.alias, item.details.from_name) == (address, alias, name)
    assert (item.to_address, item.body, item.sent_at) == (OURS, "Hallo", AT)


@each_case(
    ("changes", "sent_at", "body"),
    [
        ({"timestamp": 1749416383}, AT, "Hallo"),
        ({"timestamp": 1749416383000}, AT, "Hallo"),
        ({"timestamp": 1749416383.0}, AT, "Hallo"),
        ({"timestamp": None}, None, "Hallo"),
        ({"timestamp": "yesterday"}, None, "Hallo"),
        ({"timestamp": ["1"]}, None, "Hallo"),
        ({"context": "wamid.0", "referral": [], "errors": {}}, AT, "Hallo"),
        ({"type": None}, AT, "Hallo"),
        ({"text": "Hallo"}, AT, "Hallo"),
        ({"id": 17}, AT, "Hallo"),
    ],
)
def test_no_field_of_another_type_costs_a_message(
    changes: dict[str, Any], sent_at: datetime | None, body: str
) -> None:
    [item] = read(callback(messages=[message(**changes)]))
    assert (item.sent_at, item.body, item.from_address) == (sent_at, body, "+4915112345678")


@each_case(
    ("spoilt", "count"),
    [
        (message(id=None), 1),
        (message(id="x" * 401), 1),
        ({"type": "text"}, 1),
        (message(group_id="with space"), 1),
        ("not an object", 1),
        (None, 1),
        ([], 1),
    ],
)
def test_what_can_not_be_read_costs_no_other(spoilt: object, count: int) -> None:
    items = read(callback(messages=[spoilt, message(id="wamid.2")]))
    assert [item.provider_message_id for item in items if isinstance(item, InboundMessage)] == ["wamid.2"]
    assert sum(isinstance(item, Unread) for item in items) == count


@each_case(
    ("messages", "read_as"),
    [
        (message(), [InboundMessage]),
        ("x", [Unread]),
        (7, [Unread]),
        (None, []),
        ([], []),
        ({}, []),
        ([message(), 5], [InboundMessage, Unread]),
    ],
)
def test_one_message_needs_no_list_and_what_is_none_is_told(messages: object, read_as: list[type]) -> None:
    assert [type(item) for item in read(callback(messages=messages))] == read_as


def test_a_change_without_its_field_is_one_of_messages() -> None:
    document = callback(messages=[message()])
    document["entry"][0]["changes"][0]["field"] = None
    assert [item.body for item in read(document)] == ["Hallo"]


@each_case(
    ("metadata", "ours"),
    [
        ({"phone_number_id": OUR_ID}, OURS),
        ({"phone_number_id": int(OUR_ID), "display_phone_number": None}, OURS),
        ({"display_phone_number": "49 30 1234567"}, "+49301234567"),
        ({"display_phone_number": 493012345678, "phone_number_id": "2"}, "+493012345678"),
    ],
)
def test_our_number_is_found_by_its_id_or_as_it_is_shown(metadata: object, ours: str) -> None:
    [item] = read(callback(messages=[message()], metadata=metadata))
    assert item.to_address == ours


@each_case("value", [{"changes": 1}, {"changes": [{"field": "messages", "value": []}]}])
def test_a_broken_entry_costs_no_other(value: dict[str, Any]) -> None:
    document = callback(messages=[message()])
    document["entry"].insert(0, value)
    first, second = read(document)
    assert (type(first), second.body) == (Unread, "Hallo")


@each_case(
    ("changes", "author"),
    [
        ({}, "+4915112345678"),
        ({"from_user_id": "DE.77"}, "+4915112345678"),
        ({"from": "", "from_user_id": "DE.77"}, "whatsapp:DE.77"),
        ({"type": "image", "image": {"id": "9"}}, "+4915112345678"),
        ({"type": "unsupported", "errors": [{"code": 130501}]}, "+4915112345678"),
    ],
)
def test_a_group_has_a_conversation_of_its_own(changes: dict[str, Any], author: str) -> None:
    [item] = read(callback(messages=[message(group_id="Y2FwaV9ncm91cDox+/=", **changes)], contacts=[contact("")]))
    assert (item.from_address, item.to_address, item.alias) == ("whatsapp:group-Y2FwaV9ncm91cDox+/=", OURS, None)
    assert item.details == MessageDetails(from_name="Ida", author=author)


OLD = "+4915112345678"


@each_case(
    ("changes", "system", "told"),
    [
        ({}, {"type": "user_changed_number", "wa_id": "4917012345678"}, [(OLD, None), ("+4917012345678", None)]),
        (
            {},
            {"type": "customer_changed_number", "new_wa_id": "4917012345678", "customer": "4915112345678"},
            [(OLD, None), ("+4917012345678", None)],
        ),
        (
            {"from_user_id": "DE.1"},
            {"type": "user_changed_user_id", "wa_id": "4917012345678", "user_id": "DE.2"},
            [(OLD, None), ("+4917012345678", "whatsapp:DE.2")],
        ),
        (
            {"from": "", "from_user_id": "DE.1"},
            {"type": "user_changed_user_id", "wa_id": "", "user_id": "DE.2"},
            [("whatsapp:DE.1", None), ("whatsapp:DE.2", None)],
        ),
        (
            {"from": None},
            {"type": "user_changed_user_id", "previous_user_id": "DE.1", "user_id": "DE.2"},
            [("whatsapp:DE.1", None), ("whatsapp:DE.2", None)],
        ),
        (
            {"from": None},
            {"type": "user_changed_number", "customer": "4915112345678", "wa_id": "4917012345678"},
            [(OLD, None), ("+4917012345678", None)],
        ),
    ],
)
def test_a_changed_number_is_told_in_both_conversations(
    changes: dict[str, Any], system: dict[str, Any], told: list[tuple[str, str | None]]
) -> None:
    items = read(callback(messages=[message(type="system", system=system, **changes)]))
    assert [(item.from_address, item.alias) for item in items] == told
    assert {item.body for item in items} == {f"{told[0][0]} is now {told[1][0]}."}
    assert [item.provider_message_id for item in items] == ["wamid.1", "wamid.1:new"]


@each_case("system", [{"wa_id": "4915112345678"}, {"wa_id": None}, {}])
def test_a_change_to_nothing_new_is_told_once(system: dict[str, Any]) -> None:
    system = {"type": "user_changed_number", "body": "Ida changed it", **system}
    [item] = read(callback(messages=[message(type="system", system=system)]))
    assert (item.from_address, item.body) == (OLD, "Ida changed it")


@each_case("field", ["smb_message_echoes", "message_echoes"])
@each_case(
    ("changes", "to", "alias", "body"),
    [
        ({}, "+4917012345678", None, "Hallo"),
        ({"to_user_id": "DE.2"}, "+4917012345678", "whatsapp:DE.2", "Hallo"),
        ({"to": "", "to_user_id": "DE.2"}, "whatsapp:DE.2", None, "Hallo"),
        ({"to": "+4917012345678"}, "+4917012345678", None, "Hallo"),
        ({"group_id": "abc"}, "whatsapp:group-abc", None, "Hallo"),
        ({"type": "document", "document": {"id": "5", "filename": "a.pdf"}}, "+4917012345678", None, "a.pdf"),
        ({"type": "revoke", "revoke": {}}, "+4917012345678", None, "[message deleted]"),
    ],
)
def test_an_echo_is_what_we_sent_elsewhere(
    field: str, changes: dict[str, Any], to: str, alias: str | None, body: str
) -> None:
    echo = {**message(to="4917012345678"), "from": OURS.lstrip("+"), **changes}
    [item] = read(callback(field=field, message_echoes=[echo]))
    assert item.direction is Direction.OUTBOUND
    assert (item.from_address, item.to_address, item.alias, item.body) == (OURS, to, alias, body)
    assert item.details == MessageDetails()


@each_case(
    ("changes", "direction"),
    [
        ({"from": OURS.lstrip("+"), "to": "4917012345678"}, Direction.OUTBOUND),
        ({"from": OURS, "to_user_id": "DE.2"}, Direction.OUTBOUND),
        ({"from": OURS}, Direction.INBOUND),
        ({"to": OURS.lstrip("+")}, Direction.INBOUND),
        ({"to": "4917012345678"}, Direction.INBOUND),
    ],
)
def test_an_echo_may_stand_among_the_messages(changes: dict[str, Any], direction: Direction) -> None:
    [item] = read(callback(messages=[message(**changes)]))
    assert item.direction is direction


@each_case(
    ("old", "new"),
    [("551187654321", "5511987654321"), ("5215512345678", "525512345678"), ("541123456789", "5491123456789")],
)
def test_another_form_of_the_same_number_is_told_once(old: str, new: str) -> None:
    system = {"type": "user_changed_number", "body": "Ida changed it", "wa_id": new}
    [item] = read(callback(messages=[message(type="system", system=system, **{"from": old})]))
    assert (item.from_address, item.body) == (f"+{old}", "Ida changed it")


def test_an_echo_to_nobody_is_not_understood() -> None:
    assert read(callback(message_echoes=[message()])) == [Unread("an echo has a recipient")]


def status(**changes: object) -> dict[str, Any]:
    return {"id": "wamid.9", "status": "read", "timestamp": "1749416383", "recipient_id": "4915112345678", **changes}


@each_case(
    ("changes", "event_id", "recipient", "alias"),
    [
        ({}, "wamid.9:read:1749416383", OLD, None),
        ({"timestamp": 1749416383}, "wamid.9:read:1749416383", OLD, None),
        ({"recipient_user_id": "DE.1"}, "wamid.9:read:1749416383", OLD, "whatsapp:DE.1"),
        ({"recipient_id": "", "recipient_user_id": "DE.1"}, "wamid.9:read:1749416383", "whatsapp:DE.1", None),
        (
            {"recipient_id": None, "errors": None, "biz_opaque_callback_data": 5},
            "wamid.9:read:1749416383",
            None,
            None,
        ),
        (
            {"recipient_id": "abc", "recipient_type": "group", "recipient_participant_id": "4917012345678"},
            "wamid.9:read:1749416383:4917012345678",
            "whatsapp:group-abc",
            None,
        ),
        ({"recipient_id": "abc", "recipient_type": "group"}, "wamid.9:read:1749416383", "whatsapp:group-abc", None),
    ],
)
def test_a_status_names_whom_it_is_about(
    changes: dict[str, Any], event_id: str, recipient: str | None, alias: str | None
) -> None:
    [item] = read(callback(statuses=[status(**changes)]))
    assert (item.event_id, item.recipient, item.alias) == (event_id, recipient, alias)
    assert (item.status, item.occurred_at, item.detail) == (MessageStatus.READ, AT, None)


@each_case(
    ("errors", "detail"),
    [
        ([{"code": 131047, "title": "Re-engagement", "error_data": {"details": "24 hours"}}], "131047 24 hours"),
        ([{"code": "131026", "message": "Undeliverable"}, {"code": 1}], "131026 Undeliverable; 1"),
        ([{"code": None, "title": "Odd", "error_data": None}], "Odd"),
        ([], None),
        ("failed", None),
    ],
)
def test_a_failure_says_why_as_far_as_it_can_be_read(errors: object, detail: str | None) -> None:
    [item] = read(callback(statuses=[status(status="failed", errors=errors)]))
    assert isinstance(item, Receipt)
    assert (item.status, item.detail) == (MessageStatus.UNDELIVERED, detail)


@each_case("changes", [{"status": None}, {"status": "x" * 64}, {"id": None}])
def test_a_status_without_its_word_or_its_message_is_not_understood(changes: dict[str, Any]) -> None:
    [first, second] = read(callback(statuses=[status(**changes), status()]))
    assert (type(first), type(second)) == (Unread, Receipt)


@each_case(
    ("changes", "consent"),
    [
        ({"errors": [{"code": 131050, "title": "User stopped"}]}, ReportedConsent.NO_MARKETING),
        ({"errors": [{"code": "131050"}]}, ReportedConsent.NO_MARKETING),
        ({"errors": [{"code": 131049, "title": "Not delivered, to keep users engaged"}]}, None),
        ({"errors": [{"code": 131050}], "recipient_type": "group"}, None),
        ({}, None),
    ],
)
def test_a_person_who_wants_no_marketing_is_told(changes: dict[str, Any], consent: ReportedConsent | None) -> None:
    status = {"id": "wamid.1", "status": "failed", "timestamp": "1749416383", "recipient_id": "4915112345678"}
    [receipt] = read(callback(statuses=[status | changes]))
    assert isinstance(receipt, Receipt)
    assert receipt.consent is consent
