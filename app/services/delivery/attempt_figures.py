"""The figures of an attempt, and its span in the trace of the request that the message came with."""

from collections.abc import Coroutine
from typing import Any

from opentelemetry.trace import SpanKind, StatusCode

from app.domain import AttemptOutcome
from app.metrics.catalogue import ATTEMPT_SECONDS, ATTEMPTS
from app.providers.base import NotBegun, TemporaryFailure
from app.services.delivery.claiming.claims import Claim
from app.services.delivery.results.outcomes import AttemptResult
from app.tracing import context_of, current_tracer


def count_attempt(result: AttemptResult, seconds: float) -> None:
    """Count an attempt that took so long."""
    provider, error = result.provider_type, result.error
    if isinstance(error, NotBegun):
        ATTEMPTS.values[provider, "not_begun"] += 1
        return
    is_throttled = isinstance(error, TemporaryFailure) and error.throttled
    ATTEMPTS.values[provider, "throttled" if is_throttled else result.outcome.value] += 1
    ATTEMPT_SECONDS.observe((provider,), seconds)


async def traced(claim: Claim, sending: Coroutine[Any, Any, AttemptResult]) -> AttemptResult:
    """The result of handing a message over, in a span of its own while tracing is on.

    The provider's words are left out.
    """
    if (tracer := current_tracer()) is None:
        return await sending
    context = context_of((claim.row.details or {}).get("traceparent"))
    facts: dict[str, str | int] = {
        "messaging.system": claim.provider_type,
        "messaging.message.id": claim.message_id,
        "messaging.channel": claim.row.channel,
        "messaging.attempt": claim.number,
    }
    with tracer.start_as_current_span(f"send {claim.provider_type}", context, SpanKind.CLIENT, facts) as span:
        result = await sending
        span.set_attribute("messaging.outcome", result.outcome.value)
        if result.outcome is not AttemptOutcome.ACCEPTED:
            span.set_status(StatusCode.ERROR, type(result.error).__name__)
        return result
