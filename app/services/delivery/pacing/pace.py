"""The pace at which a provider is called, learned from its 429s. Decisions only; `Capacity` carries them out.

Each worker counts its own calls. The learned rate is stored with the provider's health, and all workers keep to it.
"""

import math
from collections import deque
from dataclasses import dataclass

#: Up to this share of 429s, or fewer than so many, a provider is well: only the messages that got them wait.
LOW_SHARE, FEW = 0.05, 3
#: From this share and so many on it takes nothing, and is paused for as long as it asked.
HIGH_SHARE, MANY = 0.5, 5
#: Calls a second, at which a worker has about one under way.
SLOW_RATE = 4.0
#: Seconds between two cuts, between two raises, and until an unused rate is forgotten.
CUT_EVERY, RAISE_EVERY, FORGET_AFTER = 0.5, 1.0, 300.0
#: Calls a second; a slower provider asks for pauses.
LOWEST_RATE = 1.0

_NEAR = 0.9  # of the ceiling: from here on the rate is raised with care
_WINDOW_SECONDS, _WINDOW_CALLS, _OLDEST_SECONDS = 1.0, 20, 10.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Calls a second that all workers make at most, or None, and the rate at which the provider last said 429."""

    rate: float | None = None
    ceiling: float | None = None
    since_change: float = math.inf  #: seconds


#: No limit.
UNLIMITED = Pace()


@dataclass(frozen=True, slots=True)
class Calls:
    """The recent calls of one worker that have ended, and how many are under way."""

    accepted: int = 0
    throttled: int = 0
    others: int = 0
    under_way: int = 0
    seconds: float = 1.0  #: in which they ended
    wanted_pause: float = 0.0  #: seconds, the longest that was asked for

    @property
    def ended(self) -> int:
        return self.accepted + self.throttled + self.others

    @property
    def share(self) -> float:
        return self.throttled / self.ended if self.ended else 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """The next pace, and the seconds for which the provider is paused."""

    pace: Pace
    pause: float = 0.0


def decide(calls: Calls, pace: Pace, *, is_used_up: bool) -> Decision | None:
    """Decide what follows from recent calls; None if nothing does.

    With `is_used_up`, messages wait for the learned rate. Only then is it raised.
    """
    if pace.since_change < CUT_EVERY:
        return None
    if _takes_nothing(calls, pace):
        return Decision(_cut(calls, pace), calls.wanted_pause)
    if calls.throttled >= FEW and calls.share > LOW_SHARE:
        return Decision(_cut(calls, pace))
    if pace.rate is None or calls.share > LOW_SHARE:
        return None
    if is_used_up and (raised := _raised(pace.rate, pace, calls)):
        return Decision(raised)
    return Decision(UNLIMITED) if pace.since_change >= FORGET_AFTER and not calls.throttled else None


def _takes_nothing(calls: Calls, pace: Pace) -> bool:
    """True if a provider is to be paused. With few calls at once, a single 429 says so."""
    if calls.share < HIGH_SHARE:
        return False
    is_slow = pace.rate is None or pace.rate <= SLOW_RATE
    return calls.throttled >= MANY or (is_slow and 2 * calls.throttled >= calls.ended + calls.under_way)


def _cut(calls: Calls, pace: Pace) -> Pace:
    """The pace without the share that was turned away; at first, the one that was accepted.

    From few calls a share is a guess, which at most halves the rate.
    """
    if pace.rate is None:
        rate = max(calls.accepted / calls.seconds, LOWEST_RATE)
        return Pace(rate, rate if calls.accepted >= _WINDOW_CALLS else None)
    share = calls.share if calls.ended >= MANY else min(calls.share, 0.5)
    rate = max(pace.rate * (1 - share), LOWEST_RATE)
    return Pace(rate, rate if calls.accepted else pace.ceiling)


def _raised(rate: float, pace: Pace, calls: Calls) -> Pace | None:
    """Twice the rate each half second; near the ceiling a tenth more each second, after twenty calls."""
    if not calls.accepted:
        return None
    ceiling = None if pace.ceiling is None or rate >= 2 * pace.ceiling else pace.ceiling
    if ceiling is None:
        return Pace(2 * rate)
    if rate < _NEAR * ceiling:
        return Pace(min(2 * rate, ceiling), ceiling)
    is_sure = pace.since_change >= RAISE_EVERY and calls.ended >= _WINDOW_CALLS
    return Pace(rate + rate / 10, ceiling) if is_sure else None


class RecentCalls:
    """The calls of this worker to one provider in about the last second, or else the last twenty."""

    def __init__(self) -> None:
        self._ended: deque[tuple[float, bool, float]] = deque()  # when, whether accepted, the pause that it asked for
        self._accepted = self._throttled = 0
        self._counted_from = 0.0

    def add(self, began: float, ended: float, *, accepted: bool = False, pause: float = 0.0) -> None:
        """Count a call; with `pause`, it was throttled. One that began before `restart` is not counted."""
        if began < self._counted_from:
            return
        self._ended.append((ended, accepted, pause))
        self._accepted += accepted
        self._throttled += pause > 0
        self._forget(ended)

    def restart(self, now: float) -> None:
        """Count from now on: the pace has changed."""
        self._ended.clear()
        self._accepted = self._throttled = 0
        self._counted_from = now

    def calls(self, now: float, under_way: int) -> Calls:
        self._forget(now)
        if not self._ended:
            return Calls(under_way=under_way)
        return Calls(
            self._accepted,
            self._throttled,
            len(self._ended) - self._accepted - self._throttled,
            under_way,
            max(now - self._ended[0][0], 1.0),
            max(pause for _, _, pause in self._ended) if self._throttled else 0.0,
        )

    def _forget(self, now: float) -> None:
        ended = self._ended
        while ended and (
            now - ended[0][0] > _OLDEST_SECONDS
            or (now - ended[0][0] > _WINDOW_SECONDS and len(ended) > _WINDOW_CALLS)
        ):
            _, accepted, pause = ended.popleft()
            self._accepted -= accepted
            self._throttled -= pause > 0
