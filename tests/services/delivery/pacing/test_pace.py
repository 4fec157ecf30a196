"""The pace that is learned from 429s: each rule, and what they add up to with carriers of several kinds."""

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

from app.services.delivery.pacing.pace import UNLIMITED, Calls, Decision, Pace, RecentCalls, decide
from tests.cases import each_case

#: One that was learned a while ago.
LEARNED = Pace(50.0, 40.0, since_change=5.0)
ASKED = 7.0


def at(rate: float, ceiling: float | None = None, since: float = 5.0) -> Pace:
    return Pace(rate, ceiling, since)


@each_case(
    "said, calls, pace, decision",
    [
        ("nothing was throttled", Calls(100), UNLIMITED, None),
        ("nothing was called", Calls(), UNLIMITED, None),
        ("one in a hundred", Calls(198, 2, wanted_pause=ASKED), UNLIMITED, None),
        ("five in a hundred", Calls(95, 5, wanted_pause=ASKED), UNLIMITED, None),
        ("few, though a large share", Calls(6, 2, wanted_pause=ASKED), UNLIMITED, None),
        ("the first that ends, of many", Calls(0, 1, under_way=49, wanted_pause=ASKED), UNLIMITED, None),
        ("a single call", Calls(0, 1, wanted_pause=ASKED), UNLIMITED, Decision(at(1), ASKED)),
        ("half of two", Calls(1, 1, wanted_pause=ASKED), UNLIMITED, Decision(at(1), ASKED)),
        ("half of many", Calls(60, 60, seconds=1.5, wanted_pause=ASKED), UNLIMITED, Decision(at(40, 40), ASKED)),
        ("some", Calls(90, 6, others=4, seconds=2, wanted_pause=ASKED), UNLIMITED, Decision(at(45, 45))),
        ("some of few", Calls(10, 3, wanted_pause=ASKED), UNLIMITED, Decision(at(10))),
        ("some, after a cut", Calls(45, 5), LEARNED, Decision(at(45, 45))),
        ("some, just after a cut", Calls(45, 5), at(50, 40, since=0.4), None),
        ("all of few, after a cut", Calls(0, 3, wanted_pause=ASKED), LEARNED, Decision(at(25, 40))),
        ("all, after a cut", Calls(0, 5, wanted_pause=ASKED), LEARNED, Decision(at(1, 40), ASKED)),
        ("a single call, of a slow provider", Calls(0, 1, wanted_pause=ASKED), at(2), Decision(at(1), ASKED)),
        ("one of two, of a slow provider", Calls(0, 1, under_way=2), at(2), None),
        ("half, after a cut", Calls(5, 5, wanted_pause=ASKED), LEARNED, Decision(at(25, 25), ASKED)),
        ("none since a cut, near the ceiling", Calls(20), at(50, 50), Decision(at(55, 50))),
        ("too few to be sure, near the ceiling", Calls(19), at(50, 50), None),
        ("too early, near the ceiling", Calls(30), at(50, 50, since=0.9), None),
        ("far below the ceiling", Calls(1), at(10, 50, since=0.6), Decision(at(20, 50))),
        ("below the ceiling", Calls(1), at(40, 50), Decision(at(50, 50))),
        ("at twice the ceiling", Calls(1), at(100, 50), Decision(at(200))),
        ("no ceiling", Calls(1), at(8), Decision(at(16))),
        ("no answer since a cut", Calls(0, under_way=3), at(8), None),
        ("one in twenty", Calls(19, 1), at(50, 50), Decision(at(55, 50))),
        ("one in ten", Calls(9, 1, under_way=9), at(50, 50), None),
    ],
)
def test_a_pace_that_is_used_up(said: str, calls: Calls, pace: Pace, decision: Decision | None) -> None:
    assert rates(decide(calls, pace, is_used_up=True)) == rates(decision), said


@each_case(
    "calls, since, is_forgotten",
    [(Calls(1), 299.0, False), (Calls(1), 301.0, True), (Calls(), 301.0, True), (Calls(19, 1), 301.0, False)],
)
def test_a_pace_that_is_not_used_up_stays_and_is_forgotten_after_minutes(
    calls: Calls, since: float, is_forgotten: bool
) -> None:
    decision = decide(calls, at(50, 50, since=since), is_used_up=False)
    assert decision == (Decision(UNLIMITED) if is_forgotten else None)


def rates(decision: Decision | None) -> tuple[float | None, ...]:
    return () if decision is None else (decision.pace.rate, decision.pace.ceiling, decision.pause)


def test_calls_are_recent_for_a_second_or_while_they_are_among_the_last_twenty() -> None:
    recent = RecentCalls()
    for number in range(100):
        recent.add(0.0, number / 100, accepted=True)
    assert recent.calls(0.99, 0).accepted == 100
    assert recent.calls(1.495, 0).accepted == 50
    assert recent.calls(2.5, 7) == Calls(20, seconds=2.5 - 0.8, under_way=7)
    recent.add(0.0, 2.5, pause=3.0)
    recent.add(0.0, 2.5, pause=2.0)
    recent.add(0.0, 2.5)
    assert recent.calls(2.5, 0) == Calls(17, 2, 1, seconds=2.5 - 0.83, wanted_pause=3.0)
    assert recent.calls(20, 0) == Calls()


def test_calls_that_were_claimed_before_a_change_are_not_counted() -> None:
    recent = RecentCalls()
    recent.add(1.0, 1.1, pause=1.0)
    recent.restart(2.0)
    recent.add(1.9, 2.1, pause=1.0)
    recent.add(2.0, 2.2, accepted=True)
    assert recent.calls(2.2, 0) == Calls(1)


@dataclass
class World:
    """Workers and a carrier by a clock of their own: every worker always has more to send than it can."""

    workers: int
    per_second: float
    burst: float
    noise: float = 0.0
    at_once: int = 50
    now: float = 0.0
    pace: Pace = UNLIMITED
    changed_at: float = -1e9
    throttled_until: float = 0.0
    next_slot: float = 0.0
    asked: list[float] = field(default_factory=list)
    accepted: list[float] = field(default_factory=list)
    _tokens: float = 0.0
    _filled_at: float = -1e9

    def run(self, seconds: float) -> None:
        dice, order = random.Random(1), count()
        recent = [RecentCalls() for _ in range(self.workers)]
        seen = [self.changed_at] * self.workers
        under_way: Counter[int] = Counter()
        events: list[tuple[float, int, str, int, float, bool]] = []

        def later(wait: float, kind: str, worker: int, claimed_at: float = 0.0, ok: bool = False) -> None:
            heapq.heappush(events, (self.now + wait, next(order), kind, worker, claimed_at, ok))

        for worker in range(self.workers):
            later(0, "poll", worker)
        while self.now < seconds:
            self.now, _, kind, worker, claimed_at, ok = heapq.heappop(events)
            if kind == "call":
                ok = self._takes() and dice.random() >= self.noise
                self.asked.append(self.now)
                self.accepted += [self.now] if ok else []
                later(0.05 * dice.uniform(0.7, 1.5), "answer", worker, claimed_at, ok)
                continue
            if kind == "answer":
                recent[worker].add(claimed_at, self.now, accepted=ok, pause=0.0 if ok else 1.0)
                under_way[worker] -= 1
            if kind == "poll":
                later(0.05, "poll", worker)
            if seen[worker] != self.changed_at or self.now < self.throttled_until:
                recent[worker].restart(self.now)
            pace = Pace(self.pace.rate, self.pace.ceiling, self.now - self.changed_at)
            calls = recent[worker].calls(self.now, under_way[worker])
            if decision := decide(calls, pace, is_used_up=self.next_slot - self.now > 0.1):
                self.pace, self.changed_at = decision.pace, self.now
                self.throttled_until = max(self.throttled_until, self.now + decision.pause)
                recent[worker].restart(self.now)
            seen[worker] = self.changed_at
            for wait in self._claimed(self.at_once - under_way[worker]):
                under_way[worker] += 1
                later(wait, "call", worker, self.now)

    def _takes(self) -> bool:
        earned = (self.now - self._filled_at) * self.per_second
        self._tokens, self._filled_at = min(self._tokens + earned, self.burst), self.now
        takes = self._tokens >= 1
        self._tokens -= takes
        return takes

    def _claimed(self, free: int) -> list[float]:
        rate = self.pace.rate
        if self.now < self.throttled_until or (rate and self.next_slot - self.now > 0.25):
            return []
        if rate is None:
            return [0.0] * free
        slots = max(self.next_slot, self.now)
        turns = [slots + number / rate for number in range(min(free, max(int(rate / 4), 1)))]
        self.next_slot = slots + len(turns) / rate
        return [turn - self.now for turn in turns]


def most_within(moments: list[float], seconds: float, *, after: float) -> float:
    """The highest number a second, over any so many seconds."""
    late = [moment for moment in moments if moment >= after]
    return max(sum(start <= each < start + seconds for each in late) for start in late) / seconds


@each_case("workers, burst, noise", [(1, 50, 0), (2, 50, 0), (4, 50, 0), (2, 10, 0), (1, 50, 0.01)])
def test_a_carrier_that_takes_fifty_a_second_gets_as_many(workers: int, burst: int, noise: float) -> None:
    world = World(workers, 50, burst, noise)
    world.run(40)
    late = [moment for moment in world.accepted if moment >= 10]
    assert len(late) / 30 >= 0.9 * 50
    assert most_within(world.asked, 3, after=15) <= 1.2 * 50


@each_case("at_once", [2, 50])
def test_random_429s_of_one_percent_cost_next_to_nothing(at_once: int) -> None:
    got = []
    for noise in (0.0, 0.01):
        world = World(1, 1e6, 1e6, noise, at_once)
        world.run(15)
        got.append(len(world.accepted))
    assert got[1] >= 0.9 * got[0]
