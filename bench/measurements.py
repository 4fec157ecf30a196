"""The results of one round of each measurement, and checks that they are consistent."""

from dataclasses import dataclass, field
from typing import NamedTuple

from bench.load import Seen


@dataclass(frozen=True)
class Measurement:
    """One round of accepting or reading, by the service or a target for comparison."""

    seen: Seen
    rows: int | None = None  #: messages in the database afterwards; None if the target stores none.
    delivered: int | None = None  #: messages that a provider had accepted at the last answer.
    cpu_microseconds: float | None = None  #: processor time of the web process for each request.

    def problems(self) -> list[str]:
        """The reasons to reject the figures: stored messages differ from answers, or no answer came."""
        found = []
        accepted = self.seen.answered - self.seen.repeats
        if self.rows is not None and self.rows != accepted:
            found.append(f"{accepted} messages were accepted and {self.rows} are stored")
        if self.seen.broken:
            found.append(f"{self.seen.broken} of the connections broke")
        others = dict(self.seen.others)
        if self.rows is None:
            others.pop("503", None)  # reads refused under load are not counted
        if others:
            found.append(f"some answers were not 2xx (status: how many): {others}")
        if not self.seen.per_second:
            found.append("no message was accepted in the measured time")
        return found


class Astray(NamedTuple):
    """The numbers of messages that were not delivered exactly once."""

    unsent: int  #: messages with another status than `sent`.
    not_once: int  #: messages with no attempt or several.

    def problems(self) -> list[str]:
        """The reasons to reject the figures: messages that were not sent, or sent twice."""
        found = []
        if self.unsent:
            found.append(f"{self.unsent} messages are not `sent`")
        if self.not_once:
            found.append(f"{self.not_once} messages don't have exactly one attempt")
        return found


@dataclass(frozen=True)
class Drain:
    """One round of filling the queue without a worker, and then draining it with one."""

    accepted: Measurement
    seconds: float  #: from the start of the first attempt to the end of the last, by the database's clock.
    cpu_microseconds: float  #: processor time of the worker for each message.
    astray: Astray

    @property
    def messages(self) -> int:
        """The number of drained messages."""
        return self.accepted.rows or 0

    @property
    def per_second(self) -> float:
        """Messages drained a second."""
        return self.messages / self.seconds if self.seconds else 0.0

    def problems(self) -> list[str]:
        """The reasons to reject the figures of either half."""
        return [*self.accepted.problems(), *self.astray.problems()]


@dataclass(frozen=True)
class Latency:
    """One round of single messages to an idle service: milliseconds from each `created_at`, by the database's clock.

    They are in the order of acceptance. The first message is the first of its process.
    """

    answered: int  #: answers with 2xx.
    rows: int  #: messages in the database afterwards.
    called_ms: list[float]  #: to the attempt's start, just before the provider is called.
    recorded_ms: list[float]  #: to the attempt's end, when its outcome is recorded.
    astray: Astray

    def problems(self) -> list[str]:
        """The reasons to reject the figures: stored messages differ from answers or from attempts."""
        found = []
        if self.rows != self.answered:
            found.append(f"{self.answered} messages were accepted and {self.rows} are stored")
        if self.rows != len(self.called_ms):
            found.append(f"{self.rows} messages are stored and {len(self.called_ms)} attempts have ended")
        return [*found, *self.astray.problems()]


@dataclass(frozen=True)
class Events:
    """One round of single messages while many idle readers are connected, and one that gets their events."""

    readers: int  #: that are idle.
    answered: int  #: answers with 2xx.
    after_ms: list[float]  #: from the start of the transaction that wrote each event to its arrival.
    bytes_each: float  #: memory of the web process for each idle reader.

    def problems(self) -> list[str]:
        """The reasons to reject the figures: other events than messages."""
        if len(self.after_ms) != self.answered:
            return [f"{self.answered} messages were accepted and {len(self.after_ms)} events came"]
        return []


@dataclass(frozen=True)
class Webhooks:
    """One round of single messages, each of them to all webhook endpoints, of which some are dead and some slow."""

    endpoints: int
    dead: int
    slow: int
    arrived_ms: list[float]  #: from an event's entry in the log to its arrival at an endpoint that is well.
    missing: int  #: deliveries to such endpoints that did not come.

    def problems(self) -> list[str]:
        """The reasons to reject the figures: events that did not arrive."""
        return [f"{self.missing} events did not arrive"] if self.missing else []


@dataclass
class Figures:
    """One round of a measurement that has single figures, by name."""

    values: dict[str, float] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)  #: the reasons to reject them.

    def problems(self) -> list[str]:
        return self.found


@dataclass(frozen=True)
class Rounds:
    """All rounds of all measurements. Those that were not asked for are empty."""

    targets: dict[str, list[Measurement]] = field(default_factory=dict)
    drain: list[Drain] = field(default_factory=list)
    latency: list[Latency] = field(default_factory=list)
    events: list[Events] = field(default_factory=list)
    webhooks: list[Webhooks] = field(default_factory=list)
    figures: dict[str, list[Figures]] = field(default_factory=dict)  #: by part.
