"""The carrier behind every wire format: it follows the script and records each request before the answer."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from app.providers.base import OutboundMessage
from app.providers.simulated.behaviours import SimulatorSettings
from app.providers.simulated.in_process import Outbox, Sink
from app.providers.simulated.script import THROTTLED, CarrierAnswer, RateLimit, Reaction, Script
from app.simulator.ledger import Entry, Ledger

#: In the ledger, the answer to an idempotency key that came before with another body.
KEY_REUSED = "key_reused"


@dataclass(frozen=True, slots=True)
class SendRequest:
    """A request to send a message. `message.idempotency_key` is the same on every request for one message.

    `id` becomes the message's id if it is accepted. `key` is the idempotency key, in formats that have one: a repeat
    is answered with the first id and sends nothing. `sink` gets receipts and inbound messages; without it there are
    none.
    """

    message: OutboundMessage
    id: str
    key: str | None = None
    sink: Sink | None = None


class Carrier:
    """Handles requests by the script, keeps the ledger, and calls back."""

    def __init__(self, settings: SimulatorSettings, ledger: Ledger, outbox: Outbox) -> None:
        self.script = Script(settings)
        self._rate_limit = RateLimit(settings.rate)
        self.ledger = ledger
        self._outbox = outbox
        self._honours_keys = settings.honours_idempotency_key

    async def handle(self, request: SendRequest, note: Callable[[SendRequest], None]) -> tuple[Reaction, Entry]:
        """Decide on a request and record it.

        Calls `note` with a message that is accepted, before any callback about it. Callbacks that precede the answer
        are made before this returns.
        """
        message, reference = request.message, request.message.idempotency_key
        behaviour = self.script.behaviour(message.to_address, reference)
        reaction = self.script.reaction(behaviour, self.ledger.requests(reference))
        if self._rate_limit.is_exceeded():
            reaction = THROTTLED
        entry = Entry(
            reply=reaction.answer.value,
            reference=reference,
            idempotency_key=request.key,
            body_sha256=hashlib.sha256(message.body.encode()).hexdigest(),
            to=message.to_address,
            received_at=datetime.now(UTC),
        )
        first = self.ledger.first(request.key) if self._honours_keys and request.key is not None else None
        if first is not None and first.body_sha256 != entry.body_sha256:
            reaction = Reaction(False, CarrierAnswer.REFUSED)
            entry.reply = KEY_REUSED
        if reaction.accepts:
            entry.accepted_at = entry.received_at
            entry.duplicate = first is not None
            entry.provider_message_id = first.provider_message_id if first else request.id
        self.ledger.write(entry)
        if reaction.accepts:
            note(request)
        if reaction.accepts and not entry.duplicate and request.sink is not None:
            arrivals = self.script.arrivals(behaviour, message, request.id, entry.received_at)
            await self._outbox.schedule(arrivals, request.sink)
        return reaction, entry
