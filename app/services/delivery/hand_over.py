"""Sends one claimed message through its provider, and turns what happens into an `AttemptResult`."""

import asyncio
from dataclasses import replace

import structlog

from app.addresses import sender_address
from app.config import Settings
from app.db.engine import is_unavailable
from app.db.sanitize import storable_text
from app.domain import AttemptOutcome, MessageStatus
from app.providers.base import BaseProvider, NotBegun, ProviderFailure, ProviderResult, TemporaryFailure, send_through
from app.providers.registry import provider_registry
from app.providers.toolbox.http_client import failure_behind
from app.services.consent.check import CHECK_HOLDS_SECONDS, LastCheck, RefusedBy
from app.services.delivery.claims import Claim
from app.services.delivery.outcomes import AttemptResult
from app.services.delivery.retry_policy import ACCEPTED, Decision, after_failure, can_be_asked, in_doubt

log = structlog.get_logger(__name__)

_STOPPED = "The service was stopped before the provider answered."


async def hand_over(claim: Claim, wait: float, settings: Settings, check: LastCheck) -> AttemptResult:
    """Send after `wait` seconds, and decide what follows. Never raises: a cancellation also becomes a result."""
    provider = provider_registry.get(claim.provider_type)
    try:
        if wait:
            await _its_turn(wait)
        if (refusal := await _refusal_of(claim, check)) is not None:
            return _suppressed(claim, refusal)
        result = await _send(claim, provider, settings)
    except asyncio.CancelledError:
        cut_off = replace(claim.attempt, cut_off=True)
        return _result(claim, in_doubt(_STOPPED, cut_off, provider, settings))
    except Exception as raised:
        error = failure_behind(raised)
        if not isinstance(error, ProviderFailure | TimeoutError):
            facts = {"tenant": claim.tenant_id, "message_id": claim.message_id}
            log.exception("provider_raised", provider=claim.provider_type, **facts)
        return _result(claim, after_failure(error, claim.attempt, provider, settings), error=error)
    return _result(claim, ACCEPTED, result.provider_message_id)


async def _send(claim: Claim, provider: BaseProvider | None, settings: Settings) -> ProviderResult:
    if provider is None:
        raise TemporaryFailure(f"No provider is registered as {claim.provider_type!r}.")
    async with asyncio.timeout(settings.provider_timeout_seconds) as timeout:
        payload = claim.payload(give_up_at=timeout.when())
        if claim.may_have_left and can_be_asked(provider):
            earlier = await provider.look_up(payload)
            if earlier is not None:
                return earlier
        return await send_through(provider, payload, threads=settings.concurrency_of(claim.provider_type))


async def _refusal_of(claim: Claim, check: LastCheck) -> RefusedBy | None:
    """The refusal that stops the message, if some time has passed since the claim was checked.

    Raises `NotBegun` where it can't be told.
    """
    if asyncio.get_running_loop().time() - claim.checked_at < CHECK_HOLDS_SECONDS:
        return None
    sent_to = claim.thread.sent_to and sender_address(claim.thread.sent_to, region="US", is_mail=True).value
    try:
        return await check.refusal_of(claim.tenant_id, claim.message_id, sent_to)
    except asyncio.CancelledError:
        raise NotBegun("It was not handed over: the service was stopped before its turn.") from None
    except Exception as error:
        if not is_unavailable(error):
            raise
        raise NotBegun("It was not handed over: the database did not tell if the recipient refuses it.") from error


def _suppressed(claim: Claim, refusal: RefusedBy) -> AttemptResult:
    decision = Decision(AttemptOutcome.PERMANENT, MessageStatus.SUPPRESSED, refusal.reason)
    return replace(_result(claim, decision, error=NotBegun(refusal.reason)), refused_by=refusal.entry_id)


async def _its_turn(wait: float) -> None:
    """Wait so many seconds. Raises `NotBegun` if the service stops meanwhile: nothing has left."""
    try:
        await asyncio.sleep(wait)
    except asyncio.CancelledError:
        raise NotBegun("It was not handed over: the service was stopped before its turn.") from None


def _result(
    claim: Claim, decision: Decision, provider_message_id: object = None, *, error: Exception | None = None
) -> AttemptResult:
    """The result to record. The provider's words become storable, because an unstorable result would be lost."""
    if decision.reason is not None:
        decision = decision._replace(reason=storable_text(decision.reason))
    # Some vendors' ids are integers.
    its_id = None if provider_message_id is None else storable_text(str(provider_message_id))
    return AttemptResult(
        claim.tenant_id,
        claim.message_id,
        claim.number,
        claim.provider_type,
        **decision._asdict(),
        provider_message_id=its_id,
        error=error,
    )
