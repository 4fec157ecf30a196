"""The lines of a batch: each is stored as a message by the rules of a single send, many at a time.

Lines are read no faster than they are stored. The message of a line is found by its number. So a batch can be sent
again: what was stored is not stored a second time.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import structlog

from app.batches import Priority
from app.db.engine import is_unavailable
from app.db.models import Batch
from app.domain import NewMessage
from app.errors import FieldError, IdempotencyConflict, InvalidRequest, Overloaded, ServiceError
from app.services.messages.service import MessageService

log = structlog.get_logger(__name__)

MOST_LINES = 100_000
#: Lines of a batch that are stored at the same time, and those after which others get the event loop.
_AT_ONCE, _A_TURN = 200, 20
#: Seconds for which a line is tried while the database is away or busy, and between two tries.
_PATIENCE_SECONDS, _PAUSE_SECONDS = 10.0, 0.2

#: A line, and its number; None for one that is too long.
Line = tuple[int, bytes | None]
Lines = AsyncIterator[Line]

_TOO_LONG = FieldError("body", "this line is too long for a message")
_CHANGED = FieldError("body", "this line was accepted before with another content")
_BEYOND_THE_END = FieldError("body", "the batch was complete without this line; send it in another batch")
_CANCELED = FieldError("body", "the batch is canceled")
_OUR_FAULT = FieldError("body", "something went wrong on our side, which has been logged")
_TOO_MANY = f"A batch has at most {MOST_LINES} lines. Send the rest in another batch."
_UNAVAILABLE = "The database could not take all lines in time. Send the same lines with the same key again."
_STOPPED = "The service is being stopped. Send the same lines with the same key again."


class Sender(NamedTuple):
    """The one who asks, as `MessageService.send` takes it."""

    actor: str | None
    client: str | None
    may_serve: bool
    author: str | None = None


class Accepted(NamedTuple):
    """A line that is stored as a message, now or before."""

    line: int
    message_id: int
    conversation_id: int


class Refused(NamedTuple):
    """A line that is not stored, because something is wrong with it."""

    line: int
    errors: list[FieldError]


class Unavailable(NamedTuple):
    """A line that may be stored or not: the database did not answer in time."""

    line: int


LineResult = Accepted | Refused | Unavailable
#: The lines that are being stored, in order; None at the end.
_Begun = asyncio.Queue[asyncio.Task[LineResult] | None]


@dataclass(slots=True)
class Summary:
    """The end of a request with lines. It is complete unless `interrupted` says why it is not.

    `refused_within` counts the refused lines without those after the end of a batch that was complete before.
    """

    accepted: int = 0
    refused: int = 0
    refused_within: int = 0
    last_line: int = 0
    interrupted: str | None = None


@dataclass(slots=True, eq=False)
class Receiver:
    """Stores the lines of one request for a batch.

    `read` makes a message of a line, and raises `ServiceError`. `is_canceled` tells if the
    batch is canceled by now.
    """

    batch: Batch
    messages: MessageService
    sender: Sender
    read: Callable[[bytes], NewMessage]
    is_canceled: Callable[[], Awaitable[bool]]
    summary: Summary = field(default_factory=Summary)
    _last: dict[tuple[str, str, str], asyncio.Task[LineResult]] = field(default_factory=dict)
    _reading: asyncio.Task[None] | None = None

    async def results(self, lines: Lines) -> AsyncIterator[LineResult]:
        """The result of each line, in order, as soon as it is stored. Afterwards `summary` holds.

        Raises what reading the lines raises.
        """
        begun: _Begun = asyncio.Queue()
        free = asyncio.Semaphore(_AT_ONCE)
        reading = self._reading = asyncio.create_task(self._begin(lines, begun, free), name="batch-lines")
        reading.add_done_callback(lambda _: begun.put_nowait(None))
        try:
            while (task := await begun.get()) is not None:
                result = await task
                free.release()
                self._count(result)
                yield result
            if not reading.cancelled():  # by `stop`
                reading.result()
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading

    def stop(self, reason: str = _STOPPED) -> None:
        """Read no further lines; those that were read are stored."""
        self.summary.interrupted = self.summary.interrupted or reason
        if self._reading is not None:
            self._reading.cancel()

    async def _begin(self, lines: Lines, begun: _Begun, free: asyncio.Semaphore) -> None:
        count = 0
        async for number, content in lines:
            if number > MOST_LINES:
                self.stop(_TOO_MANY)
            if self.summary.interrupted:
                return
            await free.acquire()
            begun.put_nowait(self._started(number, content))
            count += 1
            if count % _A_TURN == 0:
                await asyncio.sleep(0)

    def _started(self, number: int, content: bytes | None) -> asyncio.Task[LineResult]:
        """Begin to store a line, after those before it of the same conversation."""
        try:
            message = self._message(number, content)
        except ServiceError as error:
            return asyncio.create_task(_refused(number, error))
        key = message.channel, message.sender.value, message.recipient.value
        task = asyncio.create_task(self._stored(number, message, after=self._last.get(key)))
        self._last[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))
        return task

    def _forget(self, key: tuple[str, str, str], done: asyncio.Task[LineResult]) -> None:
        if self._last.get(key) is done:
            del self._last[key]

    def _message(self, number: int, content: bytes | None) -> NewMessage:
        """Raises `ServiceError`."""
        if content is None:
            raise _invalid(_TOO_LONG)
        batch, message = self.batch, self.read(content)
        return replace(
            message,
            idempotency_key=None,
            batch_id=batch.id,
            batch_line=number,
            priority=Priority(batch.priority) if message.priority is None else message.priority,
            topic=message.topic or batch.topic,
        )

    async def _stored(self, number: int, message: NewMessage, after: asyncio.Task[LineResult] | None) -> LineResult:
        if after is not None:
            await asyncio.wait([after])
        clock = asyncio.get_running_loop().time
        until = clock() + _PATIENCE_SECONDS
        while True:
            try:
                return await self._accepted(number, message)
            except Exception as error:
                is_away = isinstance(error, Overloaded) or is_unavailable(error)
                if isinstance(error, ServiceError) and error.status < 500:
                    return Refused(number, _errors_of(error))
                if not is_away and not isinstance(error, ServiceError):
                    log.exception("batch_line_failed", batch_id=message.batch_id, line=number)
                    return Refused(number, [_OUR_FAULT])
            if clock() >= until or self.summary.interrupted:
                self.stop(_UNAVAILABLE)
                return Unavailable(number)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _accepted(self, number: int, message: NewMessage) -> LineResult:
        is_late = self._is_beyond_the_end(number)
        if (is_late or await self.is_canceled()) and not await self.messages.is_repeat(message):
            return Refused(number, [_BEYOND_THE_END if is_late else _CANCELED])
        stored = await self.messages.send(message, **self.sender._asdict())
        return Accepted(number, stored.id, stored.conversation_id)

    def _is_beyond_the_end(self, number: int) -> bool:
        return self.batch.lines is not None and number > self.batch.lines

    def _count(self, result: LineResult) -> None:
        summary = self.summary
        summary.last_line = result.line
        summary.accepted += isinstance(result, Accepted)
        if isinstance(result, Refused):
            summary.refused += 1
            summary.refused_within += not self._is_beyond_the_end(result.line)


async def _refused(number: int, error: ServiceError) -> LineResult:
    return Refused(number, _errors_of(error))


def _errors_of(error: ServiceError) -> list[FieldError]:
    if isinstance(error, IdempotencyConflict):
        return [_CHANGED]
    return error.errors or [FieldError("body", error.detail)]


def _invalid(error: FieldError) -> InvalidRequest:
    return InvalidRequest("This line is not as it should be.", errors=[error])
