"""The carrier behind every wire format: meets each request by the script, and writes it down before it answers."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from app.providers.base import OutboundMessage
from app.providers.simulated.behaviours import Behaviour, SimulatorSettings
from app.providers.simulated.in_process import Outbox, Sink
from app.providers.simulated.script import TOO_MANY, Allowance, Reaction, Reply, Script
from app.simulator.ledger import Entry, Ledger

#: The reply, in the ledger, to a key that came with another body before.
KEY_REUSED = "key_reused"


@dataclass(frozen=True, slots=True)
class Order:
    """A request to send a message. `message.idempotency_key` names it on every request for it.

    `id` is what the message is called if it is accepted. `key` is the idempotency key, in forms that have one: a
    repeated one gets the first id and sends nothing. `sink` gets what comes back; without it nobody wants to know.
    """

    message: OutboundMessage
    id: str
    key: str | None = None
    sink: Sink | None = None


class Carrier:
    """Meets requests by the script, keeps the ledger, and calls back."""

    def __init__(self, settings: SimulatorSettings, ledger: Ledger, outbox: Outbox) -> None:
        self.script = Script(settings)
        self._allowance = Allowance(settings.rate)
        self.ledger = ledger
        self._outbox = outbox
        self._honours_keys = settings.honours_idempotency_key

    async def take(self, order: Order, note: Callable[[Order], None]) -> tuple[Reaction, Entry]:
        """Decide, and write it down. What comes before the answer has come when this returns; `note` gets an order
        that is accepted before anything comes back."""
        message, reference = order.message, order.message.idempotency_key
        behaviour = self.script.behaviour(message.to_address, reference)
        reaction = self.script.reaction(behaviour, self.ledger.requests(reference))
        if self._allowance.is_used_up():
            reaction = TOO_MANY
        entry = Entry(
            reply=reaction.reply.value,
            reference=reference,
            idempotency_key=order.key,
            body_sha256=hashlib.sha256(message.body.encode()).hexdigest(),
            to=message.to_address,
            received_at=datetime.now(UTC),
        )
        first = self.ledger.first(order.key) if self._honours_keys and order.key is not None else None
        if first is not None and first.body_sha256 != entry.body_sha256:
            reaction = Reaction(False, Reply.REFUSED)
            entry.reply = KEY_REUSED
        if reaction.accepts:
            entry.accepted_at = entry.received_at
            entry.duplicate = first is not None
            entry.provider_message_id = first.provider_message_id if first else order.id
        self.ledger.write(entry)
        if reaction.accepts:
            note(order)
        if reaction.accepts and not entry.duplicate and order.sink is not None:
            await self._schedule(behaviour, order, entry.received_at, order.sink)
        return reaction, entry

    async def _schedule(self, behaviour: Behaviour, order: Order, accepted_at: datetime, sink: Sink) -> None:
        for arrival in self.script.arrivals(behaviour, order.message, order.id, accepted_at):
            if arrival.after is None:
                await self._outbox.hand_over(arrival.event, sink)
            else:
                self._outbox.put(arrival.event, arrival.after, sink)
