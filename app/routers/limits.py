"""What a tenant's rate limit looks like from outside: two headers on every answer to whoever shows a key."""

import math
from functools import lru_cache

from starlette.types import Scope

from app.services.rate_limits import Standing


def tell(scope: Scope, standing: Standing | None) -> None:
    """Have the answer say where the tenant stands: `RateLimit-Policy` and `RateLimit`, as in the IETF's
    draft-ietf-httpapi-ratelimit-headers-11. The time is until the bucket is full again, or that of `Retry-After`.
    Without a limit it says nothing."""
    if standing is None:
        return
    rate, burst, left, retry_after = standing
    seconds = math.ceil((burst - left) / rate) if retry_after is None else retry_after
    scope["answer_headers"] += (_policy(rate, burst), (b"ratelimit", b'"requests";r=%d;t=%d' % (left, seconds)))


@lru_cache(maxsize=1024)
def _policy(rate: float, burst: int) -> tuple[bytes, bytes]:
    return b"ratelimit-policy", b'"requests";q=%d;w=%d' % (burst, math.ceil(burst / rate))
