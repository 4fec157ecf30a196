"""Messages of a day, counted by all processes together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime

import psycopg2
import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker

from app.addresses import email_address, phone_address
from app.config import Settings
from app.db.engine import create_serving_engine
from app.domain import Channel, Direction, NewMessage
from app.errors import DailyCapReached
from app.phone_numbers import country_of
from app.services.limits.daily_caps import Charge, DailyCaps, forget_daily_budgets
from app.services.limits.tenant_limits import TenantLimitsCache
from tests.cases import each_case
from tests.wire import rows_of

pytestmark = pytest.mark.anyio

Process = Callable[..., Awaitable[DailyCaps]]


@pytest.fixture
async def process(settings: Settings) -> AsyncIterator[Process]:
    """Makes the daily caps of processes that share nothing but the database, and stops them in order at the end."""
    async with AsyncExitStack() as stack:

        async def make(deadline_seconds: float = 4, **caps: int) -> DailyCaps:
            own = settings.model_copy(update={"daily_caps": caps})
            assert own.database_url
            engine = create_serving_engine(own.database_url.get_secret_value(), own)
            stack.push_async_callback(engine.dispose)
            daily_caps = DailyCaps(
                engine,
                TenantLimitsCache(async_sessionmaker(engine), own, deadline_seconds=4),
                default_region="US",
                deadline_seconds=deadline_seconds,
            )
            return await stack.enter_async_context(daily_caps)

        yield make


def text(to: str = "+18045551234", body: str = "Hello!") -> NewMessage:
    sender, recipient = (
        phone_address(written, region="US", may_be_alphanumeric=False) for written in ("+12016661234", to)
    )
    return NewMessage(Direction.OUTBOUND, Channel.SMS, "sms", sender, recipient, body)


def mail() -> NewMessage:
    sender, recipient = email_address("user@example.com"), email_address("contact@example.com")
    return NewMessage(Direction.OUTBOUND, Channel.EMAIL, "email", sender, recipient, "Hello!")


async def set_aside(daily_caps: DailyCaps, message: NewMessage) -> Charge | None:
    return await daily_caps.set_aside(1, message.channel, message.recipient, message.body)


async def allowed(daily_caps: DailyCaps, count: int, message: NewMessage | None = None) -> int:
    """Of so many messages at once, the number that the cap allows."""

    async def one() -> bool:
        try:
            await set_aside(daily_caps, message or text())
        except DailyCapReached:
            return False
        return True

    return sum(await asyncio.gather(*(one() for _ in range(count))))


def used(database_url: str) -> list[tuple[object, ...]]:
    return rows_of(database_url, "SELECT destination, used FROM daily_budgets ORDER BY destination")


@pytest.mark.parametrize("cap", [0, 1, 7, 100, 1500])
async def test_one_process_sends_what_the_cap_allows_and_not_one_more(process: Process, cap: int) -> None:
    daily_caps = await process(US=cap)
    assert await allowed(daily_caps, cap + 50) == cap


async def test_many_processes_together_never_go_beyond_the_cap(process: Process, database_url: str) -> None:
    all_caps = [await process(US=200) for _ in range(4)]
    taken = sum(await asyncio.gather(*(allowed(daily_caps, 100) for daily_caps in all_caps)))
    assert 170 <= taken <= 200
    # What idle processes hold on to they give back when they stop.
    for daily_caps in all_caps[1:]:
        await daily_caps.__aexit__()
        daily_caps._leased.clear()
    [(_, counted)] = used(database_url)
    assert counted == taken + sum(lease.units for lease in all_caps[0]._leased.values())


async def test_texts_count_by_their_segments_and_what_does_not_fit_leaves_room_for_what_does(
    process: Process,
) -> None:
    daily_caps = await process(US=5)
    three_segments = text(body="x" * 400)
    assert await allowed(daily_caps, 1, three_segments) == 1
    assert await allowed(daily_caps, 1, three_segments) == 0
    assert await allowed(daily_caps, 5) == 2


async def test_who_stands_in_line_behind_a_row_that_does_not_answer_gives_up_together_with_the_first(
    process: Process, database_url: str
) -> None:
    daily_caps = await process(deadline_seconds=0.2, US=1000)
    with closing(psycopg2.connect(database_url)) as other:
        other.cursor().execute("LOCK TABLE daily_budgets")
        async with asyncio.timeout(60):  # one after another, they would take 80 seconds
            calls = (set_aside(daily_caps, text()) for _ in range(600))
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {TimeoutError}
    assert await allowed(await process(US=1000), 1) == 1


async def test_each_destination_has_a_cap_of_its_own(process: Process, database_url: str) -> None:
    daily_caps = await process(**{"*": 2, "GB": 3, "KP": 0})
    assert await allowed(daily_caps, 5, text("+442079460000")) == 3
    assert await allowed(daily_caps, 5, text("+4915112345678")) == 2
    assert await allowed(daily_caps, 5, text("+85021234567")) == 0
    assert await allowed(daily_caps, 5, mail()) == 2
    assert [destination for destination, _ in used(database_url)] == ["DE", "GB", "email"]


async def test_what_is_not_named_has_no_cap_and_is_not_counted(process: Process, database_url: str) -> None:
    daily_caps = await process(GB=1)
    assert await allowed(daily_caps, 50) == 50
    assert used(database_url) == []


async def test_what_was_not_stored_is_given_back(process: Process) -> None:
    daily_caps = await process(US=1)
    charge = await set_aside(daily_caps, text())
    assert charge is not None
    assert await allowed(daily_caps, 1) == 0
    daily_caps.give_back(charge)
    assert await allowed(daily_caps, 2) == 1


async def test_whoever_is_refused_is_told_to_come_back_after_midnight(process: Process) -> None:
    daily_caps = await process(US=0)
    with pytest.raises(DailyCapReached) as refused:
        await set_aside(daily_caps, text())
    assert refused.value.retry_after is not None
    now = datetime.now(UTC)
    midnight = 86_400 - (now.hour * 3600 + now.minute * 60 + now.second)
    assert refused.value.retry_after % 86_400 == pytest.approx(midnight % 86_400, abs=5)


async def test_days_that_are_over_are_forgotten(process: Process, settings: Settings, database_url: str) -> None:
    daily_caps = await process(US=5)
    await allowed(daily_caps, 1)
    async with daily_caps._engine.begin() as connection:
        for days in (1, 2):
            await connection.exec_driver_sql(
                f"INSERT INTO daily_budgets (tenant_id, day, destination) VALUES (1, current_date - {days}, 'US')",
                execution_options={"all_tenants": "a fixture"},
            )
    await forget_daily_budgets(daily_caps._engine)
    assert len(used(database_url)) == 2


@each_case(
    ("number", "country"),
    [
        ("+18045551234", "US"),
        ("+18765551234", "JM"),
        ("+15005550200", "US"),
        ("+77011234567", "KZ"),
        ("+79161234567", "RU"),
        ("+442079460000", "GB"),
        ("+80012345678", "001"),
        ("12345", "FR"),
    ],
)
def test_the_country_of_a_number(number: str, country: str) -> None:
    assert country_of(number, "FR") == country
