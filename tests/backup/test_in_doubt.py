"""The queue after a restore: what may have left since the backup is in doubt, and is not sent by itself."""

from typing import Any

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.backup.in_doubt import put_in_doubt
from app.config import Settings
from app.db.models import DeliveryAttempt, Event, Message, Tenant
from app.db.tenant_guard import ALL_TENANTS
from app.domain import MessageStatus
from tests.factories import make_messages

pytestmark = pytest.mark.anyio

_REASON = "Restored from the backup of 2026-11-30T13:00:00+00:00. It may have gone out since."


async def tried(connection: AsyncConnection, message_id: int, provider: str, outcome: str | None) -> None:
    """Give a message one attempt."""
    values = {"tenant_id": 1, "message_id": message_id, "number": 1, "provider_type": provider, "outcome": outcome}
    await connection.execute(insert(DeliveryAttempt).values(**values, started_at=func.now()))
    changed = update(Message).where(Message.tenant_id == 1, Message.id == message_id)
    await connection.execute(changed.values(attempt_count=1, provider_type=provider))


async def attempts(connection: AsyncConnection, message_id: int) -> list[tuple[int, str, str | None]]:
    columns = (DeliveryAttempt.number, DeliveryAttempt.provider_type, DeliveryAttempt.outcome)
    found = select(*columns).where(DeliveryAttempt.tenant_id == 1, DeliveryAttempt.message_id == message_id)
    return [(row[0], row[1], row[2]) for row in await connection.execute(found.order_by(DeliveryAttempt.number))]


async def message(connection: AsyncConnection, message_id: int) -> Any:
    return (
        await connection.execute(select(Message.__table__).where(Message.tenant_id == 1, Message.id == message_id))
    ).one()


async def test_each_message_that_waited_is_in_doubt_with_its_provider(
    engine: AsyncEngine, settings: Settings
) -> None:
    async with engine.begin() as connection:
        new, failed, sending, doubtful = await make_messages(connection, 4)
        await tried(connection, failed, "telnyx", "temporary")
        await tried(connection, sending, "vonage", None)
        await tried(connection, doubtful, "twilio", "unknown")
        for id, status in ((sending, MessageStatus.SENDING), (doubtful, MessageStatus.UNKNOWN)):
            changed = update(Message).where(Message.tenant_id == 1, Message.id == id)
            await connection.execute(changed.values(status=status.value))
    waiting = [new, failed, sending, doubtful]

    assert (
        await put_in_doubt(engine, settings.model_copy(update={"routes": {"sms": ["plivo", "twilio"]}}), _REASON) == 4
    )

    async with engine.connect() as connection:
        rows = [await message(connection, id) for id in waiting]
        assert {(row.status, row.due_at, row.status_reason) for row in rows} == {("unknown", None, _REASON)}
        assert await attempts(connection, new) == [(1, "plivo", "unknown")]
        assert await attempts(connection, failed) == [(1, "telnyx", "temporary"), (2, "telnyx", "unknown")]
        assert await attempts(connection, sending) == [(1, "vonage", "unknown")]
        assert await attempts(connection, doubtful) == [(1, "twilio", "unknown")]
        assert [row.attempt_count for row in rows] == [1, 2, 1, 1]
        told = select(Event.message_id).where(Event.tenant_id == 1, Event.type == "message.unknown")
        assert set(await connection.scalars(told)) == {new, failed, sending}
    assert await put_in_doubt(engine, settings, _REASON) == 0


async def test_what_has_left_and_what_its_caller_wants_later_stay_as_they_are(
    engine: AsyncEngine, settings: Settings
) -> None:
    async with engine.begin() as connection:
        [sent] = await make_messages(connection, status=MessageStatus.SENT)
        later, due = await make_messages(connection, 2, status=MessageStatus.SCHEDULED)
        for id, hours in ((later, 1), (due, -1)):
            moment = func.now() + text(f"interval '{hours} hours'")
            changed = update(Message).where(Message.tenant_id == 1, Message.id == id)
            await connection.execute(changed.values(send_at=moment, due_at=moment))

    assert await put_in_doubt(engine, settings, _REASON) == 1

    async with engine.connect() as connection:
        found = [(await message(connection, id)).status for id in (sent, later, due)]
        assert found == ["sent", "scheduled", "unknown"]
        assert (await message(connection, later)).due_at is not None


async def test_messages_of_test_tenants_stay_with_the_test_carrier(engine: AsyncEngine, settings: Settings) -> None:
    async with engine.begin() as connection:
        added = insert(Tenant).values(name="test", test_of=1).returning(Tenant.id)
        tenant_id = int((await connection.execute(added)).scalar_one())
        await connection.execute(
            text(
                "INSERT INTO event_logs (tenant_id, generation, server_started_at)"
                " VALUES (:tenant, 1, pg_postmaster_start_time())"
            ).execution_options(**{ALL_TENANTS: "a new log"}),
            {"tenant": tenant_id},
        )
        [id] = await make_messages(connection, tenant_id=tenant_id)

    assert await put_in_doubt(engine, settings, _REASON) == 1

    async with engine.connect() as connection:
        wanted = (DeliveryAttempt.tenant_id == tenant_id, DeliveryAttempt.message_id == id)
        assert await connection.scalar(select(DeliveryAttempt.provider_type).where(*wanted)) == "test"
