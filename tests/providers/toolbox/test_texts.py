"""Parts of texts that several vendors share: subjects, RCS and groups."""

from app.providers.base import InboundMessage
from app.providers.toolbox.texts import (
    in_its_group,
    members_of,
    place,
    recipient_of,
    refused_group,
    with_subject,
    without_rcs,
)
from tests.cases import each_case
from tests.providers import outbound

_OURS, _JANE, _MAX = "+12016661234", "+18045551234", "+18045557777"


@each_case(
    "subject, text, words",
    [
        ("Gate code is 4411", "", "Gate code is 4411"),
        ("Urgent", "Call me", "Urgent\nCall me"),
        (" Grüße \n", "Bis bald", "Grüße\nBis bald"),
        ("Hello", "Hello there", "Hello there"),
        ("Hello", "   ", "Hello"),
        ("Fwd: no subject yet", "x", "Fwd: no subject yet\nx"),
        *((written, "x", "x") for written in (None, "", " ", "NoSubject", "(No subject)", "<no_subject>", "--")),
        ("👍", "", "👍"),
    ],
)
def test_a_subject_is_part_of_the_words(subject: str | None, text: str, words: str) -> None:
    assert with_subject(subject, text) == words


@each_case(
    "written, read",
    [
        ("rcs:+18045551234", "+18045551234"),
        ("rcs:18045551234", "18045551234"),
        ("rcs:12345", "12345"),
        ("rcs:brand_a1b2_agent", "rcs:brand_a1b2_agent"),
        ("rcs:", "rcs:"),
        ("rcs:+1804555x", "rcs:+1804555x"),
        ("+18045551234", "+18045551234"),
        ("whatsapp:+18045551234", "whatsapp:+18045551234"),
        ("", ""),
    ],
)
def test_a_number_is_the_same_by_rcs(written: str, read: str) -> None:
    assert without_rcs(written) == read


@each_case(
    "coordinates, names, text",
    [
        ((48.2, 16.4), (), "48.2, 16.4"),
        ((0.0, 0.0), (None, ""), "0.0, 0.0"),
        (("48.2", "16.4"), ("Café", "Ring 1"), "Café\nRing 1\n48.2, 16.4"),
        ((None, 16.4), ("Café",), ""),
        (("", ""), (), ""),
    ],
)
def test_a_place_is_shown_as_text(coordinates: tuple[object, object], names: tuple[str, ...], text: str) -> None:
    assert place(*coordinates, *names) == text


def _from(sender: str) -> InboundMessage:
    return InboundMessage("1", "sms", "mms", sender, _OURS, "Hi")


@each_case(
    "sender, others, conversation, author",
    [
        (_JANE, [], _JANE, None),
        (_JANE, [_OURS], _JANE, None),
        (_JANE, [_JANE, _OURS, ""], _JANE, None),
        (_JANE, [_MAX], f"group:{_JANE},{_MAX}", _JANE),
        (_MAX, [_OURS, _JANE], f"group:{_JANE},{_MAX}", _MAX),
        (_JANE, [_MAX, _MAX, _JANE], f"group:{_JANE},{_MAX}", _JANE),
        (_JANE, ["12345", _MAX], f"group:{_JANE},{_MAX},12345", _JANE),
        (_JANE, ["max@example.com"], f"group:{_JANE},max@example.com", _JANE),
        (_JANE, ["x", "Some Name", "+", "1,2"], _JANE, None),
    ],
)
def test_a_group_has_a_conversation_of_its_own(
    sender: str, others: list[str], conversation: str, author: str | None
) -> None:
    message = in_its_group(_from(sender), others)
    assert (message.from_address, message.details.author) == (conversation, author)
    assert message.to_address == _OURS
    if author:
        assert members_of(conversation) == conversation.removeprefix("group:").split(",")


@each_case("others", [[f"+1804555{number:04}" for number in range(40)], [f"{'x' * 300}@example.com"]])
def test_a_group_that_can_t_be_written_out_has_a_hash(others: list[str]) -> None:
    address = in_its_group(_from(_JANE), others).from_address
    assert address == in_its_group(_from(_JANE), reversed(others)).from_address
    assert address.startswith("group:sha256-")
    assert len(address) < 100
    assert members_of(address) == []


@each_case("written", ["group:", f"group:{_JANE}", f"group:{_MAX},{_JANE}", f"group:{_JANE},{_JANE}", "group:a,b"])
def test_a_group_is_named_as_its_messages_name_it(written: str) -> None:
    assert members_of(written) == []


def test_a_receipt_of_a_group_names_it_as_its_messages_do() -> None:
    assert recipient_of([_JANE]) == _JANE
    assert recipient_of([_MAX, _JANE]) == f"group:{_JANE},{_MAX}"


def test_a_vendor_without_groups_says_so() -> None:
    assert refused_group(outbound(_JANE)) == {}
    assert list(refused_group(outbound(f"group:{_JANE},{_MAX}"))) == ["to"]
