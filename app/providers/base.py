"""What a provider is: one method that hands a message over, the ways to say that it could not, and, where the vendor
calls back, one that reads what it says."""

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import datetime
from weakref import WeakKeyDictionary

from app.domain import MessageStatus


@dataclass(frozen=True, slots=True)
class OutboundMessage:
    """What `send` is given. `from_address` and `to_address` are normalised; `attachments` are URLs.

    `idempotency_key` is the same for every attempt of one message, and no other message ever has it: pass it on where
    the vendor takes one, or as the reference that receipts carry back.
    """

    message_id: int
    channel: str
    type: str
    from_address: str
    to_address: str
    body: str
    idempotency_key: str
    subject: str | None = None
    attachments: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ProviderResult:
    """The provider took the message. `provider_message_id` is its own id for it, at most 512 characters."""

    provider_message_id: str | None = None


class ProviderFailure(Exception):
    """The provider did not take the message; the text is shown to whoever looks at the attempt."""


class TemporaryFailure(ProviderFailure):
    """Not now: the worker tries again, after `retry_after` seconds where the provider names a time.

    `throttled` says that it was asked for too much, so that nothing else is handed to it for that time either.
    """

    def __init__(self, detail: str, *, retry_after: float | None = None, throttled: bool = False) -> None:
        super().__init__(detail)
        self.retry_after = retry_after
        self.throttled = throttled


class PermanentFailure(ProviderFailure):
    """Not ever: the message ends as failed."""


class CredentialsRefused(ProviderFailure):
    """The provider refuses us (401, 403), not the message: it is paused, and its queue kept, until it is resumed."""


class UnknownOutcome(ProviderFailure):
    """The request left and no usable answer came: the message may or may not have gone out."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A provider's word on a message that it took, possibly late, twice, or before its own answer to `send`.

    `event_id` tells events of one provider apart: a repeat has the same. The message is named by
    `provider_message_id`, by `idempotency_key` (what `OutboundMessage` carried), or both. `status` is None where the
    vendor's word, kept in `raw`, has no counterpart here.
    """

    event_id: str
    status: MessageStatus | None
    provider_message_id: str | None = None
    idempotency_key: str | None = None
    detail: str | None = None
    occurred_at: datetime | None = None
    raw: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """A message that came in, with its addresses as the provider wrote them."""

    provider_message_id: str
    channel: str
    type: str
    from_address: str
    to_address: str
    body: str
    subject: str | None = None
    attachments: list[str] = field(default_factory=list)
    sent_at: datetime | None = None


ProviderEvent = Receipt | InboundMessage
Answer = ProviderResult | Awaitable[ProviderResult]


class BaseProvider(ABC):
    """One vendor. Subclass it in a file of its own and give it a name in `provider_registry`."""

    #: Whether a second `send` with the same `idempotency_key` is answered like the first and sends nothing.
    honours_idempotency_key: bool = False

    @abstractmethod
    def send(self, payload: OutboundMessage) -> Answer:
        """Hand one message over, as `async def` or as plain `def` (which is run in a thread).

        Returns once the provider has accepted it. Raises `TemporaryFailure`, `PermanentFailure`, `CredentialsRefused`
        or `UnknownOutcome`; the worker obeys. Anything else that is raised counts as temporary.
        """

    async def look_up(self, payload: OutboundMessage) -> ProviderResult | None:
        """What became of an earlier `send` whose answer was lost; None if the provider never got it.

        Raises `NotImplementedError` where the vendor can't be asked.
        """
        raise NotImplementedError

    def parse(self, headers: Mapping[str, str], body: bytes) -> Sequence[ProviderEvent]:
        """What a callback of the vendor says, after checking that it is the vendor's.

        Raises `NotImplementedError` where the vendor doesn't call back.
        """
        raise NotImplementedError


async def call(provider: BaseProvider, payload: OutboundMessage) -> ProviderResult:
    """Run `send`, whichever way it is written, without holding up the event loop or another provider."""
    if inspect.iscoroutinefunction(provider.send):
        answer: Answer = provider.send(payload)
    else:
        if provider not in _threads:
            _threads[provider] = ThreadPoolExecutor(_THREADS, thread_name_prefix=type(provider).__name__)
        run = copy_context().run
        answer = await asyncio.get_running_loop().run_in_executor(_threads[provider], run, _send, provider, payload)
    return await answer if isinstance(answer, Awaitable) else answer


def _send(provider: BaseProvider, payload: OutboundMessage) -> Answer:
    return provider.send(payload)


#: A provider that blocks its threads has only its own to block.
_threads: WeakKeyDictionary[BaseProvider, ThreadPoolExecutor] = WeakKeyDictionary()
_THREADS = 32
