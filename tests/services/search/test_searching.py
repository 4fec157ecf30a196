"""Searching: words, phrases, addresses and names, page by page, and only what is the tenant's own."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.config import Settings
from app.db.models import Tenant
from app.db.statements.reads import Reads
from app.details import MessageDetails
from app.domain import Address, AddressType, Direction, NewMessage
from app.errors import InvalidRequest
from app.schemas.search import HitKind
from app.services.accept.store_stepwise import store_messages
from app.services.event_log.entries import add_log
from app.services.messages.conversation_state import ConversationChange, change_state
from app.services.search.indexing import Indexer, index_rows
from app.services.search.searching import Search
from app.services.search.words import SECTION

pytestmark = pytest.mark.anyio

FIRST, SECOND = "+12016661234", "+18045551234"
Hit = dict[str, Any]


@pytest.fixture
async def reads(settings: Settings, database_url: str) -> AsyncIterator[Reads]:
    async with Reads(database_url, settings) as reads:
        yield reads


def new(body: str, contact: str = SECOND, *, name: str | None = None, **changes: Any) -> NewMessage:
    kind = AddressType.EMAIL if "@" in contact else AddressType.PHONE
    us, them = Address(AddressType.PHONE, "+19995550000", ""), Address(kind, contact, contact)
    details = MessageDetails(from_name=name)
    return NewMessage(Direction.INBOUND, "sms", "sms", them, us, body, details=details, **changes)


async def store(engine: AsyncEngine, *messages: NewMessage, tenant_id: int = 1) -> list[int]:
    async with engine.begin() as connection:
        stored = await store_messages(connection, tenant_id, messages)
        await index_all(connection, tenant_id)
    return [each.id for each in stored]


async def index_all(connection: AsyncConnection, tenant_id: int = 1) -> None:
    while await index_rows(connection, tenant_id):
        pass


async def hits(reads: Reads, q: str, kind: HitKind | None = None, *, tenant_id: int = 1) -> list[Hit]:
    page = await Search(reads, tenant_id).page(q, kind=kind, limit=50)
    return [json.loads(row) for row in page.rows]


async def messages(reads: Reads, q: str) -> list[int]:
    return [hit["message_id"] for hit in await hits(reads, q, HitKind.MESSAGE)]


async def addresses(reads: Reads, q: str) -> list[str]:
    return [hit["address"] for hit in await hits(reads, q, HitKind.CONTACT)]


@pytest.mark.parametrize(
    ("body", "found", "missed"),
    [
        (
            "Your delivery is late",
            ["delivery", "DELIVERY", "deliv", "late delivery", "is late"],
            ["deliv late", "ate"],
        ),
        ("Your delivery is late", ['"is late"', '"is la', '"delivery is" late'], ['"late is"', '"is la"']),
        ("Grüße aus der Straße", ["grusse", "Grüße", "strasse", "STRASSE", "Stra"], ["gruse"]),
        (
            "明日、東京都庁へ配送します",
            ["東京", "東京都", "配送", "庁", "明日", "配送します"],
            ["京東", "東都", "大阪"],
        ),
        ("ไปกรุงเทพวันนี้", ["กรุงเทพ", "วันนี้", "ไป"], ["เชียงใหม่"]),
        ("去北京出差", ["北京", "出差", "北京出差"], ["上海"]),
        ("Meet at 東京Tower 東西 side", ["東京Tower", '"at 東京tower 東西 side"', '"東西 side"'], ['"東京 side"']),
        ("Write to doe@example.com!", ["doe@example.com", "doe", "example.com"], ["example@doe.com"]),
        ("Order #4711-B: 12,50 €", ["4711", "4711-B", "#4711", "12,50"], ["711"]),
        ("naïve co-operation", ["naive", "co-operation", '"co operation"'], ["cooperation"]),
        ("<b>bold</b> & sons", ["bold", "sons"], ["bolder"]),
        ("don't", ["don't", "don"], ["dont"]),
        ("x" * 100, ["x" * 100, "x" * 40], ["y" * 100]),
    ],
)
async def test_a_message_is_found_by_its_words(
    engine: AsyncEngine, reads: Reads, body: str, found: list[str], missed: list[str]
) -> None:
    [_, id, _] = await store(engine, new("another text"), new(body), new("and one more"))
    assert {q: await messages(reads, q) for q in found} == {key: [id] for key in found}
    assert {q: await messages(reads, q) for q in missed} == {q: [] for q in missed}


async def test_a_mail_is_found_by_its_subject_and_by_the_words_of_its_html(engine: AsyncEngine, reads: Reads) -> None:
    html = "<!doctype html><html><style>hidden{}</style><p>Visible <b>parcel</b></p></html>"
    mail = NewMessage(
        Direction.OUTBOUND,
        "email",
        "email",
        Address(AddressType.EMAIL, "us@example.com", ""),
        Address(AddressType.EMAIL, "them@example.com", ""),
        html,
        subject="Your order",
    )
    [id] = await store(engine, mail)
    for q in ("your order", "visible parcel", "order visible"):
        assert await messages(reads, q) == [id]
    for q in ("hidden", "html", "style"):
        assert await messages(reads, q) == []
    [hit] = await hits(reads, "parcel", HitKind.MESSAGE)
    assert hit["subject"] == "Your order"
    assert [part["text"] for part in hit["snippet"] if part["match"]] == ["parcel"]


async def test_a_hit_tells_where_it_is(engine: AsyncEngine, reads: Reads) -> None:
    [id] = await store(engine, new("Your parcel"))
    [hit] = await hits(reads, "parcel")
    assert hit.pop("sent_at").endswith("Z")
    assert hit == {
        "kind": "message",
        "conversation_id": 1,
        "message_id": id,
        "channel": "sms",
        "direction": "inbound",
        "snippet": [{"text": "Your ", "match": False}, {"text": "parcel", "match": True}],
    }


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("(201) 666-1234", [FIRST]),
        ("+1 201.666.1234", [FIRST]),
        ("6661234", [FIRST]),
        ("0201 6661234", [FIRST]),
        ("1234", [SECOND, FIRST]),
        ("12", [FIRST]),
        ("34", []),
        ("666-9999", []),
        ("doe@", ["jane.doe@example.com"]),
        ("DOE@EXAMPLE", ["jane.doe@example.com"]),
        ("ne.doe", ["jane.doe@example.com"]),
        ("jane", ["jane.doe@example.com", FIRST]),
        ("nunez", [FIRST]),
        ("Jane Núñez", [FIRST]),
        ("núñez jan", [FIRST]),
        ("jane 666", [FIRST]),
        ("li", [SECOND]),
        ("山田", [SECOND]),
        ("太郎", [SECOND]),
        ("o'br", []),
        ("\\", []),
        ("%", []),
        ("___", []),
    ],
)
async def test_a_contact_is_found_by_parts_of_address_and_name(
    engine: AsyncEngine, reads: Reads, q: str, found: list[str]
) -> None:
    people = [
        new("one", FIRST, name="Jané Núñez"),
        new("two", SECOND, name="Li 山田太郎"),
        new("three", "jane.doe@example.com"),
    ]
    for each in people:
        await store(engine, each)
    assert await addresses(reads, q) == found


async def test_a_contact_leads_to_its_latest_conversation_and_our_own_addresses_are_none(
    engine: AsyncEngine, reads: Reads
) -> None:
    await store(engine, new("one", FIRST, name="Jane"))
    other = Address(AddressType.PHONE, "+19995550001", "")
    them = Address(AddressType.PHONE, FIRST, FIRST)
    await store(engine, NewMessage(Direction.INBOUND, "sms", "sms", them, other, "two"))
    [hit] = await hits(reads, "201666")
    assert (hit["kind"], hit["address"], hit["name"], hit["conversation_id"]) == ("contact", FIRST, "Jane", 2)
    assert await addresses(reads, "9995550") == []


async def test_contacts_stand_in_front_of_messages(engine: AsyncEngine, reads: Reads) -> None:
    for number in range(7):
        await store(engine, new("jane wrote this", f"jane{number}@example.com"))
    kinds = [hit["kind"] for hit in await hits(reads, "jane")]
    assert kinds == ["contact"] * 5 + ["message"] * 7
    search = Search(reads, 1)
    first = await search.page("jane", limit=5)
    assert [json.loads(row)["kind"] for row in first.rows] == ["contact"] * 5
    second = await search.page("jane", limit=5, cursor=first.next)
    third = await search.page("jane", limit=5, cursor=second.next)
    assert [json.loads(row)["message_id"] for row in (*second.rows, *third.rows)] == [7, 6, 5, 4, 3, 2, 1]
    assert third.next is None


async def test_conversations_are_found_by_a_tag_the_latest_first(engine: AsyncEngine, reads: Reads) -> None:
    await store(engine, new("one", FIRST), new("two", SECOND), new("three", "jane.doe@example.com"))
    async with engine.begin() as connection:
        for id, tags in ((1, ["vip", "late"]), (2, ["VIP"]), (3, ["vipers"])):
            await change_state(connection, 1, id, ConversationChange(tags=tags), by=None)
    conversations = [(hit["tag"], hit["conversation_id"]) for hit in await hits(reads, "Vip", HitKind.TAG)]
    assert sorted(conversations) == [("VIP", 2), ("vip", 1)]
    assert [hit["kind"] for hit in await hits(reads, "late")] == ["tag"]
    assert await hits(reads, "vi", HitKind.TAG) == await hits(reads, "\x00", HitKind.TAG) == []
    assert await hits(reads, "vip", tenant_id=2) == []


async def test_contacts_have_pages(engine: AsyncEngine, reads: Reads) -> None:
    for number in range(5):
        await store(engine, new("hello", f"jane{number}@example.com"))
    found: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        page = await Search(reads, 1).page("jane", kind=HitKind.CONTACT, limit=2, cursor=cursor)
        found += [json.loads(row)["address"] for row in page.rows]
        cursor = page.next
    assert found == [f"jane{number}@example.com" for number in (4, 3, 2, 1, 0)]
    assert cursor is None


async def test_pages_go_through_all_sections_from_the_newest_to_the_oldest(engine: AsyncEngine, reads: Reads) -> None:
    ids: list[int] = []
    for section in (0, 1, 2, 7, 400):
        async with engine.begin() as connection:
            sequence = text("SELECT setval(pg_get_serial_sequence('messages', 'id'), :last)")
            everything = sequence.execution_options(all_tenants="a test moves the ids")
            await connection.execute(everything, {"last": (section + 1) * SECTION - 2})
        ids += await store(engine, *(new(f"parcel {number}") for number in range(4)))
    found: list[int] = []
    cursor: str | None = None
    while True:
        page = await Search(reads, 1).page("parcel", kind=HitKind.MESSAGE, limit=3, cursor=cursor)
        found += [json.loads(row)["message_id"] for row in page.rows]
        cursor = page.next
        if cursor is None:
            break
    assert found == sorted(ids, reverse=True)


@pytest.mark.parametrize(
    "cursor", ["", "x", "1", "m", "m0", "m-1", "m99999999999999999999", "c1", "mm1", "m1\x00", "\uff4d1"]
)
async def test_a_cursor_of_something_else_is_refused(reads: Reads, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        await Search(reads, 1).page("parcel", kind=HitKind.MESSAGE, limit=3, cursor=cursor)


@pytest.mark.parametrize(
    "q", ["", " ", "...!?", '"', '""', "\x00", "👍", "&", "'", "\\", "a" * 10_000, "a " * 5_000, '"' * 999]
)
async def test_an_odd_search_finds_nothing(engine: AsyncEngine, reads: Reads, q: str) -> None:
    await store(engine, new("Your parcel"))
    assert await hits(reads, q) == []


async def test_a_search_finds_only_what_is_the_tenants_own(engine: AsyncEngine, reads: Reads) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(Tenant).values(id=11, name="Osprey"))
        await add_log(connection, 11)
    await store(engine, new("parcel of one", FIRST, name="Jane"))
    await store(engine, new("parcel of eleven", FIRST, name="Jane"), tenant_id=11)
    for tenant_id, word in ((1, "one"), (11, "eleven")):
        [contact] = await hits(reads, "jane", HitKind.CONTACT, tenant_id=tenant_id)
        [message] = await hits(reads, "parcel", HitKind.MESSAGE, tenant_id=tenant_id)
        assert "".join(part["text"] for part in message["snippet"]) == f"parcel of {word}"
        assert contact["conversation_id"] == message["conversation_id"]
    assert await hits(reads, "eleven") == []
    assert await hits(reads, "11") == []


async def test_while_the_index_lags_what_is_indexed_is_found(engine: AsyncEngine, reads: Reads) -> None:
    [indexed] = await store(engine, new("parcel 1"))
    async with engine.begin() as connection:
        stored = await store_messages(connection, 1, [new(f"parcel {number}") for number in range(2, 30)])
    assert await messages(reads, "parcel") == [indexed]
    async with engine.begin() as connection:
        await index_rows(connection, 1, 10)
    some = await messages(reads, "parcel")
    assert some[-1] == indexed
    assert 1 < len(some) < 29
    await Indexer(engine).run()
    assert await messages(reads, "parcel") == [*sorted((each.id for each in stored), reverse=True), indexed]


async def test_a_message_whose_words_outlived_it_is_not_found(engine: AsyncEngine, reads: Reads) -> None:
    [id] = await store(engine, new("parcel"))
    async with engine.begin() as connection:
        gone = text(f"DELETE FROM messages WHERE id = {id}").execution_options(all_tenants="a test")
        await connection.execute(gone)
    assert await messages(reads, "parcel") == []
