"""Our references for messages at providers."""

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_REFERENCE = re.compile(r"([1-9][0-9]{0,17})-([1-9][0-9]{0,17})-([0-9]{1,16})(?:-[1-9][0-9]{0,8})?", re.ASCII)


def reference_of(tenant_id: int, message_id: int, created_at: datetime, retry_count: int = 0) -> str:
    """Our reference for a message at a provider, which serves as its idempotency key: the same for every attempt.

    It contains the time of creation, because a new database starts its ids at 1 again and a provider remembers the
    old ones. A manual retry gets a new reference: a provider that honours the old one would only repeat its refusal.
    """
    name = f"{tenant_id}-{message_id}-{(created_at - _EPOCH) // _MICROSECOND}"
    return f"{name}-{retry_count}" if retry_count else name


def parse_reference(reference: str | None) -> tuple[int, int, datetime] | None:
    """The tenant, message id and time of creation that a reference claims, unchecked; None if it is not ours."""
    match = _REFERENCE.fullmatch(reference or "")
    return (int(match[1]), int(match[2]), _EPOCH + int(match[3]) * _MICROSECOND) if match else None
