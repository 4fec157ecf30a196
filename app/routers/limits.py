"""What a tenant's rate limit looks like from outside: two headers on every answer to whoever shows a key."""

import math

from starlette.types import Scope

from app.services.rate_limits import Standing


def tell(scope: Scope, standing: Standing) -> None:
    """Have the answer say where the tenant stands: `RateLimit-Policy` and `RateLimit`, as in the IETF's
    draft-ietf-httpapi-ratelimit-headers-11. The time is until the bucket is full again, or that of `Retry-After`."""
    rate, burst, left, retry_after = standing
    seconds = math.ceil((burst - left) / rate) if retry_after is None else retry_after
    scope["answer_headers"] += [
        (b"ratelimit-policy", b'"requests";q=%d;w=%d' % (burst, math.ceil(burst / rate))),
        (b"ratelimit", b'"requests";r=%d;t=%d' % (left, seconds)),
    ]
