"""The simulated carrier's script: what it does with each message, in this process or as one of its own.

Pure and repeatable, but for its rate: the recipient decides, and for everyone else the seed together with the
message's idempotency key, so that the same seed tells the same story whatever the order and whichever the process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from random import Random
from time import monotonic

from app.domain import MessageStatus
from app.providers.base import CallbackItem, InboundMessage, OutboundMessage, Receipt
from app.providers.simulated.behaviours import Behaviour, SimulatorSettings, magic_behaviour


class Reply(StrEnum):
    """How one request is answered."""

    ID = "id"
    THROTTLED = "throttled"
    ERROR = "error"
    REFUSED = "refused"
    UNAUTHORISED = "unauthorised"
    CUT = "cut"
    SILENCE = "silence"
    MALFORMED = "malformed"
    HUGE = "huge"
    REDIRECT = "redirect"


@dataclass(frozen=True, slots=True)
class Reaction:
    """What the carrier does with one request: whether it takes the message, and how and after how long it answers."""

    accepts: bool
    reply: Reply
    delay: float = 0  #: seconds between taking it and answering


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event and when it reaches us: seconds after the message was accepted, None for before the answer."""

    after: float | None
    event: CallbackItem


_ACCEPTED = Reaction(True, Reply.ID)
_AT_FIRST = {
    Behaviour.THROTTLED: Reaction(False, Reply.THROTTLED),
    Behaviour.FAILING: Reaction(False, Reply.ERROR),
    Behaviour.REFUSING: Reaction(False, Reply.REFUSED),
    Behaviour.UNAUTHORISED: Reaction(False, Reply.UNAUTHORISED),
    Behaviour.RESET_BEFORE: Reaction(False, Reply.CUT),
    Behaviour.RESET_AFTER: Reaction(True, Reply.CUT),
    Behaviour.SILENT: Reaction(True, Reply.SILENCE),
    Behaviour.MALFORMED: Reaction(True, Reply.MALFORMED),
    Behaviour.HUGE: Reaction(True, Reply.HUGE),
    Behaviour.REDIRECT: Reaction(False, Reply.REDIRECT),
}
_SENT, _DELIVERED, _UNDELIVERED = MessageStatus.SENT, MessageStatus.DELIVERED, MessageStatus.UNDELIVERED
_RECEIPTS: dict[Behaviour, Sequence[MessageStatus]] = {
    Behaviour.LOST_RECEIPT: (),
    Behaviour.UNDELIVERED: (_SENT, _UNDELIVERED),
    Behaviour.CORRECTED: (_SENT, _UNDELIVERED, _DELIVERED),
    Behaviour.SHUFFLED_RECEIPTS: (MessageStatus.QUEUED, _SENT, _DELIVERED),
}
#: Bodies of a 200 that say nothing: each is one that some vendor's gateway has sent.
_MALFORMED = (b"", b"<html><body>OK</body></html>", b'{"id": "sim-', b'{"id": 17}', b'{"error": "try later"}', b"[]")


#: What is beyond the carrier's rate is turned away before anybody looks at whom it is for.
TOO_MANY = Reaction(False, Reply.THROTTLED)


class Allowance:
    """The carrier's rate: what it takes in a second, saved up for one second at most; None is no limit."""

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self._left, self._counted_at = max(per_second or 0, 1.0), monotonic()

    def is_used_up(self) -> bool:
        """Whether one more request is too many; if not, it has been counted."""
        if self._per_second is None:
            return False
        now = monotonic()
        earned = (now - self._counted_at) * self._per_second
        self._left, self._counted_at = min(self._left + earned, max(self._per_second, 1.0)), now
        if self._left < 1:
            return True
        self._left -= 1
        return False


class Script:
    """The carrier's mind. It keeps nothing: whoever asks counts the requests and remembers what was accepted."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self._settings = settings
        self._in_production = settings.in_production
        self._behaviours, self._weights = list(settings.mix), list(settings.mix.values())

    def behaviour(self, to_address: str, key: str) -> Behaviour:
        """What becomes of the message with this idempotency key, on its first request and on every other."""
        if self._in_production:
            return Behaviour.OK
        if magic := magic_behaviour(to_address):
            return magic
        if len(self._behaviours) == 1:
            return self._behaviours[0]
        return self._drawn("mix", key).choices(self._behaviours, self._weights)[0]

    def reaction(self, behaviour: Behaviour, earlier: int) -> Reaction:
        """How a request is met, of whose message `earlier` ones have been seen."""
        settings = self._settings
        if behaviour is Behaviour.REFUSING:
            return _AT_FIRST[behaviour]
        fails = behaviour in {Behaviour.THROTTLED, Behaviour.FAILING}
        if earlier >= (settings.failures_before_ok if fails else settings.breaks_before_ok):
            return _ACCEPTED
        if behaviour is Behaviour.SLOW:
            return Reaction(True, Reply.ID, settings.slow_seconds)
        return _AT_FIRST.get(behaviour, _ACCEPTED)

    def arrivals(
        self, behaviour: Behaviour, message: OutboundMessage, provider_message_id: str, accepted_at: datetime
    ) -> list[Arrival]:
        """What comes back after the message was accepted. `accepted_at` is only written into the events."""
        settings, texts = self._settings, self._answers(behaviour)
        if self._in_production or not (settings.receipts or texts):
            return []
        slowness = settings.slow_seconds if behaviour is Behaviour.SLOW else 0
        statuses = _RECEIPTS.get(behaviour, (_SENT, _DELIVERED))
        step = 0 if behaviour is Behaviour.RECEIPT_FIRST else settings.receipt_delay_seconds
        times = [slowness + step * (place + 1) for place in range(len(statuses) + 1)]
        arrivals: list[Arrival] = []
        if settings.receipts:
            receipts = [
                _receipt(message, provider_message_id, status, accepted_at + timedelta(seconds=time))
                for status, time in zip(statuses, times, strict=False)
            ]
            arrivals = self._delivered(behaviour, receipts, times, message.idempotency_key)
        answers = [
            Arrival(times[-1], _answer(message, f"{provider_message_id}-in-{number}", text, accepted_at, times[-1]))
            for number, text in enumerate(texts, start=1)
        ]
        return arrivals + answers

    def malformed(self, key: str) -> bytes:
        """The body of an answer that is none."""
        return self._drawn("malformed", key).choice(_MALFORMED)

    def _delivered(
        self, behaviour: Behaviour, receipts: list[Receipt], times: list[float], key: str
    ) -> list[Arrival]:
        if behaviour is Behaviour.RECEIPT_FIRST:
            return [Arrival(None, receipt) for receipt in receipts]
        if behaviour is Behaviour.LATE_RECEIPT:
            times = [time + self._settings.late_receipt_seconds for time in times]
        if behaviour is Behaviour.SHUFFLED_RECEIPTS:
            in_order, chance = list(receipts), self._drawn("order", key)
            while receipts == in_order:
                chance.shuffle(receipts)
        copies = 3 if behaviour is Behaviour.DUPLICATE_RECEIPTS else 1
        return [Arrival(time, receipt) for receipt, time in zip(receipts, times, strict=False) for _ in range(copies)]

    def _answers(self, behaviour: Behaviour) -> list[str]:
        if behaviour is Behaviour.STOP_REPLY:
            return ["STOP"]
        if behaviour is Behaviour.INBOUND_BURST:
            size = self._settings.inbound_burst_size
            return [f"Answer {number} of {size}" for number in range(1, size + 1)]
        return []

    def _drawn(self, purpose: str, key: str) -> Random:
        return Random(f"{self._settings.seed}/{purpose}/{key}")  # noqa: S311 - a story, not a secret


def _receipt(message: OutboundMessage, id: str, status: MessageStatus, occurred_at: datetime) -> Receipt:
    return Receipt(
        event_id=f"{id}:{status}",
        status=status,
        provider_message_id=id,
        idempotency_key=message.idempotency_key,
        detail="The handset can't be reached." if status is _UNDELIVERED else None,
        occurred_at=occurred_at,
        raw={"status": status.value},
    )


def _answer(message: OutboundMessage, id: str, text: str, accepted_at: datetime, after: float) -> InboundMessage:
    return InboundMessage(
        provider_message_id=id,
        channel=message.channel,
        type="sms" if message.type == "mms" else message.type,
        from_address=message.to_address,
        to_address=message.from_address,
        body=text,
        subject=f"Re: {message.subject}" if message.subject else None,
        sent_at=accepted_at + timedelta(seconds=after),
    )
