"""`python -m app repair NAME`: fetches messages from a provider whose callbacks were lost.

They are stored in the same way as callbacks are. So it can be run any number of times, and while the service runs.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select

from app.commands import moment, say
from app.config import Settings
from app.db.models import Message, Tenant
from app.db.schema.migrate import prepared_database
from app.domain import Direction
from app.errors import ConfigurationError, ServiceError
from app.providers.base import InboundMessage, ProviderFailure
from app.providers.registry import provider_registry
from app.services.delivery.results.outcomes import note
from app.wiring import Services, running_services

#: Messages stored at a time, with a line of progress after each batch.
_BATCH = 100


@dataclass(slots=True)
class _Count:
    listed: int = 0
    recovered: int = 0
    refused: int = 0

    def __str__(self) -> str:
        refused = f", {self.refused} can't be stored" if self.refused else ""
        return f"{self.listed} came in, {self.recovered} of them were missing and are recovered{refused}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("provider", help="the provider's name, such as twilio")
    since = "a date or time, such as 2026-03-01 or 2026-03-01T12:00:00Z, UTC unless it says otherwise"
    default = "a day before the last message that came in from the provider"
    parser.add_argument("--since", type=moment, help=f"{since} ({default})")


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    """Repair and print the progress; 1 if the provider broke off, so that it has to be run again.

    Raises `ConfigurationError` if there is no such provider, or if it has no list of messages.
    """
    if chosen.provider not in provider_registry:
        there = ", ".join(sorted(provider_registry))
        raise ConfigurationError(f"There is no provider {chosen.provider}; there are {there}.")
    with prepared_database(settings) as url:
        return asyncio.run(_repair(url, settings, chosen.provider, chosen.since))


async def _repair(url: str, settings: Settings, name: str, since: datetime | None) -> int:
    async with running_services(url, settings, deliver=False) as services:
        since = since or await _a_day_before_the_last(services, name)
        try:
            listed = provider_registry[name].inbound_since(since)
        except NotImplementedError:
            raise ConfigurationError(f"{name} offers no list of the messages that came in.") from None
        say(f"Asking {name} for messages since {since:%Y-%m-%d %H:%M:%S} UTC.")
        count = _Count()
        try:
            async for batch in _batches(listed):
                await _recover(services, name, batch, count)
                say(f"{count}.")
        except (ProviderFailure, ServiceError) as failure:
            say(f"It broke off: {failure}", f"So far {count}. Run it again with --since {since:%Y-%m-%dT%H:%M:%SZ}.")
            return 1
    say(f"Done: {count}.")
    return 0


async def _a_day_before_the_last(services: Services, name: str) -> datetime:
    # Joined with tenants, because all of them share the provider's account.
    latest = select(func.max(Message.sent_at)).join(Tenant, Tenant.id == Message.tenant_id)
    inbound = latest.where(Message.provider_type == name, Message.direction == Direction.INBOUND)
    async with services.sessions() as session:
        last = await session.scalar(inbound)
    if last is None:
        raise ConfigurationError(f"No message has come in from {name} yet. Say with --since where to begin.")
    # Callbacks may arrive again by now, so the gap may lie before the last message that is stored.
    return last - timedelta(days=1)


async def _batches(listed: AsyncIterator[InboundMessage]) -> AsyncIterator[list[InboundMessage]]:
    batch: list[InboundMessage] = []
    async for message in listed:
        batch.append(message)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def _recover(services: Services, name: str, batch: Sequence[InboundMessage], count: _Count) -> None:
    """Store the missing messages, then note that in their history; a crash in between leaves out the note."""
    reading = await services.callback_items.read(name, batch)
    stored = await asyncio.gather(*(services.messages.accept(message) for message in reading.messages))
    missing: dict[int, list[int]] = {}
    for message, place in zip(reading.messages, stored, strict=True):
        if not place.duplicate:
            missing.setdefault(message.tenant_id, []).append(place.id)
    async with services.sessions.begin() as session:
        for tenant_id, message_ids in missing.items():
            await note(await session.connection(), tenant_id, "recovered", message_ids)
    count.listed += len(batch)
    count.recovered += sum(map(len, missing.values()))
    count.refused += len(reading.faults)
    say(*reading.faults)
