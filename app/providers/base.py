"""The contract of a provider: `send`, the failures that it raises, and the hooks that read the vendor's callbacks."""

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar
from urllib.parse import parse_qsl
from weakref import WeakKeyDictionary

from app.consent import ReportedConsent
from app.details import NO_DETAILS, Automatic, MessageDetails
from app.domain import Direction, Keyword, MessageStatus
from app.providers.chat.templates import FilledTemplate, VendorTemplate
from app.providers.mail.fields import NO_FIELDS, MailFields
from app.providers.toolbox.json_documents import read_json

#: Why free text to a person is refused, where a vendor takes it only as an answer.
WINDOW_CLOSED = "This person has not written within 24 hours: only a template reaches them."


@dataclass(frozen=True, slots=True)
class OutboundFile:
    """A file that the sender has uploaded. `size` is in bytes; `read` gives the content."""

    name: str
    content_type: str
    size: int
    read: Callable[[], Awaitable[bytes]] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class OutboundMessage:
    """The argument of `send`. The addresses are normalised; `attachments` are URLs."""

    message_id: int
    channel: str
    type: str
    from_address: str
    to_address: str
    body: str
    #: The same for every attempt of one message, and unique to it. Pass it on as the vendor's idempotency key, or as
    #: the reference that receipts carry back.
    idempotency_key: str
    subject: str | None = None
    attachments: list[str] = field(default_factory=list)
    #: Those of `attachments` that are files of ours. Their URLs are signed and expire; without a `PUBLIC_URL` they
    #: are paths instead.
    files: Mapping[str, OutboundFile] = field(default_factory=dict)
    #: The HTML form of a mail whose `body` is its plain text, and empty if it has none. If None, the body may be HTML
    #: itself.
    html: str | None = None
    #: The address for receipts; None without a `PUBLIC_URL`.
    callback_url: str | None = None
    #: The Message-IDs of earlier mails, the latest last, for In-Reply-To and References.
    thread: Sequence[str] = ()
    #: The names, copies and further headers of a mail, and where its answer is to go.
    mail: MailFields = NO_FIELDS
    #: Further headers of a mail, each value on one line and in ASCII: those that unsubscribe.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: The vendor's template that the message fills in, in place of a body.
    template: FilledTemplate | None = None
    #: The time, by the event loop's clock, at which the worker takes the message for one in doubt. Work before the
    #: request has to end well before that, as a `TemporaryFailure`.
    give_up_at: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ProviderResult:
    """The provider accepted the message. `provider_message_id` is the provider's own id of it.

    An id of more than 512 characters is not kept: receipts have to carry our key then.
    `left_out` are the recipients of copies, as `mailbox_of` writes them, whom the provider has refused for good.
    """

    provider_message_id: str | None = None
    left_out: Sequence[str] = ()


class ProviderFailure(Exception):
    """The provider did not accept the message. The text is shown with the attempt."""


class TemporaryFailure(ProviderFailure):
    """The provider did not take the message. The worker retries, after `retry_after` seconds if a time is named.

    `throttled` means that the provider got too many requests: it is paused for that time.
    """

    def __init__(self, detail: str, *, retry_after: float | None = None, throttled: bool = False) -> None:
        super().__init__(detail)
        self.retry_after = retry_after
        self.throttled = throttled


class NotBegun(TemporaryFailure):
    """A plain `def send` was never called, because all of its threads were busy.

    The message did not leave, and nothing is known of the provider.
    """


class PermanentFailure(ProviderFailure):
    """The message ends as failed, without a retry."""


class RecipientRefused(PermanentFailure):
    """The vendor sends nothing to this recipient: who has opted out there, or whose address does not work.

    `consent` says which. It is recorded for the recipient, so that the next message is not tried at all.
    """

    def __init__(self, detail: str, consent: ReportedConsent = ReportedConsent.OPTED_OUT) -> None:
        super().__init__(detail)
        self.consent = consent


class FileUnavailable(PermanentFailure):
    """A file can't be had, and is not asked for again. `is_gone` where the vendor says that it is no more."""

    def __init__(self, detail: str, *, is_gone: bool = False) -> None:
        super().__init__(detail)
        self.is_gone = is_gone


class TemplatesUnavailable(Exception):
    """The vendor's templates can't be listed with these settings. The text says what is missing."""


class CredentialsRefused(ProviderFailure):
    """The provider refuses our account (401, 403), not the message.

    It is paused until it is resumed, and its messages stay queued.
    """


class UnknownOutcome(ProviderFailure):
    """The request left and no usable answer came, or one of a server's error: the message may have gone out."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A delivery status that a provider reports, possibly late, twice, or before its answer to `send`.

    `event_id` identifies the report among those of its provider; a repeat has the same one. The message is named by
    `provider_message_id`, by `idempotency_key` (of its `OutboundMessage`), or by both. `status` is None if the
    vendor's word, which `raw` keeps, has no counterpart here. `recipient` is the address of the message as the vendor
    writes it, by which the receipt is found when a person's data is erased. `alias` is another address of the
    recipient, as in `InboundMessage`. `consent` is what the report means for later messages to the recipient. `named`
    are further addresses in it, such as those of the other recipients.
    """

    event_id: str
    status: MessageStatus | None
    provider_message_id: str | None = None
    idempotency_key: str | None = None
    detail: str | None = None
    occurred_at: datetime | None = None
    raw: Mapping[str, object] = field(default_factory=dict)
    recipient: str | None = None
    alias: str | None = None
    consent: ReportedConsent | None = None
    named: Sequence[str] = ()


#: Begins the event id of a receipt that came as a mail (`MailReport`).
REPORT = "report:"


@dataclass(frozen=True, slots=True)
class MailReport:
    """A mail about a mail that was sent earlier, by any vendor: it bounced, was displayed, or is unwanted.

    Every sender can forge one. It becomes a receipt only of a message that one of `message_ids` names. These are the
    Message-IDs of the earlier mail, without `<>`, the surest first. It changes a status only if `recipients`, the
    addresses that it names, contain the recipient of that message. `status` is None for a report that changes none,
    and `detail` says what it is about. `consent` is as in `Receipt`.
    """

    kind: Automatic
    report_id: str
    message_ids: Sequence[str]
    recipients: Sequence[str]
    status: MessageStatus | None
    detail: str
    consent: ReportedConsent | None = None


@dataclass(frozen=True, slots=True)
class InboundFile:
    """A file of an inbound mail, with the name and the media type that its sender gave it."""

    name: str
    content_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FileFacts:
    """The name and the media type of a file that the vendor keeps, as far as it tells them."""

    name: str = ""
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that was fetched from the vendor, with the media type that came with it."""

    content_type: str
    content: bytes = field(repr=False)


class Proof(StrEnum):
    """The proof that a mail was sent to an address before it was forwarded to its recipient."""

    DOMAIN = "domain"  #: the recipient is an address of the vendor's, or in a domain below that of the address.
    HEADERS = "headers"  #: To or Cc names the address, and so does a server that forwarded the mail.
    NONE = "none"


@dataclass(frozen=True, slots=True)
class MailClaims:
    """The claims of a mail's headers that only the database can check. Each list has the likeliest first.

    - `senders` are names and addresses. The first address that is not the tenant's own is the contact.
    - `sent_to` are addresses that the mail was sent to before it was forwarded to `to_address`. The first one that is
      the tenant's own takes its place.
    - `answers` are the mails that it answers. Each is a vendor's name with its id, or no name with our reference.
    """

    senders: Sequence[tuple[str, str]] = ()
    sent_to: Sequence[tuple[str, Proof]] = ()
    answers: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """An inbound message, with its addresses as the provider wrote them.

    An address that is neither a phone number nor an email address is written `kind:value`, such as `slack:C024BE91L`.
    `provider_message_id` has at most 512 characters, and is the same when the message comes again. `attachments` are
    URLs or ids of files. Those in `kept` are files of the vendor, which `fetch_file` fetches; `files` came with the
    message. `quoted` is the part of a mail that repeats earlier ones; `body` is without it. `details` is what only
    some messages have. `claims` are None where nothing has to be checked. `report` is what a mail server's mail says
    about an earlier mail. `html` is the HTML form of a mail, as it came.

    `direction` is outbound for a message that the tenant sent elsewhere, such as from its phone: it is stored as
    sent, and not sent again. `alias` is another address of the contact, written `kind:value`. Messages from it and to
    it belong to the same conversation from then on. `handled_keyword` is the keyword, such as STOP, that the vendor
    has already acted on and replied to.
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
    details: MessageDetails = NO_DETAILS
    claims: MailClaims | None = None
    report: MailReport | None = None
    direction: Direction = Direction.INBOUND
    alias: str | None = None
    handled_keyword: Keyword | None = None
    kept: Mapping[str, FileFacts] = field(default_factory=dict)
    html: str | None = None


@dataclass(frozen=True, slots=True)
class Unread:
    """A callback's item that can't be read.

    The callback is kept as it came, to be replayed, and its other items are stored. `reason` quotes nothing of it.
    """

    reason: str


CallbackItem = Receipt | InboundMessage


#: Far more than any vendor sends. Forms are read before their signature is checked.
_MOST_FIELDS = 1_000
#: In bytes; parsing more blocks the event loop for long enough to delay other requests.
_LARGE = 100_000


@dataclass(frozen=True, slots=True)
class Callback:
    """A vendor's HTTP request to us, as it came.

    `url` is the whole public address of the request with its query, which some vendors sign. `headers` have names in
    lower case and values in Latin-1; a repeated header stands there repeatedly. `received_at` is aware. `verify`
    measures a signature's age against it, so that a kept callback can be verified again later.
    A callback that `is_kept` has only the hashes of shared secrets (`verification.hash_of`).
    """

    method: str
    url: str
    headers: Sequence[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False)
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    is_kept: bool = False

    def header(self, name: str) -> str | None:
        """The value of a header that occurs exactly once; None otherwise. So no second one can be smuggled in."""
        values = [value for known, value in self.headers if known == name]
        return values[0] if len(values) == 1 else None

    @property
    def media_type(self) -> str:
        """The media type of the body in lower case, without parameters; empty without such a header."""
        return (self.header("content-type") or "").partition(";")[0].strip().lower()

    @property
    def is_large(self) -> bool:
        """True for a body that has to be parsed in a thread."""
        return len(self.body) > _LARGE

    def json(self) -> Any:
        """The body as JSON; a bad character in it costs no more than itself. Raises `ValueError`."""
        return read_json(self.body)

    def query(self) -> list[tuple[str, str]]:
        """The parameters of the address, decoded, in order, blank ones too. Raises `ValueError`."""
        return parse_qsl(self.url.partition("?")[2], keep_blank_values=True, max_num_fields=_MOST_FIELDS)

    def form(self, errors: str = "replace") -> list[tuple[str, str]]:
        """The body as `application/x-www-form-urlencoded`, decoded, in order, blank ones too. Raises `ValueError`.

        `errors` is the handler of `str` for bytes that are no UTF-8.
        """
        return parse_qsl(
            self.body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(self.body),
            errors=errors,
            max_num_fields=_MOST_FIELDS,
        )


class CallbackRefused(Exception):
    """A callback is not the vendor's: its signature is missing, wrong or out of date. The text says which.

    `seen` and `expected` help to find a wrong setting. They are the beginnings of the signature that came and of the
    right one (`hint`): never a whole signature, never a secret.
    """

    def __init__(self, reason: str, *, seen: str | None = None, expected: str | None = None) -> None:
        super().__init__(reason)
        self.seen = seen
        self.expected = expected


class CallbackUnverifiable(Exception):
    """A callback can't be verified just now, and the vendor has to retry it.

    A secret is not set or can't be read, or a vendor leaves its signature out by an error of its own.
    """


@dataclass(frozen=True, slots=True)
class Reply:
    """Our answer to a callback."""

    content: bytes = b'{"status":"ok"}'
    media_type: str | None = "application/json"
    status: int = 200


Sending = ProviderResult | Awaitable[ProviderResult]
Parsed = Reply | Sequence[CallbackItem | Unread]


class BaseProvider(ABC):
    """One vendor. Subclass it in a file of its own.

    A function `configured()` in that file enters the provider into `provider_registry` under the file's name.
    """

    #: The channels of the provider, each with its kind of address: `phone`, `email`, or one of its own.
    channels: ClassVar[Mapping[str, str]] = {}
    #: True if no message reaches a person.
    simulated: ClassVar[bool] = False
    #: True if a second `send` with the same `idempotency_key` is answered like the first and sends nothing.
    honours_idempotency_key: bool = False
    #: True if receipts carry `idempotency_key` back, so that they tell the outcome of a `send` without an answer.
    receipts_carry_key: ClassVar[bool] = False
    #: True if it sends all of `OutboundMessage.mail`. Without it, a mail with copies or headers is refused.
    takes_mail_fields: ClassVar[bool] = False
    #: True if signatures cover the address of the callback. Production requires `PUBLIC_URL` then: the Host header
    #: of a forged request must not choose that address.
    signs_address: ClassVar[bool] = False
    #: The days for which a token that `verify` has returned is remembered: longer than its signature is valid.
    token_days: ClassVar[int] = 1
    #: The answer to a callback that was stored.
    reply: ClassVar[Reply] = Reply()
    #: True if the content of `OutboundMessage.files` is sent along. Others have the vendor fetch files.
    sends_files: ClassVar[bool] = False
    #: For how long after a person's message free text reaches them; None if it always does.
    reply_window: ClassVar[timedelta | None] = None
    #: True if it sends `OutboundMessage.template`.
    takes_templates: ClassVar[bool] = False
    #: The largest callback, in bytes.
    largest_callback: ClassVar[int] = 1_000_000

    def refusals(self, payload: OutboundMessage) -> Mapping[str, str]:
        """The reasons for which the vendor would never accept a message, as far as they are known without asking it.

        A sentence for each field that is to blame (`from`, `to`, `body`, `attachments`, `template`). They follow from
        the addresses, the body, the subject, the attachments, the template and the facts of `files` alone. A preview
        shows them; a refused message never comes to `send`.
        """
        return {}

    @abstractmethod
    def send(self, payload: OutboundMessage) -> Sending:
        """Hand one message over, as `async def` or as plain `def`, which runs in a thread.

        Returns once the provider has accepted the message. Errors of httpx are read as a request's, in doubt after a
        5xx or a lost answer (`http_client.failure_behind`). Any other exception counts as temporary.

        Raises:
            TemporaryFailure: the worker retries.
            PermanentFailure: the message has failed.
            CredentialsRefused: the provider is paused.
            UnknownOutcome: the message may have gone out.
        """

    async def templates(self) -> Sequence[VendorTemplate]:
        """The vendor's templates, which may be cached for a minute.

        Raises:
            ProviderFailure: the vendor does not tell them now.
            TemplatesUnavailable: a setting is missing.
            NotImplementedError: the vendor has none.
        """
        raise NotImplementedError

    async def look_up(self, payload: OutboundMessage) -> ProviderResult | None:
        """Ask for the result of an earlier `send` without an answer; None if the provider never got the message.

        Raises `NotImplementedError` if the vendor can't be asked.
        """
        raise NotImplementedError

    def verify(self, callback: Callback) -> str | Awaitable[str | None] | None:
        """Return if a callback is the vendor's, and raise otherwise. No other hook runs before.

        The result is None if the signature covers the body. If it covers only a token, the result is that token,
        which is then accepted with the items of this callback and with no others. Write an `async def` to fetch
        something, such as a certificate. A `ValueError` counts as refused.

        Raises:
            CallbackUnverifiable: a secret is not set; checked before anything else.
            CallbackRefused: the callback is not the vendor's.
            NotImplementedError: the vendor does not call back.
        """
        raise NotImplementedError

    def is_known_by_head(self, head: Callback) -> bool:
        """Return True if the headers or the address prove that a callback is the vendor's; `head` has no body.

        Asked before a large body is read, because memory for the bodies of unknown callers is limited. A signature
        over the body proves nothing yet. Raises as `verify` does, which follows in any case.
        """
        return False

    def parse(self, callback: Callback) -> Parsed | Awaitable[Parsed]:
        """Read the items of a genuine callback, in its order; none if it does not concern us.

        Return a `Reply` for a callback that only asks for an answer, such as a handshake: nothing is stored.
        The method runs in a thread if the body is large. It may return an awaitable, which is awaited on the event
        loop, if the answer needs a request of its own.

        Raises:
            ValueError: the callback can't be read, and is kept as it came. If one item of several can't be read,
                return an `Unread` in its place.
            CallbackRefused: the callback asks for something that must not be done.
            CallbackUnverifiable: the vendor has to retry it.
        """
        raise NotImplementedError

    async def fetch_file(self, reference: str, *, most_bytes: int) -> FetchedFile:
        """Fetch a file of an inbound message, which `InboundMessage.kept` names, of at most `most_bytes`.

        A reference may be forged: credentials go to the vendor's own origin only (`toolbox.vendor_files`).

        Raises:
            FileUnavailable: it can't be had, now or later.
            ProviderFailure: it may be had later. The worker asks again for a day.
            NotImplementedError: the vendor keeps no files.
        """
        raise NotImplementedError

    def inbound_since(self, since: datetime) -> AsyncIterator[InboundMessage]:
        """Yield the messages that came in since an aware time, as their callbacks would have brought them.

        An `async def` that yields, the earlier days first. Raises `NotImplementedError` if the vendor can't be asked,
        and during the iteration what `send` raises.
        """
        raise NotImplementedError

    async def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Close connections when the process stops."""


def all_refusals(provider: BaseProvider, payload: OutboundMessage) -> Mapping[str, str]:
    """The refusals of a provider, of fields of mails that it does not know, and of files that it can't fetch."""
    refusals = provider.refusals(payload)
    if not provider.takes_mail_fields and payload.mail.change_the_mail:
        refusals = {**_refused_fields(payload.mail), **refusals}
    if payload.files and not (provider.sends_files or provider.simulated):
        refusals = {**_refused_files(payload), **refusals}
    return refusals


def _refused_fields(mail: MailFields) -> Mapping[str, str]:
    sentence = "The provider sends mails without copies, reply_to and headers."
    return {name: sentence for name in ("cc", "bcc", "reply_to", "headers") if getattr(mail, name)}


def _refused_files(payload: OutboundMessage) -> Mapping[str, str]:
    unreachable = ", ".join(file.name for url, file in payload.files.items() if url.startswith("/"))
    sentence = f"The vendor can't fetch {unreachable}: set PUBLIC_URL, or attach a public URL."
    return {"attachments": sentence} if unreachable else {}


async def send_through(provider: BaseProvider, payload: OutboundMessage, *, threads: int = 32) -> ProviderResult:
    """Run `send` without blocking the event loop or another provider.

    A plain `def` runs in a pool of `threads`, which is made at a provider's first call.

    Raises:
        PermanentFailure: `refusals` has a reason; `send` is not called.
        NotBegun: cancelled before a thread was free.
        UnknownOutcome: `send` returned something else than a `ProviderResult`.
        ProviderFailure: as `send` raises it.
    """
    if refusals := all_refusals(provider, payload):
        raise PermanentFailure(" ".join(refusals.values()))
    if inspect.iscoroutinefunction(provider.send):
        answer: Sending = provider.send(payload)
    else:
        if provider not in _threads:
            _threads[provider] = ThreadPoolExecutor(threads, thread_name_prefix=type(provider).__name__)
        running = _threads[provider].submit(copy_context().run, provider.send, payload)
        try:
            answer = await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if running.cancel():  # impossible once a thread has begun it
                raise NotBegun("It was not handed over: earlier calls had not come back.") from None
            raise
    result: object = await answer if isinstance(answer, Awaitable) else answer
    if not isinstance(result, ProviderResult):  # it did not raise, so it may have taken the message
        raise UnknownOutcome(f"`send` returned {type(result).__name__} where a ProviderResult belongs.")
    return result


#: One pool each, so that a provider that blocks its threads blocks no other.
_threads: WeakKeyDictionary[BaseProvider, ThreadPoolExecutor] = WeakKeyDictionary()


def hint(signature: str) -> str:
    """The beginning of a signature: enough to compare two by eye, too little to use one."""
    printable = "".join(character if " " < character < "\x7f" else "?" for character in signature[:12])
    return printable + ("..." if len(signature) > len(printable) else "")
