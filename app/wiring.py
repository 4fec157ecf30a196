"""The wiring of a process: the same for the web server and for a worker alone."""

import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from zlib import crc32

import structlog
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.config import Settings
from app.db.engine import PromptSessions, Readiness, create_serving_engine, database_name
from app.db.process_lock import ProcessLock
from app.db.reads import Reads
from app.errors import ConfigurationError
from app.providers.registry import provider_registry
from app.providers.simulated.in_process import SimulatedCarrier
from app.routing import channels_served, route_of
from app.services.accept.aliases import Aliases
from app.services.accept.writer import MessageWriter
from app.services.callbacks.callback_store import CallbackStore
from app.services.callbacks.items import CallbackItems
from app.services.callbacks.service import CallbackService
from app.services.consent.hashes import AddressHashes
from app.services.consent.links import UnsubscribeLinks
from app.services.delivery.notifier import Notifier
from app.services.events.feed import EventFeed
from app.services.limits.daily_caps import DailyCaps
from app.services.limits.failed_keys import FailedKeys
from app.services.limits.rate_limits import RateLimiter
from app.services.limits.tenant_limits import TenantLimitsCache
from app.services.messages.files import FileStore
from app.services.messages.send_rules import SendRules
from app.services.messages.service import MessageService
from app.services.tenancy.addresses import AddressOwners
from app.services.tenancy.audit import RefusalLog
from app.services.tenancy.keys import KeyCache
from app.services.webhooks.dispatcher import WebhookDispatcher
from app.services.webhooks.sender import WebhookSender
from app.worker import DeliveryWorker

log = structlog.get_logger(__name__)

#: For looking up a key or an address, which takes a millisecond. With more, too little would be left for storing to
#: answer every request within five seconds while the database is silent.
_LOOK_UP_SECONDS = 0.6


@dataclass(frozen=True, slots=True)
class Services:
    """The services that requests use."""

    sessions: async_sessionmaker[AsyncSession]
    reads: Reads
    messages: MessageService
    callback_items: CallbackItems
    files: FileStore
    callbacks: CallbackService
    keys: KeyCache
    failures: FailedKeys
    rates: RateLimiter
    send_rules: SendRules
    addresses: AddressOwners
    refusals: RefusalLog
    readiness: Readiness
    notifier: Notifier
    events: EventFeed
    webhooks: WebhookSender
    unsubscribe_links: UnsubscribeLinks
    address_hashes: AddressHashes


def must_have_providers(settings: Settings) -> None:
    """Raises `ConfigurationError` in production if messages would reach no one, or signatures could not be checked.

    A provider that signs the address it calls needs PUBLIC_URL: otherwise a client could choose that address. In
    development carriers are simulated, and a route may name a provider that is not there yet.
    """
    if not settings.is_production:
        return
    signing = sorted(name for name, provider in provider_registry.items() if provider.signs_address)
    if signing and not settings.public_url:
        raise ConfigurationError(
            f"PUBLIC_URL is not set, but {', '.join(signing)} signs the address that it calls, which a client could "
            "choose without it. Set it to the address at which providers reach this service."
        )
    unknown = {name for route in settings.routes.values() for name in route} - set(provider_registry)
    if unknown:
        raise ConfigurationError(f"ROUTES names unknown providers: {', '.join(sorted(unknown))}. Correct the names.")
    if settings.simulates:
        log.warning("simulated_carriers_in_production")
        return
    routes = [route for channel in channels_served(settings) if (route := route_of(settings, channel))]
    if not routes or any(provider_registry[name].simulated for route in routes for name in route):
        raise ConfigurationError(
            "All providers are simulated, and production needs one that really sends. Configure one "
            "(docs/providers.md), or name one of your own in ROUTES. With SIMULATED_CARRIERS=true the simulated ones "
            "take messages, which then reach no one."
        )


@asynccontextmanager
async def running_services(url: str, settings: Settings, *, deliver: bool) -> AsyncIterator[Services]:
    """Start all services on one database in the order of their dependencies; stop them in the opposite order.

    The worker stops first and finishes its sends, while callbacks are still accepted.
    """
    async with AsyncExitStack() as stack:
        engine = create_serving_engine(url, settings)
        stack.push_async_callback(engine.dispose)
        # One directory for each database: workers rescue only messages of their own database.
        workers = settings.data_dir / "workers" / f"{crc32(database_name(url).encode()):08x}"
        notifier = Notifier(url, engine)
        told = notifier.events_logged
        webhooks = WebhookSender(settings)
        stack.push_async_callback(webhooks.aclose)
        worker = None
        if deliver:
            dispatcher = WebhookDispatcher(engine, settings, webhooks, on_logged=told)
            worker = DeliveryWorker(engine, settings, ProcessLock(workers), on_logged=told, webhooks=dispatcher)
            notifier.on_due(worker.wake)
            notifier.on_events(dispatcher.wake)
        events = EventFeed(engine, settings)
        notifier.on_events(events.wake)
        await stack.enter_async_context(notifier)
        await stack.enter_async_context(events)
        writer = MessageWriter(engine, settings, on_outbound=notifier.notify, on_logged=told)
        await stack.enter_async_context(writer)
        patience = settings.database_statement_timeout_seconds
        sessions = PromptSessions(engine, deadline_seconds=patience)
        reads = await stack.enter_async_context(Reads(url, settings))
        deadline = min(_LOOK_UP_SECONDS, patience)
        addresses = AddressOwners(sessions, deadline_seconds=deadline)
        aliases = Aliases(sessions, deadline_seconds=deadline)
        files = FileStore(sessions, settings.files_dir)
        callback_items = await stack.enter_async_context(
            CallbackItems(engine, settings, writer, addresses, aliases, files, on_logged=told)
        )
        callback_store = await stack.enter_async_context(CallbackStore(engine, settings))
        for name, provider in provider_registry.items():
            if isinstance(provider, SimulatedCarrier):
                provider.connect(partial(callback_items.accept, name))
            stack.push_async_callback(provider.close)
        if worker is not None:
            await stack.enter_async_context(worker)
        limits = TenantLimitsCache(sessions, settings, deadline_seconds=deadline)
        spending = await stack.enter_async_context(
            DailyCaps(engine, limits, default_region=settings.default_region, deadline_seconds=deadline)
        )
        refusals = await stack.enter_async_context(RefusalLog(sessions))
        rules = SendRules(settings, sessions, addresses, spending, refusals)
        # Objects that exist now last as long as the process. Collecting garbage among them took 0.1 s at a time.
        gc.freeze()
        stack.callback(gc.unfreeze)
        messages = MessageService(
            writer, sessions, reads, settings, rules=rules, aliases=aliases, on_due=notifier.notify, on_logged=told
        )
        yield Services(
            sessions,
            reads,
            messages,
            callback_items,
            files,
            CallbackService(callback_items, callback_store, sessions),
            KeyCache(sessions, deadline_seconds=deadline),
            FailedKeys(a_minute=settings.auth_failures_per_minute),
            RateLimiter(engine, limits, deadline_seconds=deadline),
            rules,
            addresses,
            refusals,
            Readiness(sessions),
            notifier,
            events,
            webhooks,
            UnsubscribeLinks.of(settings),
            AddressHashes(settings.consent_secrets),
        )
