"""The decision after an attempt: finished, retried, or waiting for a receipt. Pure functions; others carry it out."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from app.config import Settings
from app.domain import AttemptOutcome, MessageStatus
from app.providers.base import (
    BaseProvider,
    CredentialsRefused,
    NotBegun,
    PermanentFailure,
    ProviderFailure,
    TemporaryFailure,
    UnknownOutcome,
)
from app.services.consent.quiet_hours import sentence_of_hold

#: After this many workers died with a message in flight, it is sent apart from others. So the next death shows that
#: it is the poison message, and does not count against the messages beside it.
DEATHS_BEFORE_SUSPICION = 2

#: A poison message fails after this many workers died with it, the last one while it was sent apart from others.
#: Where a repeat is safe, the limit of attempts is enough.
DEATHS_BEFORE_GIVING_UP = 3

#: A message that its worker died with waits this long for workers to return: it might be what killed them.
RESTART_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """The facts about an attempt that its decision depends on.

    `limit` is the number of the message's last attempt, or None for the setting. With `may_have_left`, an earlier
    attempt is in doubt. With `cut_off`, the worker stopped or died before the provider answered. `worker_deaths`
    counts the workers that died with the message in flight.
    """

    number: int
    limit: int | None = None
    may_have_left: bool = False
    cut_off: bool = False
    worker_deaths: int = 0


class Decision(NamedTuple):
    """The outcome of an attempt and the next status of its message.

    With `retry_in` (seconds) the message is due again after that time. `limit` is the new number of its last attempt,
    if this one does not count.
    """

    outcome: AttemptOutcome
    status: MessageStatus
    reason: str | None = None
    retry_in: float | None = None
    limit: int | None = None


ACCEPTED = Decision(AttemptOutcome.ACCEPTED, MessageStatus.SENT)


def after_failure(error: Exception, attempt: Attempt, provider: BaseProvider | None, settings: Settings) -> Decision:
    """Decide after an exception from `send`."""
    detail = str(error) if isinstance(error, ProviderFailure) else f"{type(error).__name__} in the provider."
    if isinstance(error, TimeoutError):
        detail = f"No answer within {settings.provider_timeout_seconds:g} seconds."
    if isinstance(error, UnknownOutcome | TimeoutError):
        return in_doubt(detail, attempt, provider, settings)
    if isinstance(error, PermanentFailure):
        doubt = "It may have gone out before. " if attempt.may_have_left and not is_safe_to_repeat(provider) else ""
        return Decision(AttemptOutcome.PERMANENT, MessageStatus.FAILED, doubt + detail)
    # A message in doubt that is then turned away stays `unknown` and must not expire: it may already have been sent.
    waiting = MessageStatus.UNKNOWN if attempt.may_have_left else MessageStatus.QUEUED
    limit = attempt.limit or settings.max_attempts
    if isinstance(error, CredentialsRefused):  # pauses the provider; the message is not at fault
        return Decision(AttemptOutcome.TEMPORARY, waiting, detail, retry_in=0, limit=limit + 1)
    # A throttled send and one that never began are not the message's fault either.
    is_free = isinstance(error, NotBegun) or (isinstance(error, TemporaryFailure) and error.throttled)
    if attempt.number >= limit and not is_free:
        doubt = "; it may have gone out" if attempt.may_have_left else ""
        reason = f"Given up after {attempt.number} attempts{doubt}. The last: {detail}"
        return Decision(AttemptOutcome.TEMPORARY, MessageStatus.FAILED, reason)
    wanted = error.retry_after if isinstance(error, TemporaryFailure) else None
    # Vendors also send 0, negative numbers and past dates: these never shorten our own backoff.
    delay = max(backoff(attempt.number, settings), min(wanted or 0, settings.retry_after_max_seconds))
    return Decision(AttemptOutcome.TEMPORARY, waiting, detail, retry_in=delay, limit=limit + 1 if is_free else None)


def in_doubt(detail: str, attempt: Attempt, provider: BaseProvider | None, settings: Settings) -> Decision:
    """Decide when the request may have left: retry where a repeat is safe, otherwise do as the settings say.

    A repeat is safe if the provider honours our key or can be asked about the message. A provider whose receipts
    carry our key is given time to send one before an unsafe retry.
    """
    unknown = AttemptOutcome.UNKNOWN
    policy = settings.in_doubt_after_crash if attempt.cut_off else settings.in_doubt_after_timeout
    is_safe = is_safe_to_repeat(provider)
    if not is_safe and attempt.worker_deaths >= DEATHS_BEFORE_GIVING_UP:
        reason = f"Given up after {attempt.worker_deaths} workers died with it in hand. It may have gone out."
        return Decision(unknown, MessageStatus.FAILED, reason)
    if is_safe or policy == "retry":
        if attempt.number >= (attempt.limit or settings.max_attempts):
            reason = f"Given up after {attempt.number} attempts; it may have gone out. The last: {detail}"
            return Decision(unknown, MessageStatus.FAILED, reason)
        delay = backoff(attempt.number, settings) + (RESTART_SECONDS if attempt.worker_deaths else 0)
        if not is_safe and provider is not None and provider.receipts_carry_key:
            delay = max(delay, settings.in_doubt_receipt_seconds)
        return Decision(unknown, MessageStatus.UNKNOWN, detail, retry_in=delay)
    if policy == "fail":
        return Decision(unknown, MessageStatus.FAILED, f"It may have gone out. {detail}")
    return Decision(unknown, MessageStatus.UNKNOWN, detail)


def held(until: datetime, attempt: Attempt, settings: Settings) -> Decision:
    """Decide in the quiet hours of a recipient, before the provider is called. It does not count as an attempt."""
    status = MessageStatus.UNKNOWN if attempt.may_have_left else MessageStatus.SCHEDULED
    seconds = max((until - datetime.now(UTC)).total_seconds(), 0.0)
    limit = (attempt.limit or settings.max_attempts) + 1
    return Decision(AttemptOutcome.TEMPORARY, status, sentence_of_hold(until), retry_in=seconds, limit=limit)


def is_safe_to_repeat(provider: BaseProvider | None) -> bool:
    """Tell whether a repeated send of the same message reaches its recipient only once."""
    return provider is not None and (provider.honours_idempotency_key or can_be_asked(provider))


def can_be_asked(provider: BaseProvider) -> bool:
    return type(provider).look_up is not BaseProvider.look_up


def backoff(attempt: int, settings: Settings) -> float:
    """Seconds before the next attempt: doubled each time, up to a cap, with jitter over the upper half."""
    longest: float = min(settings.retry_base_seconds * 2.0 ** min(attempt - 1, 64), settings.retry_max_seconds)
    return longest * random.uniform(0.5, 1)  # noqa: S311 - jitter needs no cryptographic randomness
