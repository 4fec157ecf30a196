"""JSON made by PostgreSQL is, to the byte, what the models of the document make of the same rows."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from json import loads
from typing import Any

import pytest
from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import selectinload

from app.config import Settings
from app.db.engine import create_serving_engine
from app.db.models import Conversation, DeliveryAttempt, File, Message
from app.schemas.views import ConversationView, MessageDetail, MessageView
from app.services.files.views import FILES_OF_MESSAGE
from app.services.messages.json_views import CONVERSATION, MESSAGE, MESSAGE_DETAIL

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
TIMES = [
    NOON,
    NOON + timedelta(microseconds=1),
    NOON + timedelta(microseconds=120_000),
    NOON + timedelta(microseconds=999_999),
    NOON + timedelta(microseconds=100),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2100, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC),
]
#: Every character that JSON escapes, those that only some writers escape, and some beyond the first plane.
ODD = "".join(map(chr, range(1, 0x100))) + "\u2028\u2029\ufeff\ufffd\U0001f600\U0010ffff </script> \\u0000"
TEXTS = ["", " ", "plain", 'He said "no" \\ twice', "two\nlines\tand a tab\r\n", "ñandú 漢字 🙂", ODD]
DETAILS: list[dict[str, Any] | None] = [
    None,
    {},
    {"from_name": ODD, "author": "slack:U1", "sent_to": "a@b.example", "automatic": "reply"},
    {"from_name": "", "author": None, "reply_to": [], "cc": [], "verdicts": {}, "in_reply_to_message": 0},
    {"reply_to": ["a@b.example", ODD], "cc": ["x"], "in_reply_to_message": 17},
    {"date": NOON.isoformat(), "verdicts": {"spam": "passed", "virus": ODD, "b": "", "aa": "1"}},
    {"date": (NOON + timedelta(microseconds=5)).isoformat()},
    {"quiet_until": NOON.isoformat(), "template": {"name": "code", "language": "en_US"}},
    {
        "template": {
            "name": "a",
            "language": "de",
            "parameters": {"1": ODD, "10": "x", "2": ""},
            "buttons": {"0": "1"},
        }
    },
    {"template": {"name": "a", "language": "de", "parameters": {}, "header": ODD}},
]
LISTS: list[list[str]] = [[], ["https://files.example/a b,c"], ["one", "two", ODD], [""], ["[]", "null", "{}"]]


@pytest.fixture
async def session(settings: Settings, database_url: str) -> AsyncIterator[AsyncSession]:
    engine: AsyncEngine = create_serving_engine(database_url, settings)
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


async def fill(session: AsyncSession) -> None:
    """Conversations and messages with every value in every column that it fits."""
    for number, moment in enumerate(TIMES):
        values = {"customer_address": f"{number}{TEXTS[number]}", "contact_address": TEXTS[-number]}
        pause = (None, NOON.replace(year=2001), moment.replace(year=2099))[number % 3]
        row = {"tenant_id": 1, "last_activity_at": moment, "message_count": number, "paused_until": pause, **values}
        row["window_until"] = (moment.replace(year=2098), None, pause)[number % 3]
        await session.execute(insert(Conversation).values(row))
    for number in range(70):
        message = {
            "tenant_id": 1,
            "conversation_id": 1,
            "direction": "inbound" if number % 2 else "outbound",
            "channel": "email",
            "type": "email",
            "from_address": TEXTS[number % 7],
            "to_address": TEXTS[number // 7 % 7],
            "subject": None if number % 3 else TEXTS[number % 7],
            "body": TEXTS[(number + 3) % 7],
            "quoted": None if number % 5 else TEXTS[number % 7],
            "html": [None, "", "<p>x</p>", ODD][number % 4],
            "details": DETAILS[number % len(DETAILS)],
            "priority": number % 3,
            "batch_id": number % 2 or None,
            "batch_line": number if number % 2 else None,
            "attachments": LISTS[number % len(LISTS)],
            "status": "failed",
            "status_reason": None if number % 2 else TEXTS[number % 7],
            "provider_type": None if number % 4 else "acme",
            "provider_message_id": f"{number}",
            "due_at": None if number % 2 else TIMES[number % len(TIMES)],
            "expires_at": None if number % 3 else TIMES[number % len(TIMES)],
            "sent_at": TIMES[number % len(TIMES)],
            "created_at": TIMES[(number + 1) % len(TIMES)],
        }
        await session.execute(insert(Message).values(message))
    for message_id, attempts in ((1, 3), (2, 1)):
        for number in range(1, attempts + 1):
            attempt = {
                "tenant_id": 1,
                "message_id": message_id,
                "number": number,
                "provider_type": "acme",
                "routed_because": None if number % 2 else ODD,
                "outcome": None if number == 3 else "temporary",
                "detail": TEXTS[number],
                "started_at": TIMES[number],
                "finished_at": None if number == 3 else TIMES[number + 1],
            }
            await session.execute(insert(DeliveryAttempt).values(attempt))


async def test_it_is_what_the_models_make_of_the_rows(session: AsyncSession) -> None:
    await fill(session)
    kinds: list[tuple[type[Any], type[Any], ColumnElement[str]]] = [
        (Conversation, ConversationView, CONVERSATION),
        (Message, MessageView, MESSAGE),
        (Message, MessageDetail, MESSAGE_DETAIL),
    ]
    for model, view, json in kinds:
        rows = select(model).where(model.tenant_id == 1).order_by(model.id)
        if view is MessageDetail:
            rows = rows.options(selectinload(Message.attempts))
        asked = select(json).where(model.tenant_id == 1).order_by(model.id)
        made = (await session.scalars(asked, {"tenant": 1})).all()
        expected = [
            TypeAdapter(view).dump_json(view.model_validate(row), by_alias=True).decode()
            for row in await session.scalars(rows)
        ]
        assert len(made) > 5
        for one, other in zip(made, expected, strict=True):
            assert one == other


async def test_files_are_what_the_model_makes_of_the_same_json(session: AsyncSession) -> None:
    await fill(session)
    states: dict[str, dict[str, Any]] = {
        "stored": {"content": b"x", "size": 1},
        "pending": {"source": "x"},
        "unavailable": {"reason": ODD},
    }
    for number, (status, values) in enumerate(states.items()):
        file = {"name": TEXTS[number + 3] or "a", "content_type": "image/png", "size": 0, "status": status, **values}
        await session.execute(insert(File).values(tenant_id=1, id=f"{number}" * 64, **file))
    paths = [f"/api/files/{number * 64}/{name}" for number, name in zip("20193", "abcde", strict=True)]
    for attachments in (paths, ["https://files.example/api/files/x", paths[0]], paths[3:4], ["/api/files/x"]):
        await session.execute(insert(Message).values({**DETAILS_OF_A_MAIL, "attachments": attachments}))
    columns = [*Message.__table__.c, FILES_OF_MESSAGE.label("files")]
    asked = select(*columns).where(Message.tenant_id == 1).order_by(Message.id)
    rows = (await session.execute(asked, {"tenant": 1})).all()
    shown_as = select(MESSAGE).where(Message.tenant_id == 1).order_by(Message.id)
    made = (await session.scalars(shown_as, {"tenant": 1})).all()
    assert [MessageView.model_validate(row).model_dump_json(by_alias=True) for row in rows] == made
    shown = [[file["path"] for file in loads(each)["files"]] for each in made if "files" in loads(each)]
    assert shown == [[path for path in paths if path[11] in "012"], paths[:1]]


async def test_a_time_of_a_mail_in_another_zone_is_shown_in_utc(session: AsyncSession) -> None:
    await fill(session)
    there = NOON.astimezone(timezone(timedelta(hours=2)))
    message = {**DETAILS_OF_A_MAIL, "details": {"date": there.isoformat()}}
    await session.execute(insert(Message).values(message))
    made = await session.scalar(
        select(MESSAGE).where(Message.tenant_id == 1).order_by(Message.id.desc()).limit(1), {"tenant": 1}
    )
    assert '"date":"2026-03-01T12:00:00Z"' in str(made)


DETAILS_OF_A_MAIL = {
    "tenant_id": 1,
    "conversation_id": 1,
    "direction": "inbound",
    "channel": "email",
    "type": "email",
    "from_address": "a@b.example",
    "to_address": "c@d.example",
    "body": "",
    "attachments": [],
    "status": "received",
    "sent_at": NOON,
}
