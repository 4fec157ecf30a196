"""Reading: which messages meet in a conversation, in which order, and page by page."""

import asyncio
import base64
import itertools
import json
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.config import Settings
from tests.cases import each_case
from tests.factories import CONTACT, CUSTOMER, POSTS, email, email_webhook, sms, sms_webhook
from tests.wire import locations_of, problem_of, rows_of, stored

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
FIRST = datetime(2024, 11, 1, 14, tzinfo=UTC)


async def post(client: httpx.AsyncClient, path: str, given: dict[str, Any]) -> None:
    response = await client.post(path, json=given)
    assert response.status_code == 200, response.text


async def conversations_of(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    response = await client.get("/api/conversations")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    conversations: list[dict[str, Any]] = response.json()
    return conversations


async def test_a_fresh_database_has_no_conversations(untouched: httpx.AsyncClient) -> None:
    assert await conversations_of(untouched) == []


async def test_an_unknown_conversation_is_not_found(untouched: httpx.AsyncClient) -> None:
    problem = problem_of(await untouched.get("/api/conversations/1/messages"), 404)
    assert problem["title"] == "Conversation not found"


async def test_ids_are_integers_and_start_at_one(client: httpx.AsyncClient) -> None:
    await post(client, "/api/messages/sms", sms())
    [conversation] = await conversations_of(client)
    [message] = (await client.get("/api/conversations/1/messages")).json()
    for row in (conversation, message):
        assert (row["id"], type(row["id"])) == (1, int)
    assert message["conversation_id"] == 1


async def test_texts_media_and_both_directions_meet_in_one_conversation(client: httpx.AsyncClient) -> None:
    await post(client, "/api/messages/sms", sms(type="sms"))
    await post(client, "/api/webhooks/sms", sms_webhook(type="mms", messaging_provider_id="1"))
    await post(client, "/api/messages/sms", sms(type="mms"))
    await post(client, "/api/webhooks/sms", sms_webhook(type="sms", messaging_provider_id="2"))
    [conversation] = await conversations_of(client)
    assert (conversation["customer_address"], conversation["contact_address"]) == (CUSTOMER, CONTACT)
    assert [(one["direction"], one["channel"]) for one in await stored(client)] == [
        ("outbound", "sms"),
        ("inbound", "sms"),
        ("outbound", "sms"),
        ("inbound", "sms"),
    ]


async def test_a_mail_and_its_answer_meet_in_one_conversation(client: httpx.AsyncClient) -> None:
    await post(client, "/api/webhooks/email", email_webhook())
    await post(client, "/api/messages/email", email())
    [conversation] = await conversations_of(client)
    assert conversation["message_count"] == 2


async def test_the_one_who_writes_first_does_not_decide_who_is_the_customer(client: httpx.AsyncClient) -> None:
    await post(client, "/api/webhooks/sms", sms_webhook())
    await post(client, "/api/messages/sms", sms())
    [conversation] = await conversations_of(client)
    assert (conversation["customer_address"], conversation["contact_address"]) == (CUSTOMER, CONTACT)


async def test_with_the_roles_exchanged_it_is_another_conversation(client: httpx.AsyncClient) -> None:
    await post(client, "/api/messages/sms", sms(from_=CUSTOMER, to=CONTACT))
    await post(client, "/api/messages/sms", sms(from_=CONTACT, to=CUSTOMER))
    assert len(await conversations_of(client)) == 2


async def test_who_writes_to_himself_has_one_conversation(client: httpx.AsyncClient) -> None:
    await post(client, "/api/messages/sms", sms(to=CUSTOMER))
    await post(client, "/api/webhooks/sms", sms_webhook(from_=CUSTOMER))
    [conversation] = await conversations_of(client)
    assert conversation["message_count"] == 2


async def test_spellings_of_one_address_meet_in_one_conversation(client: httpx.AsyncClient) -> None:
    for written in ("+18045551234", "+1 (804) 555-1234", " 8045551234 ", "tel:+18045551234"):
        await post(client, "/api/messages/sms", sms(to=written))
    for written in ("contact@example.com", "contact@EXAMPLE.com", " contact@example.COM "):
        await post(client, "/api/messages/email", email(to=written))
    await post(client, "/api/webhooks/email", email_webhook(from_="Jane <contact@Example.com>"))
    assert {one["message_count"] for one in await conversations_of(client)} == {4}
    assert {one["to"] for one in await stored(client) if one["direction"] == "outbound"} == {
        "+18045551234",
        "contact@example.com",
    }


async def test_local_parts_that_differ_in_case_are_one_person_and_keep_their_spelling(
    client: httpx.AsyncClient,
) -> None:
    for written in ("Contact@Example.com", "contact@example.com", "CONTACT@EXAMPLE.COM"):
        await post(client, "/api/messages/email", email(to=written))
    await post(client, "/api/webhooks/email", email_webhook(from_="cONTACT@example.com"))
    [conversation] = await conversations_of(client)
    assert (conversation["contact_address"], conversation["message_count"]) == ("contact@example.com", 4)
    messages = await stored(client)
    assert [message["to"] for message in messages if message["direction"] == "outbound"] == [
        "Contact@example.com",
        "contact@example.com",
        "CONTACT@example.com",
    ]
    [contact] = (await client.get("/api/contacts?address=CoNtAcT@example.com")).json()
    assert (contact["address"], contact["written"]) == ("contact@example.com", "Contact@Example.com")


@each_case(
    "numbers",
    [
        ("+55 41 98888-7777", "+554188887777"),
        ("+52 1 55 1234 5678", "+525512345678"),
        ("+54 9 11 2345 6789", "+541123456789"),
        ("+229 97 12 34 56", "+2290197123456"),
        ("+225 07 12 34 56", "+2250707123456"),
        ("+84 166 312 3456", "+84363123456"),
    ],
)
async def test_the_old_and_the_new_form_of_a_number_are_one_person(
    client: httpx.AsyncClient, numbers: tuple[str, str]
) -> None:
    places = set()
    for number in numbers:
        answer = await client.post("/api/messages/sms", json=sms(to=number))
        assert answer.status_code == 200
        places.add(answer.json()["conversation_id"])
        found = (await client.get("/api/contacts", params={"address": number})).json()
        assert len(found) == 1
    assert len(places) == 1


async def test_a_number_without_country_code_is_read_as_of_the_default_region(
    settings: Settings, serve: Serve
) -> None:
    british = await serve(settings.model_copy(update={"default_region": "GB"}))
    await post(british, "/api/messages/sms", sms(to="020 7946 0958"))
    await post(british, "/api/webhooks/sms", sms_webhook(from_="+44 20 7946 0958"))
    [conversation] = await conversations_of(british)
    assert conversation["contact_address"] == "+442079460958"


async def test_contacts_are_kept_once_and_as_they_were_first_written(
    client: httpx.AsyncClient, database_url: str
) -> None:
    await post(client, "/api/messages/sms", sms(from_="12345", to="(804) 555-1234"))
    await post(client, "/api/webhooks/sms", sms_webhook(from_="+18045551234", to="12345"))
    await post(client, "/api/messages/email", email(from_="user@EXAMPLE.com"))
    await post(client, "/api/webhooks/email", email_webhook(from_="Jane <contact@example.com>"))
    contacts = rows_of(database_url, "SELECT address, address_type, written FROM contacts")
    assert sorted(contacts) == [
        ("+18045551234", "phone", "(804) 555-1234"),
        ("12345", "phone", "12345"),
        ("contact@example.com", "email", "contact@example.com"),
        ("user@example.com", "email", "user@EXAMPLE.com"),
    ]


async def test_a_display_name_is_kept_with_the_contact(client: httpx.AsyncClient, database_url: str) -> None:
    await post(client, "/api/webhooks/email", email_webhook(from_='"Doe, Jane" <contact@example.com>'))
    written = rows_of(database_url, "SELECT written FROM contacts WHERE address = 'contact@example.com'")
    assert written == [('"Doe, Jane" <contact@example.com>',)]


async def test_a_conversation_has_a_customer_and_a_contact(client: httpx.AsyncClient, database_url: str) -> None:
    await post(client, "/api/webhooks/sms", sms_webhook())
    participants = rows_of(
        database_url,
        "SELECT role, address FROM conversation_participants AS participants"
        " JOIN contacts ON contacts.tenant_id = participants.tenant_id AND contacts.id = contact_id",
    )
    assert sorted(participants) == [("contact", CONTACT), ("customer", CUSTOMER)]


async def test_the_most_recently_active_conversation_comes_first(client: httpx.AsyncClient) -> None:
    times = {"+18045550001": "14:00", "+18045550002": "16:00", "+18045550003": "15:00"}
    for contact, time in times.items():
        await post(client, "/api/messages/sms", sms(to=contact, timestamp=f"2024-11-01T{time}:00Z"))
    listed = [(one["contact_address"], one["last_updated"]) for one in await conversations_of(client)]
    assert listed == [
        ("+18045550002", "2024-11-01T16:00:00Z"),
        ("+18045550003", "2024-11-01T15:00:00Z"),
        ("+18045550001", "2024-11-01T14:00:00Z"),
    ]

    answer = sms_webhook(from_="+18045550001", timestamp="2024-11-01T17:00:00Z")
    await post(client, "/api/webhooks/sms", answer)
    listed = [(one["contact_address"], one["last_updated"]) for one in await conversations_of(client)]
    assert listed[0] == ("+18045550001", "2024-11-01T17:00:00Z")


async def test_a_message_that_comes_late_does_not_turn_back_the_time_of_its_conversation(
    client: httpx.AsyncClient,
) -> None:
    await post(client, "/api/messages/sms", sms(timestamp="2024-11-01T15:00:00Z"))
    await post(client, "/api/webhooks/sms", sms_webhook(timestamp="2024-11-01T14:00:00Z"))
    [conversation] = await conversations_of(client)
    assert conversation["last_updated"] == "2024-11-01T15:00:00Z"


async def test_messages_come_oldest_first_whenever_they_were_stored(client: httpx.AsyncClient) -> None:
    for minute in (3, 1, 2):
        await post(client, "/api/messages/sms", sms(body=f"{minute}", timestamp=f"2024-11-01T14:0{minute}:00Z"))
    await post(client, "/api/webhooks/sms", sms_webhook(body="1.5", timestamp="2024-11-01T14:01:30Z"))
    assert [one["body"] for one in await stored(client)] == ["1", "1.5", "2", "3"]


async def test_messages_of_the_same_moment_come_in_the_order_of_their_ids(client: httpx.AsyncClient) -> None:
    for number in range(5):
        await post(client, "/api/messages/sms", sms(body=f"{number}"))
    assert [(one["id"], one["body"]) for one in await stored(client)] == [(i + 1, f"{i}") for i in range(5)]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("2024-11-01T14:00:00Z", "2024-11-01T14:00:00Z"),
        ("2024-11-01T16:00:00+02:00", "2024-11-01T14:00:00Z"),
        ("2024-11-01T10:00:00-04:00", "2024-11-01T14:00:00Z"),
        ("2024-11-01T19:45:00.123456+05:45", "2024-11-01T14:00:00.123456Z"),
        ("2024-11-01T14:00:00", "2024-11-01T14:00:00Z"),
    ],
    ids=["UTC", "east", "west", "quarter hours and microseconds", "naive, which is UTC"],
)
async def test_a_time_is_answered_in_utc(client: httpx.AsyncClient, written: str, shown: str) -> None:
    for path, make in POSTS.items():
        await post(client, path, make(timestamp=written))
    assert [one["sent_at"] for one in await stored(client)] == [shown] * 4
    assert [one["last_updated"] for one in await conversations_of(client)] == [shown] * 2


async def test_every_time_in_every_answer_ends_in_z(client: httpx.AsyncClient) -> None:
    await client.post("/api/messages/sms", json=sms(), headers={"Prefer": "wait=10"})
    await post(client, "/api/webhooks/sms", sms_webhook())
    answers = [
        (await client.get(path)).json()
        for path in ("/api/conversations", "/api/conversations/1/messages", "/api/messages/1")
    ]
    times = [(name, time) for name, time in times_in(answers) if time is not None]
    assert {name for name, _ in times} == {
        "last_updated",
        "sent_at",
        "created_at",
        "started_at",
        "finished_at",
    }
    for _, time in times:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", time)


def times_in(answer: object) -> Iterator[tuple[str, str]]:
    if isinstance(answer, list):
        for one in answer:
            yield from times_in(one)
    elif isinstance(answer, dict):
        for name, value in answer.items():
            if name.endswith("_at") or name == "last_updated":
                yield name, value
            else:
                yield from times_in(value)


async def fill(client: httpx.AsyncClient, path: str) -> None:
    """25 rows for a page at `path`, in no order, five at each of five moments."""
    shuffled = random.Random(7).sample(range(25), 25)
    given = [
        sms_webhook(
            from_=f"+180455500{number:02}" if path == "/api/conversations" else CONTACT,
            messaging_provider_id=f"message-{number}",
            timestamp=(FIRST + timedelta(minutes=number // 5)).isoformat(),
        )
        for number in shuffled
    ]
    await asyncio.gather(*(post(client, "/api/webhooks/sms", one) for one in given))


PAGED = ["/api/conversations", "/api/conversations/1/messages"]


@pytest.mark.parametrize("path", PAGED)
async def test_pages_lead_forward_through_all_rows_and_back_again(client: httpx.AsyncClient, path: str) -> None:
    await fill(client, path)
    everything = (await client.get(path)).json()
    assert len(everything) == 25
    by_key = sorted(everything, key=lambda row: (row.get("sent_at") or row["last_updated"], row["id"]))
    assert everything == (by_key[::-1] if path == "/api/conversations" else by_key)

    page = await client.get(path, params={"limit": 7})
    assert "prev" not in page.links
    forward = [page.json()]
    while "next" in page.links:
        page = await client.get(page.links["next"]["url"])
        forward.append(page.json())
    assert [len(rows) for rows in forward] == [7, 7, 7, 4]
    assert [row for rows in forward for row in rows] == everything

    backward = [page.json()]
    while "prev" in page.links:
        page = await client.get(page.links["prev"]["url"])
        assert "next" in page.links
        backward.append(page.json())
    assert backward == forward[::-1]


@pytest.mark.parametrize("path", PAGED)
async def test_a_list_that_fits_on_one_page_has_no_links(client: httpx.AsyncClient, path: str) -> None:
    await fill(client, path)
    for parameters in ({}, {"limit": 25}, {"limit": 1000}):
        page = await client.get(path, params=parameters)
        assert len(page.json()) == 25
        assert "link" not in page.headers


@pytest.mark.parametrize("path", PAGED)
async def test_a_last_page_that_is_full_has_no_next(client: httpx.AsyncClient, path: str) -> None:
    await fill(client, path)
    page = await client.get(path, params={"limit": 5})
    for _ in range(4):
        assert len(page.json()) == 5
        page = await client.get(page.links["next"]["url"])
    assert len(page.json()) == 5
    assert set(page.links) == {"prev"}


async def test_a_row_that_arrives_meanwhile_neither_repeats_nor_hides_another(client: httpx.AsyncClient) -> None:
    await fill(client, "/api/conversations/1/messages")
    everything = [one["id"] for one in await stored(client)]
    page = await client.get("/api/conversations/1/messages", params={"limit": 7})
    for number in range(3):
        older = sms_webhook(messaging_provider_id=f"older-{number}", timestamp="2024-01-01T00:00:00Z")
        await post(client, "/api/webhooks/sms", older)
    following = await client.get(page.links["next"]["url"])
    assert [one["id"] for one in following.json()] == everything[7:14]
    before = await client.get(following.links["prev"]["url"])
    assert [one["id"] for one in before.json()] == everything[:7]
    assert len((await client.get(before.links["prev"]["url"])).json()) == 3


async def test_a_page_has_a_hundred_rows_unless_it_is_told_otherwise(client: httpx.AsyncClient) -> None:
    given = [sms_webhook(messaging_provider_id=f"{number}") for number in range(101)]
    await asyncio.gather(*(post(client, "/api/webhooks/sms", one) for one in given))
    page = await client.get("/api/conversations/1/messages")
    assert len(page.json()) == 100
    assert [one["id"] for one in (await client.get(page.links["next"]["url"])).json()] == [101]


async def test_links_are_below_the_public_url_where_there_is_one(settings: Settings, serve: Serve) -> None:
    client = await serve(settings.model_copy(update={"public_url": "https://messages.example.com/"}))
    await fill(client, "/api/conversations")
    page = await client.get("/api/conversations/", params={"limit": 7})
    assert page.links["next"]["url"].startswith("https://messages.example.com/api/conversations?limit=7&cursor=")


async def test_a_link_keeps_the_other_parameters_and_nothing_breaks_out_of_it(client: httpx.AsyncClient) -> None:
    await fill(client, "/api/conversations")
    odd = 'a">; rel="prev"\r\nSet-Cookie: x=é'
    page = await client.get("/api/conversations", params={"limit": 7, "odd": odd})
    assert set(page.links) == {"next"}
    assert "set-cookie" not in page.headers
    assert httpx.URL(page.links["next"]["url"]).params["odd"] == odd


@each_case("path", PAGED)
@each_case("limit", ["0", "-1", "1001", "1000000000", "9" * 5000, "1.5", "abc", "", "NaN", "٣", "\x00"])
async def test_a_limit_is_a_whole_number_from_1_to_1000(untouched: httpx.AsyncClient, path: str, limit: str) -> None:
    assert locations_of(await untouched.get(path, params={"limit": limit})) == ["query.limit"]


def cursor_of(*key: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


MOMENT = "2024-11-01T14:00:00+00:00"


@each_case("path", PAGED)
@each_case(
    "cursor",
    [
        "",
        "x",
        "AAAA",
        "=",
        "é",
        "\x00",
        "a" * 201,
        "W10",
        "bnVsbA",
        "e30",
        base64.urlsafe_b64encode(b"[" * 100).decode(),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        cursor_of(MOMENT, 1),
        cursor_of(MOMENT, 1, 0, 0),
        cursor_of(MOMENT, 0, 0),
        cursor_of(MOMENT, -1, 0),
        cursor_of(MOMENT, 2**63, 0),
        cursor_of(MOMENT, "1", 0),
        cursor_of(MOMENT, 1.5, 0),
        cursor_of(MOMENT, True, 0),
        cursor_of("2024-11-01T14:00:00", 1, 0),
        cursor_of("2024-11-01T14:00:00+02:00", 1, 0),
        cursor_of("yesterday", 1, 0),
        cursor_of(1730469600, 1, 0),
        cursor_of(None, None, None),
    ],
)
async def test_a_made_up_cursor_is_refused(untouched: httpx.AsyncClient, path: str, cursor: str) -> None:
    assert locations_of(await untouched.get(path, params={"cursor": cursor})) == ["query.cursor"]


async def test_a_cursor_beyond_all_rows_gives_a_page_and_no_error(client: httpx.AsyncClient) -> None:
    await post(client, "/api/messages/sms", sms())
    for moment in ("0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59.999999+00:00", MOMENT):
        for path, backwards in itertools.product(PAGED, (0, 1)):
            response = await client.get(path, params={"cursor": cursor_of(moment, 2**63 - 1, backwards)})
            assert response.status_code == 200, response.text
            assert len(response.json()) <= 1


async def test_a_cursor_that_lost_a_character_is_refused_or_leads_into_the_list(client: httpx.AsyncClient) -> None:
    await fill(client, "/api/conversations")
    page = await client.get("/api/conversations", params={"limit": 7})
    cursor = httpx.URL(page.links["next"]["url"]).params["cursor"]
    answers = [
        await client.get("/api/conversations", params={"cursor": cursor[:place] + cursor[place + 1 :]})
        for place in range(len(cursor))
    ]
    assert {answer.status_code for answer in answers} <= {200, 422}
    assert sum(answer.status_code == 422 for answer in answers) > len(answers) / 2
