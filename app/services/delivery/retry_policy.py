"""What follows from an attempt: the end, another try, or waiting. One pure decision, told apart from doing it."""

import random
from dataclasses import dataclass
from typing import Literal

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

#: After so many workers died with a message in hand, the last time with no other suspect beside it, it is given up.
#: Where asking again is safe the attempts are limit enough.
DEATHS_BEFORE_GIVING_UP = 3

#: What workers may have died over waits until they are back: trying it sooner could leave nobody to do the rest.
BACK_AGAIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a message goes after an attempt; with `retry_in` (seconds) a worker looks at it again.

    `limit` is the number of its last attempt from now on, where this one is not to count.
    """

    outcome: AttemptOutcome
    status: MessageStatus
    reason: str | None = None
    retry_in: float | None = None
    limit: int | None = None


ACCEPTED = Verdict(AttemptOutcome.ACCEPTED, MessageStatus.SENT)


def after_failure(
    error: Exception,
    *,
    attempt: int,
    limit: int,
    provider: BaseProvider | None,
    settings: Settings,
    may_have_left: bool = False,
) -> Verdict:
    """What follows when `send` raised. `may_have_left` says that an earlier attempt is in doubt."""
    detail = str(error) if isinstance(error, ProviderFailure) else f"{type(error).__name__} in the provider."
    if isinstance(error, TimeoutError):
        detail = f"No answer within {settings.provider_timeout_seconds:g} seconds."
    if isinstance(error, UnknownOutcome | TimeoutError):
        return in_doubt(
            detail,
            attempt=attempt,
            limit=limit,
            provider=provider,
            policy=settings.in_doubt_after_timeout,
            settings=settings,
        )
    if isinstance(error, PermanentFailure):
        doubt = "It may have gone out before. " if may_have_left and not is_safe_to_repeat(provider) else ""
        return Verdict(AttemptOutcome.PERMANENT, MessageStatus.FAILED, doubt + detail)
    # That it is turned away now does not undo that it may have gone out: it is still in doubt, and can't expire.
    waiting = MessageStatus.UNKNOWN if may_have_left else MessageStatus.QUEUED
    if isinstance(error, CredentialsRefused):  # the provider is paused; the message did nothing wrong
        return Verdict(AttemptOutcome.TEMPORARY, waiting, detail, retry_in=0, limit=limit + 1)
    # Too many were handed over, or none: neither is this one's fault.
    free = isinstance(error, NotBegun) or (isinstance(error, TemporaryFailure) and error.throttled)
    if attempt >= limit and not free:
        doubt = "; it may have gone out" if may_have_left else ""
        reason = f"Given up after {attempt} attempts{doubt}. The last: {detail}"
        return Verdict(AttemptOutcome.TEMPORARY, MessageStatus.FAILED, reason)
    wait = error.retry_after if isinstance(error, TemporaryFailure) else None
    # Vendors also write 0, negative numbers and dates that have passed: never sooner than without a word of theirs.
    delay = max(backoff(attempt, settings), min(wait or 0, settings.retry_after_max_seconds))
    later = limit + 1 if free else None
    return Verdict(AttemptOutcome.TEMPORARY, waiting, detail, retry_in=delay, limit=later)


def in_doubt(
    detail: str,
    *,
    attempt: int,
    limit: int,
    provider: BaseProvider | None,
    policy: Literal["wait", "retry", "fail"],
    settings: Settings,
    deaths: int = 0,
) -> Verdict:
    """What follows when the request may have left: ask again where that is safe, else what the settings say.

    It is safe where the provider honours our key, or can be asked what became of it. Otherwise, where its receipts
    tell, they are given time to come before it is asked again. `deaths` counts workers that died with this message in
    hand.
    """
    unknown = AttemptOutcome.UNKNOWN
    safe = is_safe_to_repeat(provider)
    if not safe and deaths >= DEATHS_BEFORE_GIVING_UP:
        reason = f"Given up after {deaths} workers died with it in hand. It may have gone out."
        return Verdict(unknown, MessageStatus.FAILED, reason)
    if safe or policy == "retry":
        if attempt >= limit:
            reason = f"Given up after {attempt} attempts; it may have gone out. The last: {detail}"
            return Verdict(unknown, MessageStatus.FAILED, reason)
        delay = backoff(attempt, settings) + (BACK_AGAIN_SECONDS if deaths else 0)
        if not safe and provider is not None and provider.receipts_carry_key:
            delay = max(delay, settings.in_doubt_receipt_seconds)
        return Verdict(unknown, MessageStatus.UNKNOWN, detail, retry_in=delay)
    if policy == "fail":
        return Verdict(unknown, MessageStatus.FAILED, f"It may have gone out. {detail}")
    return Verdict(unknown, MessageStatus.UNKNOWN, detail)


def is_safe_to_repeat(provider: BaseProvider | None) -> bool:
    """Whether what a provider may have already can be handed to it once more, and goes out once."""
    return provider is not None and (provider.honours_idempotency_key or can_be_asked(provider))


def can_be_asked(provider: BaseProvider) -> bool:
    return type(provider).look_up is not BaseProvider.look_up


def backoff(attempt: int, settings: Settings) -> float:
    """Seconds before the next try: doubled each time, up to a cap, spread over its upper half."""
    longest: float = min(settings.retry_base_seconds * 2.0 ** min(attempt - 1, 64), settings.retry_max_seconds)
    return longest * random.uniform(0.5, 1)  # noqa: S311 - it spreads load, it keeps no secret
