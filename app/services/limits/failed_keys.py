"""How often clients have shown keys that are none, so that guessing comes to an end, and costs us nothing.

Counted in each process by itself: guesses at 256 random bits are hopeless anyhow, it is about what they cost.
"""

import ipaddress
import math
import time
from functools import lru_cache

_SECONDS = 60.0


class FailureCount:
    """Counts failures by client address, of IPv6 by the first 64 bits, which one household has to itself.

    At most `size` addresses are remembered; those that failed longest ago are forgotten first.
    """

    def __init__(self, *, a_minute: int, size: int = 10_000) -> None:
        self._a_minute = a_minute
        self._size = size
        self._counts: dict[str, tuple[int, float]] = {}  # failures, and when they are forgotten

    def note(self, client: str | None) -> None:
        """Count a failure; a client that we can't tell from others is one with all such."""
        household, now = household_of(client), time.monotonic()
        count, ends_at = self._counts.pop(household, (0, 0.0))
        if now >= ends_at:
            count, ends_at = 0, now + _SECONDS
            if len(self._counts) >= self._size:
                del self._counts[next(iter(self._counts))]
        self._counts[household] = count + 1, ends_at

    def seconds_left(self, client: str | None) -> int:
        """How long a client that has failed too often has to wait; 0 for any other."""
        if not self._counts or not self._a_minute:
            return 0
        count, ends_at = self._counts.get(household_of(client), (0, 0.0))
        return max(math.ceil(ends_at - time.monotonic()), 0) if count >= self._a_minute else 0


@lru_cache(maxsize=1024)
def household_of(client: str | None) -> str:
    """What the addresses of one client have in common: all of it, of IPv6 the first 64 bits."""
    if client is None or ":" not in client:
        return client or ""
    try:
        address = ipaddress.IPv6Address(client)
    except ValueError:
        return client[:64]
    return str(address.ipv4_mapped or ipaddress.IPv6Network((address, 64), strict=False))
