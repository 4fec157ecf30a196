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
from app.database_urls import database_name
from app.db.connectivity.pooler import with_pooler_known
from app.db.connectivity.replica import ReadsWithReplica
from app.db.engine import PromptSessions, Readiness, create_serving_engine
from app.db.process_lock import ProcessLock
from app.db.schema.distribution import engine_is_distributed, with_its_form
from app.db.statements.reads import Reads
from app.errors import ConfigurationError
from app.providers.registry import from_packages, provider_registry
from app.providers.simulated.in_process import SimulatedCarrier
from app.routing import channels_served, route_of
from app.services.accept.aliases import Aliases
from app.services.accept.writer import MessageWriter
from app.services.batches.service import BatchService
from app.services.callbacks.callback_store import CallbackStore
from app.services.callbacks.items import CallbackItems
from app.services.callbacks.service import CallbackService
from app.services.consent.hashes import AddressHashes
from app.services.consent.links import UnsubscribeLinks
from app.services.consent.quiet_hours import QuietHoursRule
from app.services.delivery.notifier import Notifier
from app.services.events.feed import EventFeed
from app.services.figures.gauges import process_gauges
from app.services.figures.history import History
from app.services.figures.process_group import ProcessGroup, group_of
from app.services.figures.recorder import FiguresRecorder
from app.services.files.attached import SentFiles
from app.services.files.fetching import FileFetcher
from app.services.files.store import FileStore
from app.services.files.uploads import Uploads
from app.services.limits.daily_caps import DailyCaps
from app.services.limits.failed_keys import FailedKeys
from app.services.limits.rate_limits import RateLimiter
from app.services.limits.tenant_limits import TenantLimitsCache
from app.services.messages.send_rules import SendRules
from app.services.messages.service import MessageService
from app.services.tenancy.addresses import AddressOwners
from app.services.tenancy.audit import RefusalLog
from app.services.tenancy.keys import KeyCache
from app.services.tenancy.sessions import BrowserSessions
from app.services.tenancy.test_tenants import TestTenants
from app.services.webhooks.dispatcher import WebhookDispatcher
from app.services.webhooks.sender import WebhookSender
from app.tracing import tracing
from app.worker import DeliveryWorker

log = structlog.get_logger(__name__)

#: For looking up a key or an address, which takes a millisecond. With more, too little would be left for storing to
#: answer every request within five seconds while the database is silent.
_LOOK_UP_SECONDS = 0.6

#: Objects that are made beyond those that are freed, until the youngest are searched for cycles.
_OBJECTS_UNTIL_COLLECTION = 10_000


@dataclass(frozen=True, slots=True)
class Services:
    """The services that requests use."""

    sessions: async_sessionmaker[AsyncSession]
    reads: Reads
    messages: MessageService
    batches: BatchService
    callback_items: CallbackItems
    files: FileStore
    uploads: Uploads
    callbacks: CallbackService
    keys: KeyCache
    browser_sessions: BrowserSessions
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
    quiet_hours: QuietHoursRule
    figures: ProcessGroup
    history: History


def must_have_providers(settings: Settings) -> None:
    """Raises `ConfigurationError` in production if messages would reach no one, or signatures could not be checked.

    A provider that signs the address it calls needs PUBLIC_URL: otherwise a client could choose that address. In
    development carriers are simulated, and a route may name a provider that is not there yet. An installed package
    with a provider that can't be used is refused in both, because messages would take another way without it.
    """
    if faults := [each.fault for each in from_packages if each.fault is not None]:
        raise ConfigurationError(f"{' '.join(faults)} Correct or uninstall that package.")
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
async def running_services(
    url: str, settings: Settings, *, deliver: bool, role: str = "web"
) -> AsyncIterator[Services]:
    """Start all services on one database in the order of their dependencies; stop them in the opposite order.

    The worker stops first and finishes its sends, while callbacks are still accepted.
    """
    as_given, settings = settings, await with_pooler_known(url, settings)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(tracing(settings))
        engine = create_serving_engine(url, settings)
        stack.push_async_callback(engine.dispose)
        engine = await with_its_form(engine)
        # One directory for each database: workers rescue only messages of their own database.
        workers = settings.data_dir / "workers" / f"{crc32(database_name(url).encode()):08x}"
        direct = settings.database_listen_url
        notifier = Notifier(direct.get_secret_value() if direct else url, engine)
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
        distributed = engine_is_distributed(engine)
        if as_given.database_read_url is None:
            reads = Reads(url, settings, is_distributed=distributed)
        else:
            replica_url = as_given.database_read_url.get_secret_value()
            replica_settings = await with_pooler_known(replica_url, as_given)
            reads = ReadsWithReplica(url, settings, replica_url, replica_settings, is_distributed=distributed)
        await stack.enter_async_context(reads)
        deadline = min(_LOOK_UP_SECONDS, patience)
        stack.enter_context(process_gauges(engine, reads, events))
        await stack.enter_async_context(FiguresRecorder(engine, settings, role=role))
        figures = await stack.enter_async_context(group_of(settings))
        addresses = AddressOwners(sessions, deadline_seconds=deadline)
        tests = TestTenants(sessions, deadline_seconds=deadline)
        quiet_hours = QuietHoursRule(sessions, deadline_seconds=deadline)
        aliases = Aliases(sessions, deadline_seconds=deadline)
        files = FileStore(sessions, settings.files_dir)
        fetcher = FileFetcher(engine, settings, files, on_logged=told)
        on_kept = fetcher.wake if deliver else None
        callback_items = await stack.enter_async_context(
            CallbackItems(engine, settings, writer, addresses, tests, aliases, files, on_logged=told, on_kept=on_kept)
        )
        callback_store = await stack.enter_async_context(CallbackStore(engine, settings))
        for name, provider in provider_registry.items():
            if isinstance(provider, SimulatedCarrier):
                provider.connect(partial(callback_items.accept, name))
            stack.push_async_callback(provider.close)
        if worker is not None:
            await stack.enter_async_context(fetcher)
            await stack.enter_async_context(worker)
        limits = TenantLimitsCache(sessions, settings, deadline_seconds=deadline)
        spending = await stack.enter_async_context(
            DailyCaps(engine, limits, default_region=settings.default_region, deadline_seconds=deadline)
        )
        browser_sessions = await stack.enter_async_context(BrowserSessions(sessions, deadline_seconds=deadline))
        refusals = await stack.enter_async_context(RefusalLog(sessions))
        attached = SentFiles(sessions, files, settings)
        rules = SendRules(settings, sessions, addresses, tests, quiet_hours, spending, refusals, attached)
        # Objects that exist now last as long as the process. Collecting garbage among them took 0.1 s at a time.
        gc.freeze()
        stack.callback(gc.unfreeze)
        # Reference counts free nearly everything. At the usual threshold of 700 objects the search for cycles took a
        # fifth of the time of a busy process.
        stack.callback(gc.set_threshold, *gc.get_threshold())
        gc.set_threshold(_OBJECTS_UNTIL_COLLECTION, 10, 10)
        messages = MessageService(
            writer, sessions, reads, settings, rules=rules, aliases=aliases, on_due=notifier.notify, on_logged=told
        )
        yield Services(
            sessions,
            reads,
            messages,
            BatchService(messages, sessions, on_due=notifier.notify, on_logged=told),
            callback_items,
            files,
            Uploads(sessions, settings.files_dir, most_bytes=settings.file_max_bytes),
            CallbackService(callback_items, callback_store, sessions),
            KeyCache(sessions, deadline_seconds=deadline),
            browser_sessions,
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
            quiet_hours,
            figures,
            History(),
        )
