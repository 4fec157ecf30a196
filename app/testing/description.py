"""The description of a vendor, from which the contract (`contract.py`) knows what to ask and to expect."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol
from urllib.parse import parse_qsl

import httpx

from app.domain import MessageStatus
from app.providers.base import Callback, OutboundMessage
from app.testing.vendor import ODD_VALUES, with_header, with_header_twice, without_header

PUBLIC_URL = "https://messages.example"
#: The idempotency key of a message of the kit, and the URL of the attachment of one with media.
REFERENCE = "1-17-1772366400000000"
PICTURE = "https://files.example/1.png"


class Outcome(StrEnum):
    """The outcomes of a request to a vendor."""

    ACCEPTED = "accepted"
    THROTTLED = "throttled"  #: 429, come back in 7 seconds
    OUT_OF_ORDER = "out of order"  #: 503, with Retry-After
    BROKEN = "broken"  #: 500, which does not say whether it was accepted
    CUT_OFF = "cut off"  #: 504, by a gateway
    REFUSED = "refused"  #: 400
    UNAUTHORISED = "unauthorised"  #: 401
    SENSELESS = "senseless"  #: accepted. The answer says nothing
    SILENT = "silent"  #: the request left, and no answer came
    UNREACHABLE = "unreachable"  #: no connection was made


@dataclass(frozen=True)
class Asked:
    """A request to a vendor. A value that is another one each time is given as a pattern.

    `body` is what JSON or a form holds, read by `read` where that takes more than its media type.
    """

    method: str
    url: str
    headers: Mapping[str, str | re.Pattern[str]]
    body: object
    read: Callable[[bytes], object] | None = None

    def must_be(self, request: httpx.Request) -> None:
        """Fails where anything in a request is not as it stands here."""
        assert (request.method, str(request.url)) == (self.method, self.url), f"it asked for {request}"
        headers = {name: value for name, value in request.headers.items() if name not in _OF_ANY_REQUEST}
        assert headers.keys() == {name.lower() for name in self.headers}, f"it has {sorted(headers)}"
        for name, expected in self.headers.items():
            value = headers[name.lower()]
            assert expected.fullmatch(value) if isinstance(expected, re.Pattern) else value == expected, name
        body = self.read(request.content) if self.read else _body_of(request)
        assert body == self.body, f"it asked for {body}"


_OF_ANY_REQUEST = {"host", "accept", "accept-encoding", "connection", "user-agent", "content-length"}


def _body_of(request: httpx.Request) -> object:
    if request.headers.get("content-type", "").startswith("application/json"):
        return json.loads(request.content)
    return parse_qsl(request.content.decode(), keep_blank_values=True)


class End(Protocol):
    """The other end of the wire."""

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that lead the vendor's file to it."""

    def must_have_got(self, request: Any) -> None:
        """Fails unless it was asked once, for exactly this."""

    def got(self) -> bytes:
        """All that it was sent, as it was written."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """One vendor.

    `environment` configures it, calls included; `secrets` are what must never be shown. `message` goes out as
    `request`, and is called `id` by what the vendor answers, `accepted`. `media` is one with `PICTURE`.

    `sign` makes a genuine call, just now, of a body such as those in `payloads/`. `receipt` is the body of a receipt
    with a status in the vendor's words; `words` maps some of them to ours. `inbound` and `inbound_media` are the
    bodies of messages that came in. `signature` names the header with the signature. `forge` puts another one, or
    none, into a call that has it elsewhere. `signed_by` says what it is, and `verified_with` which variables hold its
    secrets.
    """

    environment: Mapping[str, str]
    secrets: Sequence[str]
    message: OutboundMessage
    request: Any
    accepted: httpx.Response = field(default_factory=lambda: httpx.Response(200))
    id: str | None
    media: OutboundMessage | None = None
    sign: Callable[[bytes], Callback] | None = None
    signature: str | None = None
    forge: Callable[[Callback, str | None], Callback] | None = None
    signed_by: str | None = None
    verified_with: Sequence[str] = ()
    #: Those of `verified_with` that hold no secret, so that two may be separated by a space.
    spaced: frozenset[str] = frozenset()
    #: Whether the vendor may leave its signature out, by an error of its own; such a call is to come again.
    may_come_unsigned: bool = False
    #: How old a signature may be when it comes; None where the vendor signs no time.
    good_for: timedelta | None = None
    receipt: Callable[[str], bytes] | None = None
    words: Mapping[str, MessageStatus] = field(default_factory=dict)
    inbound: bytes | None = None
    inbound_media: bytes | None = None
    #: Those in `payloads/` that are kept as they came, because they are no concern of ours.
    not_understood: frozenset[str] = frozenset()
    #: What the vendor answers when something is fetched to verify a call.
    fetched: httpx.Response | None = None
    #: For what doesn't speak HTTP: its other end, and which of the outcomes it knows.
    end: Callable[[Outcome], AbstractAsyncContextManager[End]] | None = None
    outcomes: frozenset[Outcome] = frozenset(Outcome)

    def forged(self, callback: Callback) -> list[Callback]:
        """The same call with odd signatures, without one, and with the good one twice."""
        if self.signature is None or callback.header(self.signature) is None:
            assert self.forge is not None
            return [self.forge(callback, value) for value in [None, *ODD_VALUES]]
        others = [with_header(callback, self.signature, value) for value in ODD_VALUES]
        unsigned = [] if self.may_come_unsigned else [without_header(callback, self.signature)]
        return [*unsigned, with_header_twice(callback, self.signature), *others]


def text(to: str = "+18045551234", **values: Any) -> OutboundMessage:
    """A text to send, or a media message."""
    return _outbound(to, **{"channel": "sms", "type": "sms", "from_address": "+12016661234", **values})


def mail(**values: Any) -> OutboundMessage:
    facts = {"channel": "email", "type": "email", "from_address": "shop@example.com", "subject": "Greetings"}
    return _outbound("jane@example.com", **{**facts, **values})


def _outbound(to: str, **values: Any) -> OutboundMessage:
    facts = {"message_id": 1, "body": "Hello!", "idempotency_key": REFERENCE}
    return OutboundMessage(**{**facts, **values}, to_address=to)


def called(name: str, body: bytes, headers: Mapping[str, str], *, query: str = "") -> Callback:
    """A call of a vendor, made now."""
    url = f"{PUBLIC_URL}/api/webhooks/{name}{query}"
    return Callback("POST", url, [(name.lower(), value) for name, value in headers.items()], body)


def now() -> str:
    """The Unix time in seconds."""
    return str(int(datetime.now(UTC).timestamp()))


def form_data(fields: Mapping[str, str], *, file: str | None = None) -> bytes:
    """`multipart/form-data` with the boundary `kit`, and a text file of this field."""
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()]
    if file is not None:
        disposition = f'Content-Disposition: form-data; name="{file}"; filename="a.txt"'
        parts.append(f"{disposition}\r\nContent-Type: text/plain\r\n\r\nattached\r\n")
    return "".join([*(f"--kit\r\n{part}" for part in parts), "--kit--\r\n"]).encode()


def content_type_of(body: bytes) -> str:
    """As the vendors of mail say it: events are JSON, mails are forms."""
    if body.startswith(b"--kit"):
        return "multipart/form-data; boundary=kit"
    return "application/json"
