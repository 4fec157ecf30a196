"""What runs in a process, put together: the same for the web and for a worker by itself."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.config import Settings
from app.database import create_serving_engine
from app.providers.registry import provider_registry
from app.providers.simulated import SimulatedCarrier
from app.services.doorbell import Doorbell
from app.services.messages import MessageService
from app.services.provider_events import ProviderEventService
from app.services.writer import MessageWriter
from app.worker import DeliveryWorker


@dataclass(frozen=True, slots=True)
class Services:
    """What requests are served with."""

    sessions: async_sessionmaker[AsyncSession]
    messages: MessageService
    provider_events: ProviderEventService


@asynccontextmanager
async def running_services(url: str, settings: Settings, *, deliver: bool) -> AsyncIterator[Services]:
    """Everything on one database, each thing after what it stands on; stopped in the opposite order.

    Delivering stops first and finishes what is in hand, while what carriers call back is still accepted.
    """
    async with AsyncExitStack() as stack:
        engine = create_serving_engine(url, settings)
        stack.push_async_callback(engine.dispose)
        worker = DeliveryWorker(engine, settings) if deliver else None
        doorbell = Doorbell(url, engine, on_ring=worker.ring if worker else None)
        await stack.enter_async_context(doorbell)
        writer = await stack.enter_async_context(MessageWriter(engine, settings, on_outbound=doorbell.ring))
        events = await stack.enter_async_context(ProviderEventService(engine, settings, writer))
        for name, provider in provider_registry.items():
            if isinstance(provider, SimulatedCarrier):
                provider.connect(partial(events.accept, name))
                stack.push_async_callback(provider.close)
        if worker is not None:
            await stack.enter_async_context(worker)
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        yield Services(sessions, MessageService(writer, sessions, settings, on_due=doorbell.ring), events)
