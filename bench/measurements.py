"""What one round of each measurement gave, and whether it adds up."""

from dataclasses import dataclass, field
from typing import NamedTuple

from bench.load import Seen


@dataclass(frozen=True)
class Measurement:
    """One round of accepting, by the service or a yardstick."""

    seen: Seen
    rows: int | None = None  #: messages in the database afterwards; None where nothing is stored
    delivered: int | None = None  #: messages that a provider had taken when the last answer came
    cpu_microseconds: float | None = None  #: processor time of the web process for each request

    def problems(self) -> list[str]:
        """What makes the figures worthless: stored is not what was promised, or nothing was promised."""
        found = []
        if self.rows is not None and self.rows != self.seen.answered:
            found.append(f"{self.seen.answered} messages were accepted and {self.rows} are stored")
        if self.seen.broken:
            found.append(f"{self.seen.broken} of the connections broke")
        others = dict(self.seen.others)
        if self.rows is None:
            others.pop("503", None)  # a read that is refused on a busy machine is not counted, and breaks no promise
        if others:
            found.append(f"some answers were not 2xx (status: how many): {others}")
        if not self.seen.per_second:
            found.append("no message was accepted in the measured time")
        return found


class Astray(NamedTuple):
    """How many messages were not delivered as each should have been."""

    unsent: int  #: whose status is not `sent`
    not_once: int  #: that have no attempt, or more than one

    def problems(self) -> list[str]:
        """What makes the figures worthless: a message that was not sent, or was handed over again."""
        found = []
        if self.unsent:
            found.append(f"{self.unsent} messages are not `sent`")
        if self.not_once:
            found.append(f"{self.not_once} messages don't have exactly one attempt")
        return found


@dataclass(frozen=True)
class Drain:
    """One round of filling the queue while no worker runs, and then draining it with one."""

    accepted: Measurement
    seconds: float  #: from the start of the first attempt to the end of the last, by the database's clock
    cpu_microseconds: float  #: processor time of the worker for each message
    astray: Astray

    @property
    def messages(self) -> int:
        """How many were drained."""
        return self.accepted.rows or 0

    @property
    def per_second(self) -> float:
        """Messages drained in each second."""
        return self.messages / self.seconds if self.seconds else 0.0

    def problems(self) -> list[str]:
        """What makes the figures worthless, in either half."""
        return [*self.accepted.problems(), *self.astray.problems()]


@dataclass(frozen=True)
class Latency:
    """One round of single messages to an idle service: milliseconds from `created_at` of each, by the same clock.

    In the order of acceptance; the first message is the first one ever that its process accepted.
    """

    answered: int  #: answers of 2xx
    rows: int  #: messages in the database afterwards
    called_ms: list[float]  #: to the attempt's start, just before the provider is called
    recorded_ms: list[float]  #: to the attempt's end, when its outcome is recorded
    astray: Astray

    def problems(self) -> list[str]:
        """What makes the figures worthless: stored is not what was promised, or not what was delivered."""
        found = []
        if self.rows != self.answered:
            found.append(f"{self.answered} messages were accepted and {self.rows} are stored")
        if self.rows != len(self.called_ms):
            found.append(f"{self.rows} messages are stored and {len(self.called_ms)} attempts have ended")
        return [*found, *self.astray.problems()]


@dataclass(frozen=True)
class Rounds:
    """Every round of everything; empty is what was not asked for."""

    targets: dict[str, list[Measurement]] = field(default_factory=dict)
    drain: list[Drain] = field(default_factory=list)
    latency: list[Latency] = field(default_factory=list)
