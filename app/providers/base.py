"""What a provider is: one method that hands a message over, the ways to say that it could not, and, where the vendor
calls back, one that reads what it says."""

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar
from urllib.parse import parse_qsl
from weakref import WeakKeyDictionary

from app.domain import MessageStatus


@dataclass(frozen=True, slots=True)
class OutboundMessage:
    """What `send` is given. `from_address` and `to_address` are normalised; `attachments` are URLs.

    `idempotency_key` is the same for every attempt of one message, and no other message ever has it: pass it on where
    the vendor takes one, or as the reference that receipts carry back. `callback_url` is where its receipts are to
    go, where the installation is reachable (`PUBLIC_URL`). `thread` is for mail: the Message-IDs of what was
    said before, the latest last, as In-Reply-To and References have them. `give_up_at` is when, by the event loop's
    clock, the worker stops waiting for `send` and takes the message for one in doubt: what is done before anything
    leaves has to end well before that, as a `TemporaryFailure`.
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
    callback_url: str | None = None
    thread: Sequence[str] = ()
    give_up_at: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ProviderResult:
    """The provider took the message. `provider_message_id` is its own id for it; one of more than 512 characters is
    not kept, so its receipts have to carry our key."""

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


class NotBegun(TemporaryFailure):
    """A plain `def send` was never called, because none of its threads came free: the message did not leave, and
    nothing is known of the provider."""


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
    vendor's word, kept in `raw`, has no counterpart here. `recipient` is the address that it speaks of, as the vendor
    writes it, so that it can be found when somebody's data is erased.
    """

    event_id: str
    status: MessageStatus | None
    provider_message_id: str | None = None
    idempotency_key: str | None = None
    detail: str | None = None
    occurred_at: datetime | None = None
    raw: Mapping[str, object] = field(default_factory=dict)
    recipient: str | None = None


@dataclass(frozen=True, slots=True)
class InboundFile:
    """What hung on a mail that came in: its bytes, with the name and the media type that the sender gave it."""

    name: str
    content_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """A message that came in, with its addresses as the provider wrote them.

    An address that is neither a phone number nor an email address is written `kind:value`, such as `slack:C024BE91L`.
    `provider_message_id` has at most 512 characters, and is the same when the message comes again. `attachments` are
    URLs or the vendor's names for what it keeps; `files` came along. `quoted` is what a mail repeats of those before
    it, and stands in `body` no more.
    """

    provider_message_id: str
    channel: str
    type: str
    from_address: str
    to_address: str
    body: str
    subject: str | None = None
    attachments: list[str] = field(default_factory=list)
    sent_at: datetime | None = None
    files: Sequence[InboundFile] = ()
    quoted: str | None = None


@dataclass(frozen=True, slots=True)
class Unread:
    """One of a callback's events that can't be read: the call is kept as it came, to be read again, and the other
    events are taken all the same. `reason` says why, and quotes nothing of it."""

    reason: str


CallbackItem = Receipt | InboundMessage
Sending = ProviderResult | Awaitable[ProviderResult]


#: No vendor sends nearly as many, and whoever sends more has not been looked at yet.
_MOST_FIELDS = 1_000


@dataclass(frozen=True, slots=True)
class Callback:
    """One call of a vendor, as it was made.

    `url` is the whole public address that the vendor called, with its query: what some of them sign. `headers` are as
    they came, with names in lower case, each as often as it stood there; values are Latin-1. `received_at` is aware,
    and is what `verify` measures a signature's age against: a call that was kept can be judged as when it came. One
    that `is_kept` has only the hashes of what lets somebody in (`verification.hash_of`).
    """

    method: str
    url: str
    headers: Sequence[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False)
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    is_kept: bool = False

    def header(self, name: str) -> str | None:
        """The value of a header that stands there exactly once; None otherwise, so that a second one can't be
        smuggled in."""
        values = [value for known, value in self.headers if known == name]
        return values[0] if len(values) == 1 else None

    def query(self) -> list[tuple[str, str]]:
        """The parameters of the address, decoded, in order, blank ones too. Raises `ValueError`."""
        return parse_qsl(self.url.partition("?")[2], keep_blank_values=True, max_num_fields=_MOST_FIELDS)

    def form(self) -> list[tuple[str, str]]:
        """The body as `application/x-www-form-urlencoded`, decoded, in order, blank ones too. Raises `ValueError`."""
        return parse_qsl(
            self.body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(self.body),
            max_num_fields=_MOST_FIELDS,
        )


class CallbackRefused(Exception):
    """A callback is not the vendor's: its signature is missing, wrong or out of date.

    The text says which. `seen` and `expected` are for whoever has to find the wrong setting: the beginnings of what
    was shown and of what would have been right (`hint`), never a whole signature, never a secret.
    """

    def __init__(self, reason: str, *, seen: str | None = None, expected: str | None = None) -> None:
        super().__init__(reason)
        self.seen = seen
        self.expected = expected


class CallbackUnverifiable(Exception):
    """Whose a callback is can't be told, and the vendor is to call again: because of us, where a secret is not set or
    can't be read, or because the vendor itself may leave its signature out by an error."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a vendor is answered."""

    content: bytes = b'{"status":"ok"}'
    media_type: str | None = "application/json"
    status: int = 200


class BaseProvider(ABC):
    """One vendor. Subclass it in a file of its own; a function `configured()` in that file enters it into
    `provider_registry` under the file's name."""

    #: The channels that it carries, each with the kind of address at both ends: `phone`, `email`, or one of its own.
    channels: ClassVar[Mapping[str, str]] = {}
    #: Whether what it takes reaches nobody.
    simulated: ClassVar[bool] = False
    #: Whether a second `send` with the same `idempotency_key` is answered like the first and sends nothing.
    honours_idempotency_key: bool = False
    #: Whether its receipts carry `idempotency_key` back, so that they tell of a `send` whose answer was lost.
    receipts_carry_key: ClassVar[bool] = False
    #: Whether it signs the address that it calls. That address has to be ours then (`PUBLIC_URL`), and not one that
    #: whoever calls may choose.
    signs_address: ClassVar[bool] = False
    #: What a callback that was taken is answered with.
    reply: ClassVar[Reply] = Reply()
    #: The largest callback, in bytes.
    largest_callback: ClassVar[int] = 1_000_000

    def refusals(self, payload: OutboundMessage) -> Mapping[str, str]:
        """Why it could never take a message, told without asking the vendor: a sentence for each field that is to
        blame (`from`, `to`, `body`, `attachments`); nothing where there is no reason that it knows.

        Judged by the addresses, the body, the subject and the attachments alone. A preview shows it, and what is
        refused here never comes to `send`.
        """
        return {}

    @abstractmethod
    def send(self, payload: OutboundMessage) -> Sending:
        """Hand one message over, as `async def` or as plain `def` (which is run in a thread).

        Returns once the provider has accepted it. Raises `TemporaryFailure`, `PermanentFailure`, `CredentialsRefused`
        or `UnknownOutcome`; the worker obeys. Anything else that is raised counts as temporary.
        """

    async def look_up(self, payload: OutboundMessage) -> ProviderResult | None:
        """What became of an earlier `send` whose answer was lost; None if the provider never got it.

        Raises `NotImplementedError` where the vendor can't be asked.
        """
        raise NotImplementedError

    def verify(self, callback: Callback) -> Awaitable[None] | None:
        """Return if a callback is the vendor's, judged by its bytes before anything reads them.

        As plain `def`, or as `async def` where something has to be fetched for it, such as a certificate: what is
        returned is awaited if it can be. Raises `CallbackUnverifiable` where a secret is not set, whatever the call
        shows, `CallbackRefused`, and `NotImplementedError` where the vendor doesn't call back. What can't be read may
        raise `ValueError`, and counts as refused.
        """
        raise NotImplementedError

    def is_known_by_head(self, head: Callback) -> bool:
        """Whether a call is the vendor's, as far as can be said before its body is read: `head` has none.

        Asked of calls that turn out to be large, because only so many of strangers find room. What only the body can
        tell, such as a signature over it, is no reason for True. Raises as `verify` does, which follows all the same.
        """
        return False

    async def signed_token(self, callback: Callback) -> str | None:
        """What a genuine callback's signature covers, where that is a token and not the body: it is taken with the
        events that it came with first, and with no others. None where the body is covered."""
        return None

    async def handshake(self, callback: Callback) -> Reply | None:
        """The answer to a genuine call that only asks whether somebody is there; None for every other.

        Raises `CallbackRefused` where what it asks for must not be done.
        """
        return None

    def parse(self, callback: Callback) -> Sequence[CallbackItem | Unread]:
        """What a genuine callback says, in its order; nothing where it is no concern of ours.

        Raises `ValueError` for what can't be understood: it is kept as it came. Where that is one event of several,
        it is `Unread` in its place, so that it costs no other.
        """
        raise NotImplementedError

    def inbound_since(self, since: datetime) -> AsyncIterator[InboundMessage]:
        """What came in since an aware time, as an `async def` that yields: the earlier days first, each message as
        its callback would have brought it.

        Raises `NotImplementedError` where the vendor can't be asked, and while it is gone through what `send` raises.
        """
        raise NotImplementedError

    async def close(self) -> None:  # noqa: B027 - most have nothing to give up
        """Give up connections, when the process stops."""


async def send_through(provider: BaseProvider, payload: OutboundMessage, *, threads: int = 32) -> ProviderResult:
    """Run `send`, whichever way it is written, without holding up the event loop or another provider.

    A plain `def` runs in one of so many `threads`, which is settled at a provider's first call. Raises what `send`
    raises, `UnknownOutcome` where it returns anything but a `ProviderResult`, `NotBegun` where it is cancelled before
    a thread came free, and `PermanentFailure` instead for what the provider says beforehand that it refuses.
    """
    if refusals := provider.refusals(payload):
        raise PermanentFailure(" ".join(refusals.values()))
    if inspect.iscoroutinefunction(provider.send):
        answer: Sending = provider.send(payload)
    else:
        if provider not in _threads:
            _threads[provider] = ThreadPoolExecutor(threads, thread_name_prefix=type(provider).__name__)
        running = _threads[provider].submit(copy_context().run, _send, provider, payload)
        try:
            answer = await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if running.cancel():  # which it can't be any more once a thread has begun it
                raise NotBegun("It was not handed over: earlier calls had not come back.") from None
            raise
    result: object = await answer if isinstance(answer, Awaitable) else answer
    if not isinstance(result, ProviderResult):  # it did not raise, so it may have taken the message
        raise UnknownOutcome(f"`send` returned {type(result).__name__} where a ProviderResult belongs.")
    return result


def _send(provider: BaseProvider, payload: OutboundMessage) -> Sending:
    return provider.send(payload)


#: A provider that blocks its threads has only its own to block.
_threads: WeakKeyDictionary[BaseProvider, ThreadPoolExecutor] = WeakKeyDictionary()


def hint(signature: str) -> str:
    """The beginning of a signature: enough to compare two by eye, too little to use one."""
    printable = "".join(character if " " < character < "\x7f" else "?" for character in signature[:12])
    return printable + ("..." if len(signature) > len(printable) else "")
