"""How we name a message to a provider: the same for every attempt, and never used again.

It holds the time of creation because ids begin at 1 again in a new database, while a provider remembers. Somebody who
has a refused message tried again means another try: it goes by another name, or a provider that honours the name
would only repeat its refusal.
"""

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_REFERENCE = re.compile(r"([1-9][0-9]{0,17})-([1-9][0-9]{0,17})-([0-9]{1,16})(?:-[1-9][0-9]{0,8})?", re.ASCII)


def reference_of(tenant_id: int, message_id: int, created_at: datetime, retry_count: int = 0) -> str:
    name = f"{tenant_id}-{message_id}-{(created_at - _EPOCH) // _MICROSECOND}"
    return f"{name}-{retry_count}" if retry_count else name


def parse_reference(reference: str | None, tenant_id: int) -> tuple[int, datetime] | None:
    """The message id and the time of creation in it; None for what we did not write, or wrote for another tenant."""
    match = _REFERENCE.fullmatch(reference or "")
    if match is None or int(match[1]) != tenant_id:
        return None
    return int(match[2]), _EPOCH + int(match[3]) * _MICROSECOND


def tenant_in(reference: str | None) -> int | None:
    """The tenant that a reference claims; whether there is one, and whether it is right, is not looked at."""
    match = _REFERENCE.fullmatch(reference or "")
    return int(match[1]) if match else None
