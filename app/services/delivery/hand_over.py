"""Sends one claimed message through its provider, and turns what happens into an `AttemptResult`."""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from time import monotonic
from typing import TypeVar

import structlog

from app.addresses import sender_address
from app.config import Settings
from app.db.engine import is_unavailable
from app.db.statements.sanitize import storable_text
from app.domain import AttemptOutcome, MessageStatus
from app.providers.base import BaseProvider, NotBegun, ProviderFailure, ProviderResult, TemporaryFailure, send_through
from app.providers.registry import provider_registry
from app.providers.toolbox.http_client import failure_behind
from app.services.consent.check import CHECK_HOLDS_SECONDS, LastCheck, RefusedBy
from app.services.consent.copies import NONE_LEFT_OUT, left_out_too
from app.services.consent.quiet_hours import IN_QUIET_HOURS, QuietHoursRule
from app.services.delivery.claiming.claims import Claim
from app.services.delivery.results.outcomes import AttemptResult
from app.services.delivery.results.retry_policy import ACCEPTED, Decision, after_failure, can_be_asked, held, in_doubt
from app.services.files.attached import SentFiles

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

_STOPPED = "The service was stopped before the provider answered."


async def hand_over(
    claim: Claim, wait: float, settings: Settings, check: LastCheck, quiet_hours: QuietHoursRule, files: SentFiles
) -> AttemptResult:
    """Send after `wait` seconds, and decide what follows. Never raises: a cancellation also becomes a result."""
    provider = provider_registry.get(claim.provider_type)
    try:
        if wait:
            await _its_turn(wait)
        if (refusal := await _refusal_of(claim, check)) is not None:
            return _suppressed(claim, refusal)
        row, left_out = claim.row, NONE_LEFT_OUT
        may_be_held = quiet_hours.may_hold(claim.tenant_id, row.purpose)
        if may_be_held and (until := await _told(quiet_hours.hold_now(claim.tenant_id, row))) is not None:
            return _result(claim, held(until, claim.attempt, settings), error=NotBegun(IN_QUIET_HOURS))
        if row.details:
            left_out = await _told(check.copies.left_out_of(claim.tenant_id, claim.message_id, row.details))
        result = await _send(claim, provider, settings, files, left_out)
    except asyncio.CancelledError:
        return _result(claim, in_doubt(_STOPPED, replace(claim.attempt, cut_off=True), provider, settings))
    except Exception as raised:
        error = failure_behind(raised)
        if not isinstance(error, ProviderFailure | TimeoutError):
            facts = {"tenant": claim.tenant_id, "message_id": claim.message_id}
            log.exception("provider_raised", provider=claim.provider_type, **facts)
        return _result(claim, after_failure(error, claim.attempt, provider, settings), error=error)
    if not result.left_out:
        return _result(claim, ACCEPTED, result.provider_message_id)
    refused = left_out_too(row.details, left_out, result.left_out)
    return replace(_result(claim, ACCEPTED, result.provider_message_id), left_out=refused)


async def _send(
    claim: Claim,
    provider: BaseProvider | None,
    settings: Settings,
    files: SentFiles,
    left_out: Mapping[str, int | None],
) -> ProviderResult:
    if provider is None:
        raise TemporaryFailure(f"No provider is registered as {claim.provider_type!r}.")
    async with asyncio.timeout(settings.provider_timeout_seconds) as timeout:
        payload = claim.payload(give_up_at=timeout.when(), left_out=left_out)
        if payload.attachments:
            payload = await files.prepared(claim.tenant_id, payload)
        is_asked = claim.may_have_left and can_be_asked(provider)
        if is_asked and (earlier := await provider.look_up(payload)) is not None:
            return earlier
        return await send_through(provider, payload, threads=settings.concurrency_of(claim.provider_type))


async def _refusal_of(claim: Claim, check: LastCheck) -> RefusedBy | None:
    """The refusal that stops the message, if some time has passed since the claim was checked."""
    if monotonic() - claim.checked_at < CHECK_HOLDS_SECONDS:
        return None
    sent_to = claim.thread.sent_to and sender_address(claim.thread.sent_to, region="US", is_mail=True).value
    return await _told(check.refusal_of(claim.tenant_id, claim.message_id, sent_to))


async def _told(question: Awaitable[Answer]) -> Answer:
    """The database's answer. Raises `NotBegun` where there is none."""
    try:
        return await question
    except asyncio.CancelledError:
        raise NotBegun("It was not handed over: the service was stopped before its turn.") from None
    except Exception as error:
        if not is_unavailable(error):
            raise
        raise NotBegun("It was not handed over: the database did not tell if it may be.") from error


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
    its_id = None if provider_message_id is None else storable_text(str(provider_message_id))  # some are integers
    return AttemptResult(
        claim.tenant_id,
        claim.message_id,
        claim.number,
        claim.provider_type,
        *decision,
        provider_message_id=its_id,
        error=error,
    )
