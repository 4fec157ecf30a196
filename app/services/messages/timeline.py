"""The timeline of a message: its steps, each with a time and a sentence for a person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.db.models import ConsentEntry, DeliveryAttempt, File, Message, MessageEvent, StoredReceipt
from app.domain import STATUS_RANK, AttemptOutcome, Channel, Direction, MessageStatus, rank_of
from app.files import FileStatus
from app.providers.base import REPORT
from app.providers.mail.fields import MailFields
from app.services.consent.copies import COPY_LEFT_OUT
from app.services.consent.ledger import sentence_of
from app.services.consent.quiet_hours import IN_QUIET_HOURS, sentence_of_hold


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened; the last one may be ahead. `seconds` is the duration of an attempt."""

    at: datetime
    kind: str
    sentence: str
    provider_type: str | None = None
    attempt: int | None = None
    seconds: float | None = None


_DEEDS = {
    "canceled": "It was called back before it left.",
    "expired": "Its time ran out before it left.",
    "retried": "Somebody had it tried again.",
    "suppressed": "It was not sent: its recipient refuses it.",
    "recovered": "Its call had not got through; it was fetched from the provider.",
    COPY_LEFT_OUT: "A copy was left out: the mail server refuses its recipient.",
}
_QUEUED = STATUS_RANK[MessageStatus.QUEUED]
_SENT = STATUS_RANK[MessageStatus.SENT]
_DELIVERED = STATUS_RANK[MessageStatus.DELIVERED]
_OUTCOME_RANKS: dict[str | None, int] = {
    AttemptOutcome.ACCEPTED: STATUS_RANK[MessageStatus.SENT],
    AttemptOutcome.PERMANENT: STATUS_RANK[MessageStatus.FAILED],
}
_DEED_RANKS = {
    "canceled": STATUS_RANK[MessageStatus.CANCELED],
    "expired": STATUS_RANK[MessageStatus.EXPIRED],
    "suppressed": STATUS_RANK[MessageStatus.SUPPRESSED],
    "retried": _QUEUED,
}
_WORDS = {
    MessageStatus.SENT: "took it",
    MessageStatus.DELIVERED: "says it was delivered",
    MessageStatus.READ: "says it was read",
    MessageStatus.UNDELIVERED: "says it could not be delivered",
    MessageStatus.FAILED: "says it failed",
}


def timeline_of(
    message: Message,
    events: Sequence[StoredReceipt],
    deeds: Sequence[MessageEvent],
    refusals: Mapping[int, ConsentEntry],
    waits_for: Sequence[str],
    files: Sequence[File] = (),
) -> list[Step]:
    """The steps in the order in which they happened here; the next attempt, if there is one, comes last.

    `refusals` are the consent entries of the deeds, by id. `waits_for` are the reasons why the next attempt waits, as
    parts of its sentence. `files` are those that its vendor keeps.
    """
    steps, way = _beginning(message), None
    for attempt in message.attempts:
        if way != (way := (attempt.provider_type, attempt.routed_because)):
            steps.append(_routing(attempt))
        if _was_held(attempt):
            steps.append(_held(attempt))
        else:
            steps += _stopped(attempt) if _was_stopped(attempt, deeds, refusals) else _attempt(attempt)
    steps += [Step(deed.created_at, deed.kind, _deed(deed, refusals)) for deed in deeds]
    steps += _receipts(message, events, deeds)
    steps += [step for file in files if (step := _file(file))]
    steps.sort(key=lambda step: step.at)
    return steps + _next(message, waits_for, after=steps[-1].at)


def _beginning(message: Message) -> list[Step]:
    if message.direction == Direction.INBOUND:
        provider = message.provider_type
        return [Step(message.created_at, "received", f"It came in from {provider}.", provider)]
    if message.attempt_count == 0 and message.provider_message_id is not None:
        provider = message.provider_type
        sentence = f"It was sent elsewhere, and {provider} reported it."
        return [Step(message.created_at, "reported", sentence, provider)]
    place = f", as line {message.batch_line} of batch {message.batch_id}" if message.batch_id is not None else ""
    accepted = Step(message.created_at, "accepted", f"It was accepted and stored{place}.")
    quiet_until = (message.details or {}).get("quiet_until")
    if quiet_until is None:
        return [accepted]
    sentence = sentence_of_hold(datetime.fromisoformat(quiet_until))
    return [accepted, Step(message.created_at, "held", sentence)]


def _routing(attempt: DeliveryAttempt) -> Step:
    provider = attempt.provider_type
    why = f"because {attempt.routed_because}" if attempt.routed_because else "the first of its route"
    return Step(attempt.started_at, "routed", f"It goes to {provider}, {why}.", provider, attempt.number)


def _file(file: File) -> Step | None:
    """The end of the wait for a file, or of its last try."""
    if file.settled_at is None or file.source is None:
        return None
    provider = file.provider_type
    if file.status == FileStatus.STORED:
        sentence = f"The file {file.name} was fetched from {provider}."
    else:
        sentence = f"The file {file.name} can't be had from {provider}: {(file.reason or '').rstrip('.')}."
    return Step(file.settled_at, "file", sentence, provider)


def _deed(deed: MessageEvent, refusals: Mapping[int, ConsentEntry]) -> str:
    refusal = refusals.get(deed.consent_entry_id or 0)
    if refusal is None:
        return _DEEDS.get(deed.kind, deed.kind)
    reason = sentence_of(refusal)
    if deed.kind == COPY_LEFT_OUT:
        return f"A copy was left out: {reason[0].lower()}{reason[1:]}"
    return f"It was not sent: {reason[0].lower()}{reason[1:]}"


def _was_stopped(
    attempt: DeliveryAttempt, deeds: Sequence[MessageEvent], refusals: Mapping[int, ConsentEntry]
) -> bool:
    """True for an attempt that a refusal ended before its provider was called.

    A refusal that the provider itself told is recorded in the same transaction as the end of the attempt.
    """
    if attempt.outcome != AttemptOutcome.PERMANENT or attempt.finished_at is None:
        return False
    ended = [
        each
        for each in deeds
        if each.kind == MessageStatus.SUPPRESSED and attempt.started_at <= each.created_at <= attempt.finished_at
    ]
    found = [(each, refusals.get(each.consent_entry_id or 0)) for each in ended]
    return any(refusal is not None and refusal.created_at < deed.created_at for deed, refusal in found)


def _stopped(attempt: DeliveryAttempt) -> list[Step]:
    provider = attempt.provider_type
    sentence = f"Attempt {attempt.number}: it waited for its turn with {provider}."
    return [Step(attempt.started_at, "attempt", sentence, provider, attempt.number)]


def _was_held(attempt: DeliveryAttempt) -> bool:
    """True for an attempt that quiet hours ended before its provider was called."""
    is_over = attempt.outcome == AttemptOutcome.TEMPORARY and attempt.finished_at is not None
    return is_over and (attempt.detail or "").startswith(IN_QUIET_HOURS)


def _held(attempt: DeliveryAttempt) -> Step:
    return Step(attempt.finished_at or attempt.started_at, "held", attempt.detail or "", None, attempt.number)


def _attempt(attempt: DeliveryAttempt) -> list[Step]:
    provider = attempt.provider_type
    sentence = f"Attempt {attempt.number}: handed to {provider}."
    start = Step(attempt.started_at, "attempt", sentence, provider, attempt.number)
    if attempt.outcome is None or attempt.finished_at is None:
        return [start]
    seconds = (attempt.finished_at - attempt.started_at).total_seconds()
    said = f": {attempt.detail.rstrip('.')}" if attempt.detail else ""
    named = f" as {attempt.provider_message_id}" if attempt.provider_message_id else ""
    learned_later = f" It did,{named}." if named else ""
    sentence = {
        AttemptOutcome.ACCEPTED: f"{provider} accepted it{named}{said}.",
        AttemptOutcome.TEMPORARY: f"{provider} did not take it this time{said}.",
        AttemptOutcome.PERMANENT: f"{provider} refused it for good{said}.",
        AttemptOutcome.UNKNOWN: f"Whether {provider} got it can't be told{said}.{learned_later}",
    }[AttemptOutcome(attempt.outcome)]
    return [start, Step(attempt.finished_at, "outcome", sentence, provider, attempt.number, round(seconds, 3))]


def _receipts(message: Message, events: Sequence[StoredReceipt], deeds: Sequence[MessageEvent]) -> list[Step]:
    """The receipts, each with whether it changed the message: only one that raised its rank at that time did."""
    attempts = message.attempts
    copies = {each.lower() for each in MailFields.of(message.details).copies}
    others = [(each.finished_at, _OUTCOME_RANKS[each.outcome]) for each in attempts if each.outcome in _OUTCOME_RANKS]
    others += [(each.created_at, _DEED_RANKS[each.kind]) for each in deeds if each.kind in _DEED_RANKS]
    turns = sorted((moment, rank) for moment, rank in others if moment is not None)
    steps, rank = [], 0
    for event in sorted(events, key=lambda event: event.received_at):
        while turns and turns[0][0] <= event.received_at:
            _, turn = turns.pop(0)
            rank = turn if turn == _QUEUED else max(rank, turn)
        its_rank = _rank_of(event, message.channel)
        is_copy = event.recipient is not None and event.recipient in copies
        counts = rank < its_rank >= _SENT and not is_copy and not _is_of_an_earlier_try(event, attempts, deeds)
        bounced_late = counts and message.channel == Channel.EMAIL and rank == _DELIVERED
        sentence = _sentence(event, counts=counts, bounced_late=bounced_late, is_copy=is_copy)
        steps.append(Step(event.received_at, "receipt", sentence, event.provider_type))
        rank = its_rank if counts else rank
    return steps


def _rank_of(event: StoredReceipt, channel: str) -> int:
    return rank_of(MessageStatus(event.status), channel, event.detail) if event.status else 0


def _is_of_an_earlier_try(
    event: StoredReceipt, attempts: Sequence[DeliveryAttempt], deeds: Sequence[MessageEvent]
) -> bool:
    """True for a failure of an attempt that was followed by another, or by a retry."""
    if event.status not in {MessageStatus.UNDELIVERED, MessageStatus.FAILED} or event.provider_message_id is None:
        return False
    named = (event.provider_type, event.provider_message_id)
    told_of = [each for each in attempts if (each.provider_type, each.provider_message_id) == named]
    if not told_of:
        return False
    later = [each.started_at for each in attempts if each.number > told_of[-1].number]
    retries = [each.created_at for each in deeds if each.kind == "retried"]
    later += [moment for moment in retries if moment > told_of[-1].started_at]
    return any(moment <= event.received_at for moment in later)


def _sentence(event: StoredReceipt, *, counts: bool, bounced_late: bool, is_copy: bool) -> str:
    source = "A report by mail" if event.event_id.startswith(REPORT) else event.provider_type
    source = f"{source}, of the copy to {event.recipient}," if is_copy else source
    said = f": {event.detail.rstrip('.')}" if event.detail else ""
    if event.status is None:
        told = (
            f"says{said}. That changed nothing"
            if said
            else "sent a word that has no meaning here; it is kept as it came"
        )
        return f"{source} {told}."
    status = MessageStatus(event.status)
    words = _WORDS.get(status, f"says it is {status}")
    if bounced_late and status is MessageStatus.UNDELIVERED:
        words = "says it bounced after it was delivered"
    return f"{source} {words}{said}." + ("" if counts else " That changed nothing.")


def _next(message: Message, waits_for: Sequence[str], *, after: datetime) -> list[Step]:
    if message.due_at is None:
        told = "It is not tried again by itself: it waits for a receipt that tells, or for somebody to retry it."
        return [Step(after, "next", told)] if message.status == MessageStatus.UNKNOWN else []
    due = max(message.due_at, after)  # what is overdue comes now, not before what has happened
    if message.status == MessageStatus.SENDING:
        return [Step(due, "lease", "A worker has it in hand; if that one is not heard of, another takes over then.")]
    if message.status == MessageStatus.SCHEDULED and not waits_for:
        return [Step(due, "next", "It is scheduled to leave then.")]
    unless = ", unless a receipt tells before what became of it" if message.status == MessageStatus.UNKNOWN else ""
    if waits_for:
        return [Step(due, "next", f"It is tried when it can be{unless}: {', and '.join(waits_for)}.")]
    return [Step(due, "next", f"It is tried then, or as soon as its provider and its turn allow{unless}.")]
