"""Events as they are stored: one that PostgreSQL refuses costs no other."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import httpx
import pytest

from app.config import Settings
from app.domain import MessageStatus
from app.providers.base import InboundMessage, Receipt
from app.services.callbacks.items import CallbackItems
from tests.factories import CONTACT, CUSTOMER
from tests.wire import rows_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def events(serve: Callable[[Settings], Awaitable[httpx.AsyncClient]], settings: Settings) -> CallbackItems:
    client = await serve(settings)
    service: CallbackItems = client._transport.app.state.services.callback_items  # type: ignore[attr-defined]
    return service


async def test_what_postgresql_refuses_costs_no_other_event(events: CallbackItems, database_url: str) -> None:
    said = [InboundMessage(f"in-{number}", "sms", "sms", CONTACT, CUSTOMER, "Hello") for number in (1, 2)]
    receipts = [Receipt(f"r-{number}", MessageStatus.SENT) for number in (1, 2)]
    reading = await events.read("signing", [*said, *receipts])
    assert (reading.faults, reading.count) == ([], 4)
    reading.messages[0] = replace(reading.messages[0], type="Not A Name")
    reading.receipts[0] = replace(reading.receipts[0], raw={"n": "\x00"})
    faults = await events.store("signing", reading)
    assert len(faults) == 2
    assert rows_of(database_url, "SELECT provider_message_id FROM messages") == [("in-2",)]
    assert rows_of(database_url, "SELECT event_id FROM provider_events") == [("r-2",)]


async def test_what_can_not_be_stored_is_told_once_the_others_are(events: CallbackItems, database_url: str) -> None:
    said = [InboundMessage(f"in-{to}", "sms", "sms", CONTACT, to, "Hello") for to in ("", CUSTOMER)]
    with pytest.raises(ValueError, match="Event 1: an address can't be empty"):
        await events.accept("signing", *said)
    assert rows_of(database_url, "SELECT provider_message_id FROM messages") == [(f"in-{CUSTOMER}",)]
