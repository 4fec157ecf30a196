"""What becomes of a provider's call: whose it is, what it says, what is stored of it, and what it is answered."""

import asyncio
import contextlib
from collections.abc import Awaitable
from dataclasses import dataclass

import structlog
from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db.models import KeptCallback, Tenant
from app.db.sanitize import storable_text
from app.domain import CallbackVerdict
from app.errors import ProviderNotFound
from app.providers.base import BaseProvider, Callback, CallbackRefused, CallbackUnverifiable, Reply
from app.providers.registry import provider_registry
from app.redaction import redacted
from app.services.callbacks.call_log import CallLog, NewCall
from app.services.callbacks.events import CallbackItems, Reading
from app.services.callbacks.signature_tokens import is_good_for
from app.services.callbacks.webhook_calls import call_of
from app.services.tenancy.audit import record

log = structlog.get_logger(__name__)

#: In bytes; reading a larger one takes long enough for others to notice.
_LARGE = 100_000
_LONGEST_REASON = 1000
#: For a word about a call that is refused because the database was too slow for what it says.
_CORRECTION_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found about a call: its verdict, why it is not `taken`, and how many events it holds.

    `seen` and `expected` are the beginnings of signatures, as in `CallbackRefused`.
    """

    verdict: CallbackVerdict
    reason: str | None = None
    seen: str | None = None
    expected: str | None = None
    events: int = 0


#: Said of a call whose events the database did not take just then.
_NOT_STORED = Judgement(
    CallbackVerdict.NOT_UNDERSTOOD, "It could not be stored when it came, and the provider was asked to call again."
)


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether a call is its provider's, and if not, why; otherwise as in `Judgement`."""

    genuine: bool
    reason: str | None = None
    seen: str | None = None
    expected: str | None = None


class CallbackService:
    """Takes calls of providers, and takes those that were kept again."""

    def __init__(self, events: CallbackItems, calls: CallLog, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._events = events
        self._calls = calls
        self._sessions = sessions

    async def receive(self, name: str, callback: Callback) -> Reply:
        """Store what a call says, and the call; the answer that the provider expects, after both commits.

        What is genuine and can't be read, or not all of it stored, is kept as it came, and answered alike. A repeat
        changes nothing but that it is kept too. Raises `ProviderNotFound`, `CallbackRefused`, `CallbackUnverifiable`,
        and what `GroupCommit.submit` raises: then the provider is to call again.
        """
        provider = provider_of(name)
        try:
            reply = await _admit(provider, callback)
            if reply is not None:
                return reply
            reading = await self._read(name, provider, callback)
            await self._must_be_vouched_for(name, provider, callback, reading)
        except (CallbackRefused, CallbackUnverifiable) as error:
            seen, expected = _hints(error)
            await self._calls.quarantine(
                NewCall(name, callback, CallbackVerdict.REFUSED, reason=str(error), seen=seen, expected=expected)
            )
            raise
        found = _judged(reading)
        call = NewCall(
            name,
            callback,
            found.verdict,
            reason=found.reason,
            events=found.events,
            addresses=reading.addresses,
            tenant_id=reading.tenant_id,
        )
        kept, stored = await asyncio.gather(
            self._calls.keep(call), self._events.store(name, reading), return_exceptions=True
        )
        if isinstance(stored, BaseException):
            if not isinstance(kept, BaseException):
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(_CORRECTION_SECONDS):  # the provider has been waiting already
                        await self._correct(kept, _NOT_STORED)
            raise stored
        if isinstance(kept, BaseException):
            raise kept
        call_id, faults = kept, stored
        if faults:
            await self._correct(call_id, _judged(reading, faults))
        if faults or reading.faults:
            log.warning("callback_not_understood", provider=name, call_id=call_id)
        return provider.reply

    async def verify(self, tenant_id: int, call_id: int) -> Verification:
        """Whether a call that is kept is genuine, by today's settings and the time at which it came.

        Raises `WebhookCallNotFound`, `ProviderNotFound`.
        """
        async with self._sessions() as session:
            call = await call_of(session, call_id, tenant_id)
        try:
            await _verify(provider_of(call.provider_type), _as_it_came(call))
        except (CallbackRefused, CallbackUnverifiable) as error:
            refusal = _refused(error)
            return Verification(False, refusal.reason, refusal.seen, refusal.expected)
        return Verification(True)

    async def replay(self, tenant_id: int, call_id: int, *, actor: str | None, client: str | None) -> Judgement:
        """Take a call that is kept once more, and say what came of it; what it says is stored once, however often.

        One that was refused has to be genuine by today's settings, at the time at which it came; the others were
        then. Raises `WebhookCallNotFound`, `ProviderNotFound`, and what `GroupCommit.submit` raises.
        """
        async with self._sessions() as session:
            call = await call_of(session, call_id, tenant_id)
        found, addresses = await self._take_again(call)
        changes = {
            "verdict": found.verdict.value,
            "reason": found.reason,
            "seen": found.seen,
            "expected": found.expected,
            "events": found.events,
            "addresses": sorted({*call.addresses, *addresses}),
            "replayed_at": func.now(),
        }
        async with self._sessions.begin() as session:
            is_it = (KeptCallback.tenant_id == tenant_id, KeptCallback.id == call_id)
            await session.execute(update(KeptCallback).where(*is_it).values(changes))
            detail = {"call_id": call_id, "provider": call.provider_type, "verdict": found.verdict.value}
            await record(session, tenant_id, "replay", actor=actor, client=client, **detail)
        return found

    async def _take_again(self, call: KeptCallback) -> tuple[Judgement, set[str]]:
        name, callback = call.provider_type, _as_it_came(call)
        provider, was_refused = provider_of(name), call.verdict == CallbackVerdict.REFUSED
        try:
            reply = await (_admit(provider, callback) if was_refused else provider.handshake(callback))
            if reply is not None:
                return Judgement(CallbackVerdict.TAKEN), set()
            reading = await self._read(name, provider, callback)
            if was_refused:
                await self._must_be_vouched_for(name, provider, callback, reading)
        except (CallbackRefused, CallbackUnverifiable) as error:
            return _refused(error), set()
        faults = await self._events.store(name, reading)
        return _judged(reading, faults), reading.addresses

    async def _must_be_vouched_for(
        self, name: str, provider: BaseProvider, callback: Callback, reading: Reading
    ) -> None:
        """Raises `CallbackRefused` where a call's signature doesn't cover its events, and has come with others."""
        token, events = await provider.signed_token(callback), reading.identity
        if token is None or events is None:
            return
        async with self._sessions.begin() as session:
            if not await is_good_for(await session.connection(), name, token, events):
                raise CallbackRefused("The token of its signature has come with something else.")

    async def _read(self, name: str, provider: BaseProvider, callback: Callback) -> Reading:
        try:
            if len(callback.body) > _LARGE:
                events = await asyncio.to_thread(provider.parse, callback)
            else:
                events = provider.parse(callback)
        except ValueError as error:
            return Reading(faults=[str(error)])
        except Exception as error:  # a bug of the provider's file, which must not cost what it was about
            log.exception("callback_not_parsed", provider=name)
            return Reading(faults=[f"{type(error).__name__}: {error}"])
        return await self._events.read(name, events)

    async def _correct(self, call_id: int, found: Judgement) -> None:
        """Say of a call that was kept as taken that it was not."""
        correcting = (
            update(KeptCallback)
            .where(KeptCallback.tenant_id == Tenant.id, KeptCallback.id == call_id)
            .values(verdict=found.verdict.value, reason=found.reason, events=found.events)
        )
        async with self._sessions.begin() as session:
            await session.execute(correcting)


def provider_of(name: str) -> BaseProvider:
    """Raises `ProviderNotFound`."""
    provider = provider_registry.get(name)
    if provider is None:
        raise ProviderNotFound("There is no provider of this name.")
    return provider


async def _verify(provider: BaseProvider, callback: Callback) -> None:
    try:
        judging = provider.verify(callback)
        if isinstance(judging, Awaitable):
            await judging
    except NotImplementedError:
        raise ProviderNotFound("This provider does not call back.") from None
    except ValueError:
        raise CallbackRefused("The call can't be read.") from None


async def _admit(provider: BaseProvider, callback: Callback) -> Reply | None:
    await _verify(provider, callback)
    return await provider.handshake(callback)


def _judged(reading: Reading, faults: list[str] | None = None) -> Judgement:
    """`faults` are those that showed when it was stored."""
    told = reading.faults + (faults or [])
    if not told:
        return Judgement(CallbackVerdict.TAKEN, events=reading.count)
    reason = storable_text(redacted(" ".join(told)))[:_LONGEST_REASON]  # an error may quote what it could not read
    return Judgement(CallbackVerdict.NOT_UNDERSTOOD, reason, events=reading.count - len(faults or []))


def _refused(error: CallbackRefused | CallbackUnverifiable) -> Judgement:
    seen, expected = _hints(error)
    return Judgement(CallbackVerdict.REFUSED, storable_text(str(error)), storable_text(seen), expected)


def _hints(error: CallbackRefused | CallbackUnverifiable) -> tuple[str | None, str | None]:
    return (error.seen, error.expected) if isinstance(error, CallbackRefused) else (None, None)


def _as_it_came(call: KeptCallback) -> Callback:
    headers = [(name, value) for name, value in call.headers if value is not None]
    return Callback(call.method, call.url, headers, call.body, call.received_at, is_kept=True)
