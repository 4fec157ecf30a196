"""`python -m app repair NAME`: fetches from a provider what came in while its calls did not get through.

It goes the way of its calls, so that what is stored already stays as it is, however often it is repaired, and also
while the service runs and takes calls.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from app.config import Settings
from app.db.engine import provided_database
from app.db.migrate import prepare
from app.db.models import Message, Tenant
from app.domain import Direction
from app.errors import ConfigurationError, ServiceError
from app.providers.base import InboundMessage, ProviderFailure
from app.providers.registry import provider_registry
from app.services.delivery.outcomes import note
from app.wiring import Services, running_services

#: What is stored at once, and then told.
_BATCH = 100
#: Calls may get through again by now, so the gap may lie before the last message that is here.
_OVERLAP = timedelta(days=1)


@dataclass(slots=True)
class _Count:
    listed: int = 0
    recovered: int = 0
    refused: int = 0

    def __str__(self) -> str:
        refused = f", {self.refused} can't be stored" if self.refused else ""
        return f"{self.listed} came in, {self.recovered} of them were missing and are recovered{refused}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("provider", help="its name, such as twilio")
    parser.add_argument(
        "--since",
        type=_moment,
        help="a date or time (UTC, if it doesn't say), such as 2026-03-01 or 2026-03-01T12:00:00Z; if left out, a day"
        " before the last message that came in from it",
    )


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    """Repair, and say how far it is; 1 if the provider broke off, so that it has to be done again.

    Raises `ConfigurationError` where there is no such provider, or it can't be asked.
    """
    if chosen.provider not in provider_registry:
        there = ", ".join(sorted(provider_registry))
        raise ConfigurationError(f"There is no provider {chosen.provider}; there are {there}.")
    with provided_database(settings) as url:
        prepare(url, production=settings.is_production)
        return asyncio.run(_repair(url, settings, chosen.provider, chosen.since))


def _moment(written: str) -> datetime:
    moment = datetime.fromisoformat(written)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


async def _repair(url: str, settings: Settings, name: str, since: datetime | None) -> int:
    async with running_services(url, settings, deliver=False) as services:
        since = since or await _a_day_before_the_last(services, name)
        try:
            listed = provider_registry[name].inbound_since(since)
        except NotImplementedError:
            raise ConfigurationError(f"{name} can't be asked for what came in.") from None
        _say(f"Asking {name} for what came in since {since:%Y-%m-%d %H:%M:%S} UTC.")
        count = _Count()
        try:
            async for batch in _batches(listed):
                await _recover(services, name, batch, count)
                _say(f"{count}.")
        except (ProviderFailure, ServiceError) as failure:
            _say(f"It broke off: {failure}", f"So far {count}. Do it again with --since {since:%Y-%m-%dT%H:%M:%SZ}.")
            return 1
    _say(f"Done: {count}.")
    return 0


async def _a_day_before_the_last(services: Services, name: str) -> datetime:
    latest = (
        select(func.max(Message.sent_at))
        .join(Tenant, Tenant.id == Message.tenant_id)  # a provider's account is everybody's
        .where(Message.provider_type == name, Message.direction == Direction.INBOUND)
    )
    async with services.sessions() as session:
        last = (await session.execute(latest)).scalar()
    if last is None:
        raise ConfigurationError(f"Nothing has come in from {name} yet; say with --since from when on to ask.")
    return last - _OVERLAP


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
    """Store what is missing, and note in its history that it was.

    The note follows the message: if it is broken off in between, a message is recovered and doesn't say so.
    """
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
    _say(*reading.faults)


def _say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stdout, flush=True)  # noqa: T201 - for whoever typed it
