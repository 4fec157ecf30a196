"""The simulated carrier's script: the answer to each request, and the receipts and inbound messages that follow.

Decisions are pure functions of the recipient or, for other recipients, of the seed and the message's idempotency key.
The same seed therefore gives the same outcomes, in any order and in any process. Only `RateLimit` has state.
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


class CarrierAnswer(StrEnum):
    """The carrier's answer to one request to send."""

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
    """The carrier's reaction to one request: acceptance, answer, and seconds between the two."""

    accepts: bool
    answer: CarrierAnswer
    delay: float = 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A receipt or inbound message, and its delay: seconds after acceptance, or None for before the answer."""

    after: float | None
    item: CallbackItem


#: The reaction to a request beyond the carrier's rate, for any recipient.
THROTTLED = Reaction(False, CarrierAnswer.THROTTLED)
_ACCEPTED = Reaction(True, CarrierAnswer.ID)
#: Reactions to the first requests for a message; later ones are accepted.
_AT_FIRST = {
    Behaviour.THROTTLED: THROTTLED,
    Behaviour.FAILING: Reaction(False, CarrierAnswer.ERROR),
    Behaviour.REFUSING: Reaction(False, CarrierAnswer.REFUSED),
    Behaviour.UNAUTHORISED: Reaction(False, CarrierAnswer.UNAUTHORISED),
    Behaviour.RESET_BEFORE: Reaction(False, CarrierAnswer.CUT),
    Behaviour.RESET_AFTER: Reaction(True, CarrierAnswer.CUT),
    Behaviour.SILENT: Reaction(True, CarrierAnswer.SILENCE),
    Behaviour.MALFORMED: Reaction(True, CarrierAnswer.MALFORMED),
    Behaviour.HUGE: Reaction(True, CarrierAnswer.HUGE),
    Behaviour.REDIRECT: Reaction(False, CarrierAnswer.REDIRECT),
    Behaviour.FAILING_AFTER: Reaction(True, CarrierAnswer.ERROR),
    Behaviour.LOST: Reaction(True, CarrierAnswer.CUT),
}
_SENT, _DELIVERED, _UNDELIVERED = MessageStatus.SENT, MessageStatus.DELIVERED, MessageStatus.UNDELIVERED
_RECEIPTS: dict[Behaviour, Sequence[MessageStatus]] = {
    Behaviour.LOST: (),
    Behaviour.LOST_RECEIPT: (),
    Behaviour.UNDELIVERED: (_SENT, _UNDELIVERED),
    Behaviour.CORRECTED: (_SENT, _UNDELIVERED, _DELIVERED),
    Behaviour.BOUNCED: (_SENT, _DELIVERED, _UNDELIVERED),
    Behaviour.SHUFFLED_RECEIPTS: (MessageStatus.QUEUED, _SENT, _DELIVERED),
}
#: The reason of an `undelivered`, by the channel.
_WHY = {"sms": "The handset can't be reached.", "email": "550 5.1.1 There is no such mailbox."}
#: Bodies of a 200 without an id. Vendors' gateways have sent each of them.
_MALFORMED = (b"", b"<html><body>OK</body></html>", b'{"id": "sim-', b'{"id": 17}', b'{"error": "try later"}', b"[]")


class RateLimit:
    """The carrier's rate as a token bucket of one second's requests. None is no limit."""

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self._left, self._counted_at = max(per_second or 0, 1.0), monotonic()

    def is_exceeded(self) -> bool:
        """Return True if one more request is too many; otherwise count it."""
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
    """The carrier's decisions. It has no state: its caller counts requests and remembers accepted messages."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self._settings = settings
        self._in_production = settings.in_production
        self._behaviours, self._weights = list(settings.mix), list(settings.mix.values())

    def behaviour(self, to_address: str, key: str) -> Behaviour:
        """The behaviour for the message with this idempotency key, the same on every request for it."""
        if self._in_production:
            return Behaviour.OK
        if magic := magic_behaviour(to_address):
            return magic
        if len(self._behaviours) == 1:
            return self._behaviours[0]
        return self._random("mix", key).choices(self._behaviours, self._weights)[0]

    def reaction(self, behaviour: Behaviour, earlier: int) -> Reaction:
        """The reaction to a request, after `earlier` requests for the same message."""
        settings = self._settings
        if behaviour in {Behaviour.REFUSING, Behaviour.LOST}:
            return _AT_FIRST[behaviour]
        fails = behaviour in {Behaviour.THROTTLED, Behaviour.FAILING}
        if earlier >= (settings.failures_before_ok if fails else settings.breaks_before_ok):
            return _ACCEPTED
        if behaviour is Behaviour.SLOW:
            return Reaction(True, CarrierAnswer.ID, settings.slow_seconds)
        return _AT_FIRST.get(behaviour, _ACCEPTED)

    def arrivals(
        self, behaviour: Behaviour, message: OutboundMessage, provider_message_id: str, accepted_at: datetime
    ) -> list[Arrival]:
        """The receipts and inbound messages after acceptance. `accepted_at` is only written into them."""
        settings, texts = self._settings, self._inbound_texts(behaviour)
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
            arrivals = self._receipts(behaviour, receipts, times, message.idempotency_key)
        inbound = [
            Arrival(times[-1], _inbound(message, f"{provider_message_id}-in-{number}", text, accepted_at, times[-1]))
            for number, text in enumerate(texts, start=1)
        ]
        return arrivals + inbound

    def malformed(self, key: str) -> bytes:
        """The body of a 200 without an id."""
        return self._random("malformed", key).choice(_MALFORMED)

    def _receipts(self, behaviour: Behaviour, receipts: list[Receipt], times: list[float], key: str) -> list[Arrival]:
        if behaviour is Behaviour.RECEIPT_FIRST:
            return [Arrival(None, receipt) for receipt in receipts]
        if behaviour is Behaviour.LATE_RECEIPT:
            times = [time + self._settings.late_receipt_seconds for time in times]
        if behaviour is Behaviour.SHUFFLED_RECEIPTS:
            in_order, random = list(receipts), self._random("order", key)
            while receipts == in_order:
                random.shuffle(receipts)
        copies = 3 if behaviour is Behaviour.DUPLICATE_RECEIPTS else 1
        return [Arrival(time, receipt) for receipt, time in zip(receipts, times, strict=False) for _ in range(copies)]

    def _inbound_texts(self, behaviour: Behaviour) -> list[str]:
        if behaviour is Behaviour.STOP_REPLY:
            return ["STOP"]
        if behaviour is Behaviour.INBOUND_BURST:
            size = self._settings.inbound_burst_size
            return [f"Answer {number} of {size}" for number in range(1, size + 1)]
        return []

    def _random(self, purpose: str, key: str) -> Random:
        return Random(f"{self._settings.seed}/{purpose}/{key}")  # noqa: S311 - repeatable, not secret


def _receipt(message: OutboundMessage, id: str, status: MessageStatus, occurred_at: datetime) -> Receipt:
    return Receipt(
        event_id=f"{id}:{status}",
        status=status,
        provider_message_id=id,
        idempotency_key=message.idempotency_key,
        detail=_WHY.get(message.channel, "It can't be reached.") if status is _UNDELIVERED else None,
        occurred_at=occurred_at,
        raw={"status": status.value},
    )


def _inbound(message: OutboundMessage, id: str, text: str, accepted_at: datetime, after: float) -> InboundMessage:
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
