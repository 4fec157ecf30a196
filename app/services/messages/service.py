"""The use cases of messages: send, accept, read, cancel, retry, and resuming a conversation."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import ColumnElement, exists, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker

from app.addresses import sender_address
from app.batches import Priority
from app.config import Settings
from app.db.engine import is_unavailable
from app.db.models import Conversation, DeliveryAttempt, Message
from app.db.statements.paging import Page
from app.db.statements.reads import Reads
from app.domain import AttemptOutcome, Direction, EventType, MessageStatus, NewMessage, StoredMessage
from app.errors import (
    ConversationNotFound,
    DailyCapReached,
    IdempotencyConflict,
    InvalidRequest,
    MessageNotFound,
    NotCancelable,
    NotRetriable,
    Overloaded,
)
from app.providers.mail.fields import MailFields
from app.providers.mail.html_source import readable
from app.services.accept.aliases import Aliases
from app.services.accept.writer import MessageWriter
from app.services.delivery.results.outcomes import note
from app.services.event_log.entries import NewEvent, write_entries
from app.services.limits.daily_caps import Charge
from app.services.messages.conversation_state import (
    ConversationChange,
    ReplyPlace,
    change_state,
    mark_read,
    place_of_reply,
)
from app.services.messages.pauses import resume
from app.services.messages.reading import MessageFilter, load_message, load_timeline, read_message
from app.services.messages.retries import RETRIABLE, Retried, Retries, RetryFilter, values_of_retry
from app.services.messages.send_rules import SendRules
from app.services.messages.timeline import Step
from app.tracing import traceparent

_FIRST_LOOK, _LONGEST_PAUSE = 0.01, 0.25  # seconds
_UNDER_WAY = {MessageStatus.QUEUED, MessageStatus.SENDING}


class Progress(NamedTuple):
    """The status of a message at a moment, its reason, and the provider's id."""

    status: MessageStatus
    reason: str | None
    provider_message_id: str | None


class MessageService:
    """Accepts messages through the writer, and works on stored ones with sessions of its own."""

    def __init__(
        self,
        writer: MessageWriter,
        sessions: async_sessionmaker[AsyncSession],
        reads: Reads,
        settings: Settings,
        *,
        rules: SendRules,
        aliases: Aliases,
        on_due: Callable[[], None],
        on_logged: Callable[[int], None],
    ) -> None:
        self._writer = writer
        self._aliases = aliases
        self._sessions = sessions
        self._reads = reads
        self._rules = rules
        self._caps = rules.daily_caps
        self._settings = settings
        self._on_due = on_due
        self._on_logged = on_logged
        self._retries = Retries(sessions, reads, self._caps, settings, on_due=on_due)
        self._waiting = 0
        self._most_waiting = settings.max_requests_in_flight // 2

    async def send(
        self,
        message: NewMessage,
        *,
        actor: str | None,
        client: str | None,
        may_serve: bool,
        author: str | None = None,
    ) -> StoredMessage:
        """Store a message that the rules allow to be sent, for `actor` at the address `client`.

        `author` is the name of the actor, which the message shows. `may_serve` allows a service message that answers
        nobody. A message that its recipient refuses is stored, and ends as suppressed.

        A repeat of an earlier request gets the same answer and costs no units. That holds also when its times have
        passed or the daily cap is reached. A mail of HTML alone gets the text that it shows. In the quiet hours of
        its recipient a message is stored to leave at their end. A code is of high priority, unless another one is
        given.

        Raises:
            ChannelNotServed: No provider takes messages of this channel.
            InvalidRequest: The sender is not an address of the tenant, a time has passed, or the purpose is wrong. Or
                a file among the attachments is not there.
            DailyCapReached: The tenant's units of the day are used up.
            IdempotencyConflict: The key was used for another request.
            Overloaded: The queue in front of the database is full.
        """
        message = message if author is None else replace(message, author=author)
        ready = await self._checked(message, actor=actor, client=client, may_serve=may_serve)
        [charge] = await self._set_aside([ready])
        return await self._charged(ready, charge)

    async def send_all(
        self,
        messages: Sequence[NewMessage],
        *,
        actor: str | None,
        client: str | None,
        may_serve: bool,
        author: str | None = None,
    ) -> list[StoredMessage]:
        """Store the messages of one request, as `send` does; the answer is in their order.

        All of them are checked before the first is stored. The others name the first (`sent_with`). A request that is
        cut off is completed by its repeat, if its messages have idempotency keys.
        """
        named = messages if author is None else [replace(each, author=author) for each in messages]
        ready = [await self._checked(each, actor=actor, client=client, may_serve=may_serve) for each in named]
        charges = await self._set_aside(ready)
        try:
            first = await self._charged(ready[0], charges[0])
        except (IdempotencyConflict, InvalidRequest, Overloaded):
            for each in charges[1:]:
                self._caps.give_back(each)
            raise
        others = [replace(each, details=replace(each.details, sent_with=first.id)) for each in ready[1:]]
        stored = await asyncio.gather(*map(self._charged, others, charges[1:]))
        return [first, *stored]

    async def _checked(
        self, message: NewMessage, *, actor: str | None, client: str | None, may_serve: bool
    ) -> NewMessage:
        """The message as it is stored. Raises what the rules raise."""
        route = await self._rules.check(message, actor=actor, client=client)
        contact = await self._aliases.resolved(message.tenant_id, message.recipient)
        if contact is not message.recipient:
            message = replace(message, recipient=contact)
        if message.html and not message.body.strip():
            message = replace(message, body=await readable(message.html))
        if (errors := await self._rules.passed_times(message)) and not await self.is_repeat(message):
            raise InvalidRequest("A time in this request has passed.", errors=errors)
        message = await self._rules.held(message)
        errors = await self._rules.misused_purpose(message, may_serve=may_serve)
        if errors and not await self.is_repeat(message):
            raise InvalidRequest("This is not a service message.", errors=errors)
        errors = await self._rules.out_of_reach(message, route)
        if errors and not await self.is_repeat(message):
            raise InvalidRequest("This message does not reach the person now.", errors=errors)
        errors = await self._rules.missing_files(message)
        if errors and not await self.is_repeat(message):
            raise InvalidRequest("An attachment can't be sent.", errors=errors)
        if message.priority is None and message.purpose is not None and may_serve:
            message = replace(message, priority=Priority.HIGH)
        if (span := traceparent()) is not None:
            message = replace(message, details=replace(message.details, traceparent=span))
        return message

    async def _set_aside(self, messages: Sequence[NewMessage]) -> list[Charge | None]:
        """The charges for messages, all or none. Raises `DailyCapReached`; a repeat costs nothing if it has to."""
        charges: list[Charge | None] = []
        for each in messages:
            try:
                charge = await self._caps.set_aside(
                    each.tenant_id, each.channel, each.recipient, each.body, copies=len(each.copies)
                )
            except BaseException as error:
                if isinstance(error, DailyCapReached) and await self.is_repeat(each):
                    charge = None
                else:
                    for earlier in charges:
                        self._caps.give_back(earlier)
                    raise
            charges.append(charge)
        return charges

    async def _charged(self, message: NewMessage, charge: Charge | None) -> StoredMessage:
        """Store a message; its charge is given back if it is not stored, or was before."""
        try:
            stored = await self.accept(message)
        except (IdempotencyConflict, InvalidRequest, Overloaded):  # after other errors it may have been stored
            self._caps.give_back(charge)
            raise
        if stored.duplicate:
            self._caps.give_back(charge)
        return stored

    async def accept(self, message: NewMessage) -> StoredMessage:
        """Store a message durably; `MessageWriter.write` describes duplicates and errors.

        Raises `IdempotencyConflict` where the key was used for another request.
        """
        stored = await self._writer.write(message)
        if stored.conflict and message.direction is Direction.OUTBOUND:
            raise IdempotencyConflict("This Idempotency-Key was used for a request with another body.")
        return stored

    async def is_repeat(self, message: NewMessage) -> bool:
        """True where a message with this idempotency key, or this line of its batch, was accepted before."""
        own = select(Message.id).where(Message.tenant_id == message.tenant_id)
        if message.batch_id is not None:
            question = own.where(Message.batch_id == message.batch_id, Message.batch_line == message.batch_line)
        elif message.idempotency_key is not None:
            question = own.where(
                Message.channel == message.channel, Message.idempotency_key == message.idempotency_key
            )
        else:
            return False
        async with self._sessions() as session:
            return (await session.execute(question)).scalar() is not None

    def has_room_to_wait(self) -> bool:
        """True where one more request may wait for a provider; too many would keep new connections out."""
        return self._waiting < self._most_waiting

    async def progress(self, tenant_id: int, message_id: int, *, wait_seconds: float) -> Progress | None:
        """The progress of a message, polled for `wait_seconds` at most, until a provider has given its word.

        None where nothing could be learned: the message was erased meanwhile, or the database is unavailable. It was
        accepted all the same.
        """
        question = select(Message.status, Message.status_reason, Message.provider_message_id).where(
            *_is(tenant_id, message_id)
        )
        pause, found = _FIRST_LOOK, None
        self._waiting += 1
        try:
            async with asyncio.timeout(wait_seconds):
                while True:
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, _LONGEST_PAUSE)
                    async with self._sessions() as session:
                        row = (await session.execute(question)).one_or_none()
                    found = None if row is None else Progress(MessageStatus(row.status), *row[1:])
                    if found is None or found.status not in _UNDER_WAY or found.provider_message_id:
                        return found
        except Exception as error:
            if not is_unavailable(error):
                raise
            return found
        finally:
            self._waiting -= 1

    async def detail(self, tenant_id: int, message_id: int) -> str:
        """A message with its attempts, as JSON. Raises `MessageNotFound`."""
        return await read_message(self._reads, tenant_id, message_id)

    async def newest(
        self, tenant_id: int, wanted: MessageFilter, *, limit: int, cursor: str | None = None
    ) -> Page[str]:
        """Messages as JSON, the newest first."""
        return await wanted.page(self._reads, tenant_id, limit=limit, cursor=cursor)

    async def timeline(self, tenant_id: int, message_id: int) -> list[Step]:
        """Every step of a message in order, with its time and a sentence. Raises `MessageNotFound`."""
        async with self._sessions() as session:
            return await load_timeline(session, self._settings, tenant_id, message_id)

    async def cancel(self, tenant_id: int, message_id: int) -> Message:
        """Cancel a message that has not left. Raises `MessageNotFound` and `NotCancelable`."""
        may_have_left = exists().where(
            DeliveryAttempt.tenant_id == tenant_id,
            DeliveryAttempt.message_id == Message.id,
            DeliveryAttempt.outcome.in_([AttemptOutcome.UNKNOWN.value, AttemptOutcome.ACCEPTED.value]),
        )
        canceled = (
            update(Message)
            .where(*_is(tenant_id, message_id), ~may_have_left)
            .where(Message.status.in_([MessageStatus.SCHEDULED.value, MessageStatus.QUEUED.value]))
            .values(status=MessageStatus.CANCELED.value, due_at=null())
            .returning(Message.conversation_id)
        )
        async with self._sessions.begin() as session:
            conversation_id = (await session.execute(canceled)).scalar()
            if conversation_id is None:
                message = await load_message(session, tenant_id, message_id)
                reason = f"The message is {message.status}: only one that has not left can be called back."
                raise NotCancelable(reason)
            connection = await session.connection()
            await note(connection, tenant_id, MessageStatus.CANCELED, [message_id])
            entry = NewEvent(EventType.MESSAGE_CANCELED, message_id, conversation_id)
            await write_entries(connection, tenant_id, [entry])
            message = await load_message(session, tenant_id, message_id)
        self._on_logged(tenant_id)
        return message

    async def retry(self, tenant_id: int, message_id: int) -> Message:
        """Queue a message again that has failed or whose outcome is unknown, with a full count of attempts.

        The provider gets it under a new key, unless it may have been sent under the old one. It counts against the
        daily cap again. After an error nothing has changed.

        Raises:
            MessageNotFound: The tenant has no such message.
            NotRetriable: The message is neither failed nor unknown.
            DailyCapReached: The tenant's units of the day are used up.
        """
        async with self._sessions() as session:
            message = await load_message(session, tenant_id, message_id)
        if message.status not in RETRIABLE:
            raise _not_retriable(message)
        recipient = sender_address(message.to_address, region=self._settings.default_region)
        copies = len(MailFields.of(message.details).copies)
        charge = await self._caps.set_aside(tenant_id, message.channel, recipient, message.body, copies=copies)
        try:
            message = await self._queue_again(tenant_id, message_id)
        except (MessageNotFound, NotRetriable):  # after other errors it may have been queued
            self._caps.give_back(charge)
            raise
        self._on_due()
        return message

    async def change_conversation(
        self, tenant_id: int, conversation_id: int, change: ConversationChange, *, by: str | None
    ) -> None:
        """Change the state or the metadata of a conversation, by the person or program of this name.

        Raises `ConversationNotFound`, and `InvalidRequest` where the change makes no sense.
        """
        async with self._transaction() as connection:
            await change_state(connection, tenant_id, conversation_id, change, by=by)
        self._on_logged(tenant_id)

    async def read_conversation(
        self, tenant_id: int, conversation_id: int, *, up_to: int | None = None, by: str | None
    ) -> None:
        """Mark the messages of a conversation as read: all, or those up to the id `up_to`.

        Raises `ConversationNotFound`.
        """
        async with self._transaction() as connection:
            await mark_read(connection, tenant_id, conversation_id, up_to=up_to, by=by)
        self._on_logged(tenant_id)

    async def place_of_reply(
        self, tenant_id: int, conversation_id: int, channel: str | None, *, idempotency_key: str | None = None
    ) -> ReplyPlace:
        """The channel and the ends of a reply, taken from the last inbound message, or else from the last one.

        With a `channel`, only messages on it count. A repeat of a reply, known by its key, goes where that one went,
        also after a newer message from elsewhere. Raises `ConversationNotFound`, and `InvalidRequest` where there is
        no such message.
        """
        async with self._transaction() as connection:
            return await place_of_reply(connection, tenant_id, conversation_id, channel, idempotency_key)

    async def retry_all(self, tenant_id: int, wanted: RetryFilter, *, limit: int) -> Retried:
        """Retry up to `limit` messages that a filter finds, each as `retry` does."""
        return await self._retries.retry_all(tenant_id, wanted, limit=limit)

    async def resume_conversation(self, tenant_id: int, conversation_id: int) -> Conversation:
        """End the pause of a conversation; the messages that it held leave. Does nothing if there is none.

        Raises `ConversationNotFound`.
        """
        await resume(self._transaction, tenant_id, conversation_id)
        self._on_due()
        self._on_logged(tenant_id)
        async with self._sessions() as session:
            conversation = await session.get(Conversation, (tenant_id, conversation_id))
        if conversation is None:
            raise ConversationNotFound("There is no conversation with this id.")
        return conversation

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        async with self._sessions.begin() as session:
            yield await session.connection()

    async def _queue_again(self, tenant_id: int, message_id: int) -> Message:
        queued = (
            update(Message)
            .where(*_is(tenant_id, message_id), Message.status.in_(RETRIABLE))
            .values(values_of_retry(self._settings))
            .returning(Message.id)
        )
        async with self._sessions.begin() as session:
            if (await session.execute(queued, {"tenant": tenant_id})).scalar() is None:
                raise _not_retriable(await load_message(session, tenant_id, message_id))
            await note(await session.connection(), tenant_id, "retried", [message_id])
            return await load_message(session, tenant_id, message_id)


def _not_retriable(message: Message) -> NotRetriable:
    return NotRetriable(f"The message is {message.status}: only failed and unknown ones can be retried.")


def _is(tenant_id: int, message_id: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return Message.tenant_id == tenant_id, Message.id == message_id
