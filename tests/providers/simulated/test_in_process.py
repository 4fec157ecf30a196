"""In-process carriers: the failure for each recipient, and the receipts that reach the sink."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from app.domain import MessageStatus
from app.providers.base import (
    CallbackItem,
    CredentialsRefused,
    InboundMessage,
    PermanentFailure,
    ProviderFailure,
    Receipt,
    TemporaryFailure,
    UnknownOutcome,
    send_through,
)
from app.providers.email import EmailProvider
from app.providers.simulated.in_process import Outbox, SimulatedCarrier
from app.providers.sms import SmsProvider
from app.providers.toolbox.http_client import LONGEST_RETRY_AFTER
from tests.cases import each_case
from tests.providers import outbound, simulator_settings

pytestmark = pytest.mark.anyio

Connect = Callable[..., tuple[SimulatedCarrier, "Sink"]]


class Sink:
    """Keeps the items it is given, after raising `raises` times."""

    def __init__(self, raises: int = 0) -> None:
        self.events: asyncio.Queue[CallbackItem] = asyncio.Queue()
        self.raises = raises

    async def __call__(self, event: CallbackItem) -> None:
        if self.raises:
            self.raises -= 1
            raise ConnectionError("away")
        self.events.put_nowait(event)

    async def next(self) -> CallbackItem:
        async with asyncio.timeout(60):
            return await self.events.get()

    async def statuses(self, count: int) -> list[MessageStatus | None]:
        events = [await self.next() for _ in range(count)]
        return [event.status for event in events if isinstance(event, Receipt)]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes carriers with a sink. They are closed when the test ends."""
    carriers = []

    def make(**values: object) -> tuple[SimulatedCarrier, Sink]:
        carrier, sink = SmsProvider(simulator_settings(**values)), Sink()
        carrier.connect(sink)
        carriers.append(carrier)
        return carrier, sink

    yield make
    for carrier in carriers:
        await carrier.close()


def carrier_with(**values: object) -> SimulatedCarrier:
    return SmsProvider(simulator_settings(**values))


async def test_the_built_in_carriers_need_no_arguments_and_give_ids_of_their_own() -> None:
    texts = [(await send_through(SmsProvider(), outbound())).provider_message_id for _ in range(3)]
    mail = await send_through(EmailProvider(), outbound("jane@example.com"))
    assert len(set(texts)) == 3
    assert all(id and id.startswith("sms-") for id in texts)
    assert mail.provider_message_id is not None
    assert mail.provider_message_id.startswith("email-")


@each_case(
    ("to", "failures"),
    [
        ("+15005550200", [TemporaryFailure, TemporaryFailure]),
        ("+15005550300", [UnknownOutcome, UnknownOutcome]),
        ("+15005551200", [UnknownOutcome]),
        ("+15005550500", [CredentialsRefused]),
        ("+15005550600", [UnknownOutcome]),
        ("+15005550700", [UnknownOutcome]),
        ("+15005550900", [UnknownOutcome]),
        ("+15005551000", [UnknownOutcome]),
        ("+15005551100", [UnknownOutcome]),
        ("reset-after@simulator.test", [UnknownOutcome]),
    ],
)
async def test_what_goes_wrong_looks_as_it_would_to_a_client_and_passes(
    to: str, failures: list[type[ProviderFailure]]
) -> None:
    carrier, message = carrier_with(), outbound(to)
    for failure in failures:
        with pytest.raises(failure) as raised:
            await carrier.send(message)
        assert str(raised.value)
    assert (await carrier.send(message)).provider_message_id


async def test_a_refused_recipient_stays_refused() -> None:
    carrier, message = carrier_with(), outbound("+15005550400")
    for _ in range(3):
        with pytest.raises(PermanentFailure, match="400"):
            await carrier.send(message)


@each_case(("asked", "told"), [(7, 7), (0, 0), (-5, 0), (10**9, LONGEST_RETRY_AFTER)])
async def test_a_throttled_carrier_says_when_to_come_back(asked: float, told: float) -> None:
    with pytest.raises(TemporaryFailure) as raised:
        await carrier_with(retry_after_seconds=asked).send(outbound("+15005550200"))
    assert (raised.value.throttled, raised.value.retry_after) == (True, told)


async def test_what_is_beyond_the_carrier_s_rate_is_throttled_whoever_it_is_for() -> None:
    carrier = carrier_with(rate=0.01)
    assert (await carrier.send(outbound())).provider_message_id
    with pytest.raises(TemporaryFailure) as raised:
        await carrier.send(outbound("+15005550400"))
    assert raised.value.throttled


async def test_failures_are_counted_for_each_message() -> None:
    carrier = carrier_with(failures_before_ok=1)
    for message in (outbound("+15005550300"), outbound("+15005550300")):
        with pytest.raises(UnknownOutcome):
            await carrier.send(message)
        await carrier.send(message)


async def test_a_silent_carrier_never_answers_though_it_has_accepted(connect: Connect) -> None:
    carrier, sink = connect()
    message = outbound("+15005550800")
    sending = asyncio.create_task(carrier.send(message))
    first = await sink.next()
    assert not sending.done()
    sending.cancel()
    again = await carrier.send(message)
    assert isinstance(first, Receipt)
    assert again.provider_message_id == first.provider_message_id


async def test_a_slow_carrier_has_accepted_before_it_answers(connect: Connect) -> None:
    carrier, _ = connect(slow_seconds=3600)
    message = outbound("+15005550100")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await carrier.send(message)
    assert (await carrier.send(message)).provider_message_id


async def test_a_repeated_key_gets_the_first_id_and_sends_nothing(connect: Connect) -> None:
    carrier, sink = connect()
    message = outbound("+15005550700")
    with pytest.raises(UnknownOutcome):
        await carrier.send(message)
    ids = {(await carrier.send(message)).provider_message_id for _ in range(3)}
    assert await sink.statuses(2) == [MessageStatus.SENT, MessageStatus.DELIVERED]
    await carrier.send(outbound("+15005550000"))
    after = await sink.next()
    assert isinstance(after, Receipt)
    assert len(ids) == 1
    assert after.provider_message_id not in ids  # and the repeats sent no receipt in between


async def test_a_carrier_without_keys_accepts_a_repeat_once_more() -> None:
    carrier, message = carrier_with(honours_idempotency_key=False), outbound()
    assert carrier.honours_idempotency_key is False
    assert len({(await carrier.send(message)).provider_message_id for _ in range(3)}) == 3


async def test_keys_are_remembered_up_to_a_limit_the_latest_used_longest() -> None:
    carrier = carrier_with(remembered_keys=2)
    first, second, third = (outbound() for _ in range(3))
    one, two = await carrier.send(first), await carrier.send(second)
    assert await carrier.send(first) == one
    await carrier.send(third)
    assert await carrier.send(first) == one
    assert await carrier.send(second) != two


async def test_receipts_follow_the_answer(connect: Connect) -> None:
    carrier, sink = connect()
    message = outbound()
    result = await carrier.send(message)
    events = [await sink.next(), await sink.next()]
    assert all(isinstance(event, Receipt) for event in events)
    assert [event.status for event in events if isinstance(event, Receipt)] == ["sent", "delivered"]
    for event in events:
        assert isinstance(event, Receipt)
        assert event.provider_message_id == result.provider_message_id
        assert event.idempotency_key == message.idempotency_key


async def test_receipts_that_come_first_have_come_when_the_answer_does(connect: Connect) -> None:
    carrier, sink = connect()
    result = await carrier.send(outbound("+15005552400"))
    events = [sink.events.get_nowait(), sink.events.get_nowait()]
    assert {event.provider_message_id for event in events} == {result.provider_message_id}


@pytest.mark.parametrize(
    ("name", "statuses"),
    [
        ("undelivered", ["sent", "undelivered"]),
        ("corrected", ["sent", "undelivered", "delivered"]),
        ("late-receipt", ["sent", "delivered"]),
        ("duplicate-receipts", ["sent", "sent", "sent", "delivered", "delivered", "delivered"]),
    ],
)
async def test_other_receipts_come_as_the_script_says(connect: Connect, name: str, statuses: list[str]) -> None:
    carrier, sink = connect(receipt_delay_seconds=0.02)
    await carrier.send(outbound(f"{name}@simulator.test"))
    assert await sink.statuses(len(statuses)) == statuses


async def test_recipients_answer(connect: Connect) -> None:
    carrier, sink = connect(receipts=False, inbound_burst_size=3)
    await carrier.send(outbound("+15005553000"))
    stop = await sink.next()
    assert isinstance(stop, InboundMessage)
    assert (stop.body, stop.from_address) == ("STOP", "+15005553000")
    await carrier.send(outbound("+15005553100"))
    burst = [await sink.next() for _ in range(3)]
    assert len({event.provider_message_id for event in burst}) == 3


async def test_lost_receipts_and_receipts_switched_off_never_come(connect: Connect) -> None:
    carrier, sink = connect()
    quiet, unheard = connect(receipts=False)
    await carrier.send(outbound("+15005552000"))
    await quiet.send(outbound())
    last = await carrier.send(outbound())
    event = await sink.next()
    assert isinstance(event, Receipt)
    assert event.provider_message_id == last.provider_message_id
    assert unheard.events.empty()


async def test_without_a_sink_nothing_is_kept_for_later(connect: Connect) -> None:
    carrier = carrier_with()
    await carrier.send(outbound())
    sink = Sink()
    carrier.connect(sink)
    last = await carrier.send(outbound())
    event = await sink.next()
    assert isinstance(event, Receipt)
    assert event.provider_message_id == last.provider_message_id
    await carrier.close()


async def test_closing_cancels_what_is_scheduled_and_what_is_under_way(connect: Connect) -> None:
    reached, cancelled = asyncio.Event(), asyncio.Event()

    async def stuck(event: CallbackItem) -> None:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    carrier = carrier_with(receipt_delay_seconds=0.01)
    carrier.connect(stuck)
    await carrier.send(outbound())
    await reached.wait()
    await carrier.close()
    assert cancelled.is_set()
    await carrier.send(outbound())  # it goes on without a sink
    await carrier.close()


async def test_a_sink_that_raises_is_asked_again() -> None:
    sink = Sink(raises=3)
    outbox = Outbox(retry_seconds=0.001)
    event = Receipt("event-1", MessageStatus.SENT)
    outbox.put(event, 0, sink)
    assert await sink.next() == event
    await outbox.close()


async def test_an_event_that_no_one_takes_is_given_up_and_the_next_one_is_not() -> None:
    sink = Sink(raises=8)
    outbox = Outbox(retry_seconds=0.0001)
    outbox.put(Receipt("lost", MessageStatus.SENT), 0, sink)
    async with asyncio.timeout(60):
        while sink.raises:  # noqa: ASYNC110 - the outbox has no event for it
            await asyncio.sleep(0)
    outbox.put(Receipt("next", MessageStatus.SENT), 0, sink)
    event = await sink.next()
    assert isinstance(event, Receipt)
    assert event.event_id == "next"
    await outbox.close()


async def test_what_is_due_earlier_goes_out_earlier_whenever_it_was_put() -> None:
    sink = Sink()
    outbox = Outbox()
    for name, after in (("last", 0.1), ("first", 0.02), ("second", 0.06)):
        outbox.put(Receipt(name, None), after, sink)
    assert [getattr(await sink.next(), "event_id", None) for _ in range(3)] == ["first", "second", "last"]
    await outbox.close()


async def test_a_sink_that_hangs_on_one_event_does_not_hold_up_the_others() -> None:
    sink = Sink()

    async def picky(event: CallbackItem) -> None:
        if isinstance(event, Receipt) and event.event_id == "stuck":
            await asyncio.Event().wait()
        await sink(event)

    outbox = Outbox()
    for name in ("stuck", "free"):
        outbox.put(Receipt(name, None), 0, picky)
    event = await sink.next()
    assert isinstance(event, Receipt)
    assert event.event_id == "free"
    await outbox.close()


async def test_ten_thousand_receipts_take_no_task_each(connect: Connect) -> None:
    carrier, sink = connect(receipt_delay_seconds=0.01)
    most = 0
    for number in range(5000):
        await carrier.send(outbound(key=f"many-{number}"))
        if number % 50 == 0:
            await asyncio.sleep(0)
            most = max(most, len(asyncio.all_tasks()))
    await sink.statuses(10_000)
    assert most < 100


async def test_more_items_than_concurrency_all_go_out() -> None:
    sink = Sink()
    outbox = Outbox(concurrency=2)
    for number in range(1000):
        outbox.put(Receipt(str(number), None), number % 7 / 100, sink)
    assert {getattr(await sink.next(), "event_id", None) for _ in range(1000)} == set(map(str, range(1000)))
    await outbox.close()
