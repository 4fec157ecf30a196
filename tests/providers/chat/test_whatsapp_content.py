"""The content of WhatsApp messages as a person reads it."""

import json
from typing import Any

from app.providers.chat.whatsapp_content import media_of, words_of
from tests.cases import each_case


def message(kind: str, content: object, **more: object) -> dict[str, Any]:
    return {"id": "wamid.1", "from": "4915112345678", "timestamp": "1749416383", "type": kind, kind: content, **more}


def form(answers: object, **more: object) -> dict[str, Any]:
    reply = {"response_json": answers, "body": "Sent", "name": "flow", **more}
    return message("interactive", {"type": "nfm_reply", "nfm_reply": reply})


@each_case(
    ("contacts", "words"),
    [
        ([{"name": {"formatted_name": "Ida"}, "phones": [{"phone": "+49 30 1234567"}]}], "Ida, +49 30 1234567"),
        (
            [{"name": {"first_name": "Ida", "last_name": "Berg"}, "phones": [{"wa_id": "4930123"}]}],
            "Ida Berg, +4930123",
        ),
        (
            [
                {"name": {"formatted_name": "Ida"}, "phones": [{"phone": "1"}, {"phone": "2"}]},
                {"name": {"formatted_name": "Leo"}, "emails": [{"email": "leo@example.com"}]},
            ],
            "Ida, 1, 2\nLeo, leo@example.com",
        ),
        ([{"org": {"company": "Berg GmbH"}, "phones": [{"phone": "+49 30 1"}]}], "Berg GmbH, +49 30 1"),
        ([{"phones": [{"phone": "+44 20 7946 0018"}], "vcard": "BEGIN:VCARD"}], "+44 20 7946 0018"),
        ([{"name": {"formatted_name": None, "first_name": "Ida"}, "phones": None, "emails": "x"}], "Ida"),
        ([], "[contacts]"),
        ("Ida", "[contacts]"),
    ],
)
def test_a_contact_has_its_name_and_numbers(contacts: object, words: str) -> None:
    assert words_of(message("contacts", contacts)) == words


@each_case(
    ("answered", "words"),
    [
        (form('{"size": "M", "colour": "red", "flow_token": "abc"}'), "size: M\ncolour: red"),
        (form({"guests": 4, "vegan": True, "nights": 2.5}), "guests: 4\nvegan: true\nnights: 2.5"),
        (form('{"extras": ["towels", "breakfast"], "note": ""}'), "extras: towels, breakfast"),
        (form('{"values": {"name": "Ida", "city": "Köln"}, "saved": null}'), "name: Ida\ncity: Köln"),
        (form('{"photos": [{"id": 7, "file_name": "door.jpg"}]}'), "photos: door.jpg"),
        (form('{"wa_flow_response_params": {"flow_id": "1"}, "a": "b"}'), "a: b"),
        (form("{not json"), "Sent"),
        (form(None), "Sent"),
        (form('["a"]', body="Address"), "Address"),
        (form("[" * 50_000), "Sent"),
    ],
)
def test_a_form_is_its_answers(answered: dict[str, Any], words: str) -> None:
    assert words_of(answered) == words


@each_case(
    ("order", "words"),
    [
        (
            {
                "catalog_id": "1",
                "text": "By Friday, please",
                "product_items": [
                    {"product_retailer_id": "TEA-1", "quantity": 2, "item_price": 4.5, "currency": "EUR"},
                    {"product_retailer_id": "TEA-2", "quantity": "1", "item_price": "9", "currency": "EUR"},
                ],
            },
            "By Friday, please\n2 x TEA-1 at 4.5 EUR\n1 x TEA-2 at 9 EUR",
        ),
        ({"product_items": [{"product_retailer_id": "TEA-1", "quantity": 3}]}, "3 x TEA-1"),
        ({"product_items": [{"product_retailer_id": 17}]}, "1 x 17"),
        ({"text": "Nothing yet", "product_items": []}, "Nothing yet"),
        ({"product_items": None}, "[order]"),
    ],
)
def test_an_order_is_what_was_ordered(order: object, words: str) -> None:
    assert words_of(message("order", order)) == words


@each_case(
    ("sent", "words"),
    [
        (message("text", {"body": "Hallo"}), "Hallo"),
        (message("text", {"body": 42}), "42"),
        (message("text", None), ""),
        (message("text", "as it is"), "as it is"),
        (message("interactive", {"type": "button", "body": {"text": "Which day?"}, "action": {}}), "Which day?"),
        ({"text": {"body": "without a type"}}, "without a type"),
        (message("button", {"text": "Yes", "payload": "YES-1"}), "Yes"),
        (message("button", {"payload": "YES-1"}), "YES-1"),
        (message("interactive", {"button_reply": {"id": "b", "title": "Later"}}), "Later"),
        (message("interactive", {"list_reply": {"id": "row-2", "title": None}}), "row-2"),
        (
            message(
                "interactive", {"type": "call_permission_reply", "call_permission_reply": {"response": "accept"}}
            ),
            "[call permission: accept]",
        ),
        (message("interactive", {"type": "brand_new", "brand_new": {}}), "[interactive: brand_new]"),
        (message("reaction", {"message_id": "wamid.0", "emoji": "❤️"}), "❤️"),
        (message("reaction", {"message_id": "wamid.0", "emoji": ""}), "[reaction removed]"),
        (message("reaction", {"message_id": "wamid.0"}), "[reaction removed]"),
        (message("location", {"latitude": 52.5, "longitude": "13.4", "name": "Dom"}), "Dom\n52.5, 13.4"),
        (
            message("location", {"latitude": 52, "longitude": 13, "url": "https://m.example"}),
            "52, 13\nhttps://m.example",
        ),
        (message("location", {}), "[location]"),
        (message("revoke", {"original_message_id": "wamid.0"}), "[message deleted]"),
        (message("edit", {"message": {"type": "text", "text": {"body": "at 6"}}}), "[edited] at 6"),
        (message("edit", {"message": {"type": "image", "image": {"id": "9", "caption": "new"}}}), "[edited] new"),
        (
            message("unsupported", {"type": "poll"}, errors=[{"code": 131051, "title": "Unknown"}]),
            "[unsupported: poll]",
        ),
        (
            message("unsupported", None, errors=[{"code": 131051, "title": "Message type unknown"}]),
            "[unsupported: Message type unknown]",
        ),
        (message("unsupported", {"type": "video_note"}), "[unsupported: video note]"),
        (message("unknown", None, errors="x"), "[unknown]"),
        (message("request_welcome", None), "[request welcome]"),
        (
            message("system", {"type": "customer_identity_changed", "body": "Ida has a new phone"}),
            "Ida has a new phone",
        ),
        (message("system", {"type": "customer_identity_changed"}), "[system: customer_identity_changed]"),
        ({}, "[message]"),
    ],
)
def test_every_kind_is_readable(sent: dict[str, Any], words: str) -> None:
    assert words_of(sent) == words


@each_case(
    ("sent", "words", "media"),
    [
        (message("image", {"id": "1", "caption": "My plant"}), "My plant", ["1"]),
        (message("image", {"id": "1"}), "", ["1"]),
        (message("video", {"id": 2, "caption": None}), "", ["2"]),
        (message("audio", {"id": "3", "voice": True}), "[voice message]", ["3"]),
        (message("audio", {"id": "3", "voice": False}), "[audio]", ["3"]),
        (message("voice", {"id": "3"}), "[voice message]", ["3"]),
        (message("sticker", {"id": "4", "animated": True}), "[sticker]", ["4"]),
        (message("document", {"id": "5", "filename": "invoice 7.pdf"}), "invoice 7.pdf", ["5"]),
        (message("document", {"id": "5", "filename": "a.pdf", "caption": "Paid"}), "Paid\na.pdf", ["5"]),
        (message("document", {"id": "5", "filename": "a.pdf", "caption": "a.pdf"}), "a.pdf", ["5"]),
        (message("document", {"id": "5"}), "[document]", ["5"]),
        (message("edit", {"message": {"type": "image", "image": {"id": "6"}}}), "[edited]", ["6"]),
        (message("image", "broken"), "", []),
    ],
)
def test_a_file_has_its_words_and_its_id(sent: dict[str, Any], words: str, media: list[str]) -> None:
    assert (words_of(sent), [*media_of(sent)]) == (words, media)


@each_case(
    ("more", "below"),
    [
        (
            {"referral": {"source_type": "ad", "headline": "Summer sale", "source_url": "https://fb.example/1"}},
            "[ad: Summer sale, https://fb.example/1]",
        ),
        ({"referral": {"source_type": "post", "body": "New shoes"}}, "[post: New shoes]"),
        ({"referral": {"source_url": "https://fb.example/2"}}, "[ad: https://fb.example/2]"),
        ({"referral": {"headline": ["x"], "source_id": "1"}}, ""),
        ({"referral": None}, ""),
        ({"context": {"referred_product": {"catalog_id": "1", "product_retailer_id": "SKU-9"}}}, "[product: SKU-9]"),
    ],
)
def test_what_a_message_answers_stands_below_it(more: dict[str, Any], below: str) -> None:
    assert words_of(message("text", {"body": "Hi"}, **more)) == "\n".join(filter(None, ["Hi", below]))


def test_nothing_in_a_message_raises() -> None:
    odd: list[Any] = [None, 0, True, "x", [], {}, [[]], [None], {"a": None}]
    kinds = ["text", "button", "interactive", "contacts", "order", "edit", "document", "location", "unsupported"]
    for kind in kinds:
        for content in odd:
            for inner in odd:
                words_of(message(kind, content, errors=inner, referral=inner, context=inner))
                words_of(
                    json.loads(json.dumps(message(kind, {"message": inner, "product_items": inner, "type": inner})))
                )
                words_of(form({"a": inner}))
