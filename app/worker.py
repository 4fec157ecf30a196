"""The delivery loop: claims due messages, sends them, and records the results.

Runs in the background of the web process, or alone as `python -m app worker`, in any number.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from time import monotonic
from typing import Self

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.batches import Priority
from app.config import Settings
from app.db.connectivity.outage import outage
from app.db.engine import PromptSessions, is_unavailable
from app.db.process_lock import ProcessLock
from app.providers.registry import provider_registry
from app.routing import channels_served, route_of
from app.services.batches.holding import settle_batches
from app.services.consent.check import LastCheck
from app.services.consent.hashes import AddressHashes
from app.services.consent.links import UnsubscribeLinks
from app.services.consent.quiet_hours import QuietHoursRule
from app.services.delivery.attempt_figures import count_attempt, traced
from app.services.delivery.claiming.claims import Claim, Wanted, claim_due
from app.services.delivery.claiming.queues import DueWork, Queues
from app.services.delivery.hand_over import hand_over
from app.services.delivery.housekeeping import Housekeeping
from app.services.delivery.pacing.capacity import Capacity
from app.services.delivery.pacing.provider_states import give_back_probe, take_probe
from app.services.delivery.periodic import PeriodicTask
from app.services.delivery.results.recorder import OutcomeRecorder
from app.services.delivery.results.retry_policy import is_safe_to_repeat
from app.services.files.attached import SentFiles
from app.services.files.store import FileStore
from app.services.messages.conversation_state import wake_conversations
from app.services.people.retention import remove_what_is_over
from app.services.search.indexing import Indexer
from app.services.tenancy.test_tenants import TestTenants

log = structlog.get_logger(__name__)

_IN_DOUBT_SECONDS = 1.0  # the time between two claims of messages that a provider may already have
_ODD_ROUNDS = 1 / 8  # of claims, in which no priority is the first


class DeliveryWorker:
    """Delivers until its context is left, then finishes what is in flight, within the grace period.

    By its `presence` the other workers of this host see at once when it has died. `on_logged` is called with a tenant
    whose log has grown. `webhooks` run for as long.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        presence: ProcessLock,
        *,
        on_logged: Callable[[int], None],
        webhooks: AbstractAsyncContextManager[object] | None = None,
    ) -> None:
        self._engine = engine
        self._on_logged = on_logged
        self._last_check = LastCheck(engine, AddressHashes(settings.consent_secrets))
        self._links = UnsubscribeLinks.of(settings)
        sessions = PromptSessions(engine, deadline_seconds=settings.database_statement_timeout_seconds)
        self._files = SentFiles(sessions, FileStore(sessions, settings.files_dir), settings)
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._settings = settings
        self._presence = presence
        patience = settings.database_statement_timeout_seconds
        self._tests = TestTenants(sessions, deadline_seconds=patience)
        self._quiet_hours = QuietHoursRule(sessions, deadline_seconds=patience)
        self._webhooks = webhooks or contextlib.nullcontext()
        self._wake_up = asyncio.Event()
        self._closing = False
        self._in_flight: dict[asyncio.Task[None], Claim] = {}
        self._poison_suspect: asyncio.Task[None] | None = None
        self._claim_in_doubt_at = 0.0
        self._queues = Queues(ahead_seconds=settings.worker_poll_seconds)
        self._capacity = Capacity(settings)
        self._recorder = OutcomeRecorder(
            engine, settings, is_flawless=self._capacity.is_flawless, on_logged=on_logged
        )
        clean = partial(remove_what_is_over, engine, settings)
        cleaning = PeriodicTask("retention", 30, clean, "not_cleaned", is_shared=True)
        settle = partial(settle_batches, engine, on_due=self._look_again, on_logged=on_logged)
        wake = partial(wake_conversations, engine, on_logged=on_logged)
        waking = PeriodicTask("conversations", 1, wake, "conversations_not_woken", is_shared=True)
        settling = PeriodicTask("batches", 1, settle, "batches_not_settled", is_shared=True)
        self._has_claimed = False
        indexer = Indexer(engine, is_busy=self._is_busy)
        indexing = PeriodicTask("search", 0.5, indexer.run, "texts_not_indexed")
        self._housekeeping = Housekeeping(
            engine,
            settings,
            presence,
            self._in_flight.values(),
            on_change=self._look_again,
            on_logged=on_logged,
            tasks=[cleaning, settling, waking, indexing],
        )
        self._claiming: asyncio.Task[None]

    def wake(self) -> None:
        """Say that a message may be due. Without it, polling finds the message."""
        self._wake_up.set()

    def _look_again(self) -> None:
        self._claim_in_doubt_at = 0.0
        self._wake_up.set()

    def _is_busy(self) -> bool:
        """True if a message is being sent, or was claimed since the last call."""
        has_claimed, self._has_claimed = self._has_claimed, False
        return has_claimed or bool(self._in_flight)

    async def __aenter__(self) -> Self:
        try:
            self._housekeeping.join()
        except OSError as error:  # a read-only file system, say
            log.info("death_shows_by_leases_only", error=type(error).__name__)
        await self._recorder.__aenter__()
        await self._housekeeping.__aenter__()
        self._claiming = asyncio.create_task(self._run(), name="delivery-worker")
        await self._webhooks.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._wake_up.set()
        webhooks = asyncio.create_task(self._webhooks.__aexit__(None, None, None))  # within the same grace period
        await self._claiming
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=self._settings.shutdown_grace_seconds)
        for task in (late := list(self._in_flight)):
            task.cancel()  # gives up the send; its attempt is recorded as in doubt
        await asyncio.gather(*late, return_exceptions=True)
        await self._housekeeping.__aexit__()
        await self._recorder.__aexit__()
        await webhooks
        self._presence.leave()

    async def _run(self) -> None:
        while not self._closing:
            self._wake_up.clear()
            claimed, wait = 0, self._settings.worker_poll_seconds
            try:
                claimed, wait = await self._claim_due()
                outage.end()
            except Exception as error:
                if is_unavailable(error):
                    outage.note(error, batch="claims")
                else:
                    log.exception("claim_failed")
            if not claimed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake_up.wait()

    async def _claim_due(self) -> tuple[int, float]:
        """Claim messages for the free slots; returns their number, and the seconds until the next claim is due."""
        claimed = 0
        async with self._autocommit.connect() as connection:
            work = await self._queues.look(connection, channels_served(self._settings))
            await self._capacity.refresh(connection)
            due = _in_turn([item for item in work if item.wait_seconds <= 0])
            lanes = Counter(item.priority for item in due)
            for item in due:
                name, because = self._capacity.first_well(await self._route_of(item), item.tenant_id)
                if name is not None:
                    share = lanes[item.priority]
                    claimed += await self._claim(connection, item, name, share=share, because=because)
            if (now := asyncio.get_running_loop().time()) >= self._claim_in_doubt_at:
                self._claim_in_doubt_at = now + _IN_DOUBT_SECONDS
                for item in due:
                    claimed += await self._claim_in_doubt(connection, item, share=len(due))
        waits = [item.wait_seconds for item in work if item.wait_seconds > 0]
        slots = self._capacity.next_slots_in() if due else []
        look = self._queues.full_look_in()
        return claimed, min([self._settings.worker_poll_seconds, look, *waits, *slots])

    async def _route_of(self, item: DueWork) -> list[str]:
        return route_of(self._settings, item.channel, is_test=await self._tests.is_test(item.tenant_id))

    async def _claim_in_doubt(self, connection: AsyncConnection, item: DueWork, *, share: int) -> int:
        """Claim messages that a provider may already have, for that provider, wherever new messages go by now."""
        route = await self._route_of(item)
        first, _ = self._capacity.first_well(route, item.tenant_id)
        claimed = 0
        for name in {*route, *provider_registry}:
            if not self._capacity.can_serve(name, item.tenant_id):
                continue
            if name != first:
                claimed += await self._claim(connection, item, name, share=share, wanted=Wanted.IN_DOUBT)
            # One at a time: a further death shows that it is the poison message.
            if self._poison_suspect is None and not self._housekeeping.is_last_worker():
                claimed += await self._claim(connection, item, name, share=1, wanted=Wanted.POISON_SUSPECTS)
        return claimed

    async def _claim(
        self,
        connection: AsyncConnection,
        item: DueWork,
        name: str,
        *,
        share: int,
        because: str | None = None,
        wanted: Wanted = Wanted.ANYTHING,
    ) -> int:
        """Claim for the free slots of a provider, and start a task for each message."""
        settings, is_suspect = self._settings, wanted is Wanted.POISON_SUSPECTS
        limit = self._capacity.free_slots(name, len(self._in_flight), share=share, priority=item.priority)
        is_probing = self._capacity.health_of(name).probing
        if limit <= 0 or (is_probing and not await take_probe(connection, name, settings)):
            return 0
        # A claim and its booking of the provider's rate are committed together.
        rate = self._capacity.rate_of(name)
        async with self._engine.begin() if rate else contextlib.nullcontext(connection) as claiming:
            if rate and not await self._capacity.has_turn(claiming, name):
                limit = 0
            claims, suppressed = await claim_due(
                claiming,
                item.tenant_id,
                item.channel,
                item.priority,
                limit=min(limit, 1) if is_suspect else limit,
                lease_seconds=settings.lease_seconds,
                provider_type=name,
                worker=self._presence.name,
                routed_because=because,
                wanted=wanted,
                begins_at=item.begins_at,
                skip_risky=self._housekeeping.is_last_worker(),
                callback_url=settings.callback_url(name),
                links=self._links,
            )
            waits = await self._capacity.book(claiming, name, claims) if rate else [0.0] * len(claims)
        if is_probing and not claims:
            await give_back_probe(connection, name)
        if suppressed:
            log.info("messages_suppressed", tenant=item.tenant_id, messages=suppressed)
            self._on_logged(item.tenant_id)
        self._has_claimed |= bool(claims)
        for claim, wait in zip(claims, waits, strict=True):
            self._capacity.in_flight[name] += 1
            task = asyncio.create_task(self._deliver(claim, wait))
            self._in_flight[task] = claim
            if is_suspect:
                self._poison_suspect = task
            task.add_done_callback(self._on_done)
        return len(claims) + suppressed

    async def _deliver(self, claim: Claim, wait: float) -> None:
        # A send that can't be repeated keeps its slot until its result is recorded. So if this worker dies, each slot
        # has at most one such message that may go out twice.
        is_safe = is_safe_to_repeat(provider_registry.get(claim.provider_type))
        claimed_at = monotonic()
        try:
            sending = hand_over(claim, wait, self._settings, self._last_check, self._quiet_hours, self._files)
            result = await traced(claim, sending)
            count_attempt(result, monotonic() - claimed_at - wait)
            self._capacity.saw(result, claimed_at)
            if not is_safe:
                await self._recorder.write_down(result)
        finally:
            self._capacity.in_flight[claim.provider_type] -= 1
        if is_safe:
            await self._recorder.write_down(result)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        del self._in_flight[task]
        if task is self._poison_suspect:
            self._poison_suspect = None
            self._look_again()  # there may be another
        self._wake_up.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("delivery_not_recorded", error=type(error).__name__, exc_info=error)


def _in_turn(due: list[DueWork]) -> list[DueWork]:
    """The queues in the order of their priorities. At times that order is another one, so that each gets its turn."""
    order = list(Priority)
    if random.random() < _ODD_ROUNDS:  # noqa: S311 - nothing secret
        random.shuffle(order)
    return sorted(due, key=lambda item: order.index(item.priority))
