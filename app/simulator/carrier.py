"""The carrier behind the HTTP form: meets each request by the script, and writes it down before it answers."""

import hashlib
from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

from pydantic import BaseModel, Field

from app.providers.base import OutboundMessage
from app.providers.script import Reaction, Reply, Script
from app.providers.simulated import Outbox
from app.providers.simulation import Behaviour, SimulatorSettings
from app.simulator.ledger import Entry, Ledger

#: The reply, in the ledger, to a key that came with another body before.
KEY_REUSED = "key_reused"


class Submission(BaseModel):
    """The body of POST /messages. `reference` names the message on every request for it, and in its receipts."""

    channel: str
    type: str
    sender: str = Field(alias="from")
    to: str
    body: str
    subject: str | None = None
    attachments: list[str] = []
    reference: Annotated[str, Field(min_length=1)]

    def message(self) -> OutboundMessage:
        return OutboundMessage(
            message_id=0,  # the service's own, which a carrier never learns
            channel=self.channel,
            type=self.type,
            from_address=self.sender,
            to_address=self.to,
            body=self.body,
            idempotency_key=self.reference,
            subject=self.subject,
            attachments=self.attachments,
        )


class Carrier:
    """Meets requests by the script, keeps the ledger, and calls back."""

    def __init__(self, settings: SimulatorSettings, ledger: Ledger, outbox: Outbox | None) -> None:
        self.script = Script(settings)
        self.ledger = ledger
        self._outbox = outbox
        self._honours_keys = settings.honours_idempotency_key

    async def take(self, submission: Submission, key: str) -> tuple[Reaction, Entry]:
        """Decide, and write it down. What comes before the answer has come when this returns."""
        reference = submission.reference
        behaviour = self.script.behaviour(submission.to, reference)
        reaction = self.script.reaction(behaviour, self.ledger.requests(reference))
        entry = Entry(
            reply=reaction.reply.value,
            reference=reference,
            idempotency_key=key,
            body_sha256=hashlib.sha256(submission.body.encode()).hexdigest(),
            to=submission.to,
            received_at=datetime.now(UTC),
        )
        first = self.ledger.first(key) if self._honours_keys else None
        if first is not None and first.body_sha256 != entry.body_sha256:
            reaction = Reaction(False, Reply.REFUSED)
            entry.reply = KEY_REUSED
        if reaction.accepts:
            entry.accepted_at = entry.received_at
            entry.duplicate = first is not None
            entry.provider_message_id = first.provider_message_id if first else f"sim-{uuid4()}"
        self.ledger.write(entry)
        if reaction.accepts and not entry.duplicate:
            await self._schedule(behaviour, submission.message(), entry)
        return reaction, entry

    async def _schedule(self, behaviour: Behaviour, message: OutboundMessage, entry: Entry) -> None:
        if self._outbox is None:
            return
        assert entry.provider_message_id is not None
        for arrival in self.script.arrivals(behaviour, message, entry.provider_message_id, entry.received_at):
            if arrival.after is None:
                await self._outbox.hand_over(arrival.event)
            else:
                self._outbox.put(arrival.event, arrival.after)
