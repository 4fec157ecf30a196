"""The way of a callback: verify it, read it, keep it, store its items, and reply. Kept ones can be replayed."""

import asyncio
import contextlib
from collections.abc import Awaitable
from dataclasses import asdict

import structlog
from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db.models import KeptCallback, Tenant
from app.db.statements.sanitize import storable_text
from app.errors import ProviderNotFound
from app.installation import CallbackVerdict
from app.metrics.catalogue import CALLBACKS
from app.providers.base import BaseProvider, Callback, CallbackRefused, CallbackUnverifiable, Reply
from app.providers.registry import provider_registry
from app.redaction import redacted
from app.services.callbacks.callback_store import CallbackResult, CallbackStore, NewCallback, claim_token
from app.services.callbacks.items import CallbackItems, StorableItems
from app.services.callbacks.kept_callbacks import get_callback
from app.services.tenancy.audit import record

log = structlog.get_logger(__name__)

_LONGEST_REASON = 1000
#: For the correction of a callback whose items the database was too slow to store.
_CORRECTION_SECONDS = 0.5


#: Of a callback whose items the database did not store in time.
_NOT_STORED = CallbackResult(
    CallbackVerdict.NOT_UNDERSTOOD, "It could not be stored when it came, and the provider was asked to call again."
)


class CallbackService:
    """Receives callbacks, and verifies and replays those that are kept."""

    def __init__(
        self, items: CallbackItems, callbacks: CallbackStore, sessions: async_sessionmaker[AsyncSession]
    ) -> None:
        self._items = items
        self._callbacks = callbacks
        self._sessions = sessions

    async def receive(self, name: str, callback: Callback) -> Reply:
        """Store a callback and its items; returns the reply that the provider expects, after both commits.

        A genuine callback with an item that can't be read or stored is kept as it came and gets the same reply. A
        duplicate is kept, and changes nothing else. One that only wants a reply (a handshake) is not kept.

        Raises:
            ProviderNotFound: no provider of this name calls back.
            CallbackRefused, CallbackUnverifiable: the callback is kept as refused.
            Overloaded, DatabaseUnavailable: the provider has to retry.
        """
        provider = provider_of(name)
        try:
            items = await self._verified_items(name, provider, callback)
        except (CallbackRefused, CallbackUnverifiable) as error:
            CALLBACKS.values[name, CallbackVerdict.REFUSED] += 1
            await self._callbacks.quarantine(NewCallback(name, callback, _refused(error)))
            raise
        if isinstance(items, Reply):
            return items
        new = NewCallback(name, callback, _result_of(items), items.addresses, items.tenant_id)
        kept, stored = await asyncio.gather(
            self._callbacks.keep(new), self._items.store(name, items), return_exceptions=True
        )
        if isinstance(stored, BaseException):
            if not isinstance(kept, BaseException):
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(_CORRECTION_SECONDS):  # the provider has been waiting already
                        await self._correct(kept, _NOT_STORED)
            raise stored
        if isinstance(kept, BaseException):
            raise kept
        if stored:
            await self._correct(kept, _result_of(items, stored))
        if stored or items.faults:
            CALLBACKS.values[name, CallbackVerdict.NOT_UNDERSTOOD] += 1
            log.warning("callback_not_understood", provider=name, call_id=kept)
        else:
            CALLBACKS.values[name, CallbackVerdict.TAKEN] += 1
        return provider.reply

    async def verify(self, tenant_id: int, call_id: int) -> CallbackResult:
        """Verify a kept callback with today's settings, at the time at which it came; a genuine one counts as taken.

        Raises `WebhookCallNotFound`, `ProviderNotFound`.
        """
        async with self._sessions() as session:
            kept = await get_callback(session, call_id, tenant_id)
        try:
            await _verify(provider_of(kept.provider_type), _as_it_came(kept))
        except (CallbackRefused, CallbackUnverifiable) as error:
            return _refused(error)
        return CallbackResult(CallbackVerdict.TAKEN)

    async def replay(self, tenant_id: int, call_id: int, *, actor: str | None, client: str | None) -> CallbackResult:
        """Process a kept callback again. Its items are stored once, however often it is replayed.

        A refused one is verified first, as in `verify`. Raises `WebhookCallNotFound`, `ProviderNotFound`, and what
        `GroupCommit.submit` raises.
        """
        async with self._sessions() as session:
            kept = await get_callback(session, call_id, tenant_id)
        result, addresses = await self._process_again(kept)
        changes = asdict(result) | {"addresses": sorted({*kept.addresses, *addresses}), "replayed_at": func.now()}
        async with self._sessions.begin() as session:
            is_it = (KeptCallback.tenant_id == tenant_id, KeptCallback.id == call_id)
            await session.execute(update(KeptCallback).where(*is_it).values(changes))
            detail = {"call_id": call_id, "provider": kept.provider_type, "verdict": result.verdict.value}
            await record(session, tenant_id, "replay", actor=actor, client=client, **detail)
        return result

    async def _process_again(self, kept: KeptCallback) -> tuple[CallbackResult, set[str]]:
        name, callback = kept.provider_type, _as_it_came(kept)
        is_genuine = kept.verdict != CallbackVerdict.REFUSED
        try:
            items = await self._verified_items(name, provider_of(name), callback, is_genuine=is_genuine)
        except (CallbackRefused, CallbackUnverifiable) as error:
            return _refused(error), set()
        if isinstance(items, Reply):
            return CallbackResult(CallbackVerdict.TAKEN), set()
        faults = await self._items.store(name, items)
        return _result_of(items, faults), items.addresses

    async def _verified_items(
        self, name: str, provider: BaseProvider, callback: Callback, *, is_genuine: bool = False
    ) -> StorableItems | Reply:
        """The items of a callback, verified unless it is known to be genuine, or the reply in their place.

        Raises what `_verify` raises, and `CallbackRefused` for a token that came with other items before.
        """
        token = None if is_genuine else await _verify(provider, callback)
        items = await self._read(name, provider, callback)
        if token is not None and isinstance(items, StorableItems) and items.hash_of_ids is not None:
            async with self._sessions.begin() as session:
                if not await claim_token(await session.connection(), name, token, items.hash_of_ids):
                    raise CallbackRefused("The token of its signature has come with something else.")
        return items

    async def _read(self, name: str, provider: BaseProvider, callback: Callback) -> StorableItems | Reply:
        try:
            parse = provider.parse
            parsing = await asyncio.to_thread(parse, callback) if callback.is_large else parse(callback)
            parsed = await parsing if isinstance(parsing, Awaitable) else parsing
        except (CallbackRefused, CallbackUnverifiable):
            raise
        except ValueError as error:
            return StorableItems(faults=[str(error)])
        except Exception as error:  # a bug of the provider's file, which must not lose the callback
            log.exception("callback_not_parsed", provider=name)
            return StorableItems(faults=[f"{type(error).__name__}: {error}"])
        return parsed if isinstance(parsed, Reply) else await self._items.read(name, parsed)

    async def _correct(self, call_id: int, result: CallbackResult) -> None:
        """Correct the result of a callback that was kept as taken."""
        # Ids are unique over all tenants; the tenant guard wants one named.
        is_it = (KeptCallback.tenant_id == Tenant.id, KeptCallback.id == call_id)
        async with self._sessions.begin() as session:
            await session.execute(update(KeptCallback).where(*is_it).values(asdict(result)))


def provider_of(name: str) -> BaseProvider:
    """Raises `ProviderNotFound`."""
    provider = provider_registry.get(name)
    if provider is None:
        raise ProviderNotFound("There is no provider of this name.")
    return provider


async def _verify(provider: BaseProvider, callback: Callback) -> str | None:
    """The token that the signature covers instead of the body, if any. Raises what `BaseProvider.verify` raises."""
    try:
        verifying = provider.verify(callback)
        return await verifying if isinstance(verifying, Awaitable) else verifying
    except NotImplementedError:
        raise ProviderNotFound("This provider does not call back.") from None
    except ValueError:
        raise CallbackRefused("The callback can't be read.") from None


def _result_of(items: StorableItems, faults: list[str] | None = None) -> CallbackResult:
    """The result of a genuine callback; `faults` are those that storing its items has shown."""
    reasons = items.faults + (faults or [])
    if not reasons:
        return CallbackResult(CallbackVerdict.TAKEN, events=items.count)
    reason = storable_text(redacted(" ".join(reasons)))[:_LONGEST_REASON]  # an error may quote a person's data
    return CallbackResult(CallbackVerdict.NOT_UNDERSTOOD, reason, events=items.count - len(faults or []))


def _refused(error: CallbackRefused | CallbackUnverifiable) -> CallbackResult:
    seen, expected = (error.seen, error.expected) if isinstance(error, CallbackRefused) else (None, None)
    reason = storable_text(str(error))
    return CallbackResult(CallbackVerdict.REFUSED, reason, storable_text(seen), storable_text(expected))


def _as_it_came(kept: KeptCallback) -> Callback:
    headers = [(name, value) for name, value in kept.headers if value is not None]
    return Callback(kept.method, kept.url, headers, kept.body, kept.received_at, is_kept=True)
