"""What a provider is: one method that hands a message over, and three ways to say that it could not."""

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class OutboundMessage:
    """What `send` is given. `from_address` and `to_address` are normalised; `attachments` are URLs.

    `idempotency_key` is the same for every attempt of one message: pass it on where the vendor takes one.
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
    """Not now: the worker tries again, after `retry_after` seconds where the provider names a time."""

    def __init__(self, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class PermanentFailure(ProviderFailure):
    """Not ever: the message ends as failed."""


class UnknownOutcome(ProviderFailure):
    """The request left and no usable answer came: the message may or may not have gone out."""


Answer = ProviderResult | Awaitable[ProviderResult]


class BaseProvider(ABC):
    """One vendor. Subclass it in a file of its own and give it a name in `provider_registry`."""

    @abstractmethod
    def send(self, payload: OutboundMessage) -> Answer:
        """Hand one message over, as `async def` or as plain `def` (which is run in a thread).

        Returns once the provider has accepted it. Raises `TemporaryFailure`, `PermanentFailure` or
        `UnknownOutcome`; the worker obeys. Anything else that is raised counts as temporary.
        """


async def call(provider: BaseProvider, payload: OutboundMessage) -> ProviderResult:
    """Run `send`, whichever way it is written, without holding up the event loop."""
    if inspect.iscoroutinefunction(provider.send):
        answer: Answer = provider.send(payload)
    else:
        answer = await asyncio.to_thread(_send, provider, payload)
    return await answer if isinstance(answer, Awaitable) else answer


def _send(provider: BaseProvider, payload: OutboundMessage) -> Answer:
    return provider.send(payload)
