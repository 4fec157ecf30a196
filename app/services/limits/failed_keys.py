"""Limits failed API-key attempts per client network.

Each process counts by itself. Guessing 256 random bits is hopeless anyhow; this limits the cost of the guesses.
"""

import ipaddress
import math
import time
from functools import lru_cache

_SECONDS = 60.0


class FailedKeys:
    """Counts failures by client address, and by the first 64 bits of an IPv6 address.

    At most `size` addresses are remembered. Those that failed longest ago are forgotten first.
    """

    def __init__(self, *, a_minute: int, size: int = 10_000) -> None:
        self._a_minute = a_minute
        self._size = size
        self._counts: dict[str, tuple[int, float]] = {}  # failures, and when they are forgotten

    def note(self, client: str | None) -> None:
        """Count a failure. All clients without an address count as one."""
        block, now = address_block(client), time.monotonic()
        count, ends_at = self._counts.pop(block, (0, 0.0))
        if now >= ends_at:
            count, ends_at = 0, now + _SECONDS
            if len(self._counts) >= self._size:
                del self._counts[next(iter(self._counts))]
        self._counts[block] = count + 1, ends_at

    def seconds_left(self, client: str | None) -> int:
        """Seconds that a client has to wait after too many failures; 0 for any other."""
        if not self._counts or not self._a_minute:
            return 0
        count, ends_at = self._counts.get(address_block(client), (0, 0.0))
        return max(math.ceil(ends_at - time.monotonic()), 0) if count >= self._a_minute else 0


@lru_cache(maxsize=1024)
def address_block(client: str | None) -> str:
    """The part of an address that one client has to itself: all of IPv4, the first 64 bits of IPv6."""
    if client is None or ":" not in client:
        return client or ""
    try:
        address = ipaddress.IPv6Address(client)
    except ValueError:
        return client[:64]
    return str(address.ipv4_mapped or ipaddress.IPv6Network((address, 64), strict=False))
