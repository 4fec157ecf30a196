"""Requests to vendors with an HTTP API, and the outcome that an answer means."""

import asyncio
import base64
import re
from collections.abc import Callable, Container, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Generic, TypeVar

import httpx
from pydantic import SecretStr

from app.providers.base import (
    BaseProvider,
    CredentialsRefused,
    PermanentFailure,
    ProviderFailure,
    RecipientRefused,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.toolbox.json_documents import read_json
from app.providers.toolbox.models import LONGEST_ID, HttpVendorSettings
from app.providers.toolbox.transport import new_client
from app.providers.toolbox.vendor_files import VendorFiles

#: A day. A larger value is a vendor's mistake, and must not hold a queue for years.
LONGEST_RETRY_AFTER = 86_400.0
#: An answer to `send` is an id and a few words. A larger one is not read to its end, unless more was expected.
LARGEST_ANSWER = 65_536
_LONGEST_REASON = 200

_SECONDS = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_NEVER_LEFT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
_LEFT = (
    httpx.ReadError,
    httpx.WriteError,
    httpx.CloseError,
    httpx.ReadTimeout,
    httpx.WriteTimeout,
    httpx.RemoteProtocolError,
    httpx.DecodingError,
)
#: Statuses of requests that were not processed: incomplete, too early (RFC 9110, RFC 8470), of an unknown method or
#: version. The others are Cloudflare's, which could not connect to the server behind it.
_NOT_TAKEN = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, 501, 505, 521, 523, 525, 526}
#: The 4xx about our account. They pause the provider and keep its queue: credit, for one, can be bought.
_REFUSES_US = {HTTPStatus.UNAUTHORIZED, HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.FORBIDDEN}
#: Headers that describe the body as it was sent, and not the decoded one.
_OF_THE_TRANSFER = {"content-encoding", "content-length", "transfer-encoding"}


def basic(user: str, password: str) -> str:
    """The header `Authorization` of HTTP's basic authentication (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode('ascii')}"


def bearer(token: SecretStr | None) -> str:
    """The header `Authorization` with a bearer token (RFC 6750); the vendor refuses an empty one."""
    return f"Bearer {token.get_secret_value() if token else ''}"


async def exchange(
    client: httpx.AsyncClient, request: httpx.Request, *, largest: int = LARGEST_ANSWER
) -> httpx.Response:
    """Send a request and read its answer, of any status, up to `largest` bytes; redirects are not followed.

    Raises `TemporaryFailure` if the request never left, and `UnknownOutcome` if it did and no whole answer came.
    """
    try:
        response = await client.send(request, stream=True, follow_redirects=False)
    except _NEVER_LEFT as error:
        raise TemporaryFailure(f"No connection was made: {_told(error)}") from error
    except _LEFT as error:
        raise UnknownOutcome(f"The request left, and no answer came: {_told(error)}") from error
    headers = [(name, value) for name, value in response.headers.multi_items() if name not in _OF_THE_TRANSFER]
    content = await _content(response, largest)
    return httpx.Response(response.status_code, headers=headers, content=content, request=request)


async def _content(response: httpx.Response, largest: int) -> bytes:
    """Read the body. An incomplete one is empty, unless only the body can tell the outcome."""
    content = b""
    trouble = f"The answer is larger than {largest} bytes."
    try:
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > largest:
                break
        else:
            return content
    except _LEFT as error:
        trouble = f"The answer broke off: {_told(error)}"
    finally:
        await response.aclose()
    if response.is_success:
        raise UnknownOutcome(trouble)
    return b""


def _told(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()


def outcome_of(
    response: httpx.Response, detail: str | None = None, *, not_taken: Container[int] = ()
) -> ProviderFailure | None:
    """The failure that a status means, to be raised; None for a 2xx, whose body has the last word.

    `detail` is the vendor's own reason, where its file can tell it. A 5xx is in doubt: the vendor may have taken the
    message before the error, and a gateway can't know. `not_taken` are the 5xx of which the vendor documents that it
    took nothing. A 503 with Retry-After says so too: it refuses work before it begins.
    """
    status = response.status_code
    if 200 <= status < 300:
        return None
    text = " ".join(part for part in (str(status), response.reason_phrase, detail and f"- {detail}") if part)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return temporary_failure(response, text, throttled=True)
    is_away = status == HTTPStatus.SERVICE_UNAVAILABLE and "retry-after" in response.headers
    if is_away or status in _NOT_TAKEN or (status >= 500 and status in not_taken):
        return temporary_failure(response, text)
    if status >= 500:
        return UnknownOutcome(text)
    if status in _REFUSES_US:
        return CredentialsRefused(text)
    if status >= 400:
        return PermanentFailure(text)
    return UnknownOutcome(text)


def temporary_failure(response: httpx.Response, detail: str, *, throttled: bool = False) -> TemporaryFailure:
    """A failure that ends after the time that the answer asks for in Retry-After."""
    wait = retry_after(response.headers, datetime.now(UTC))
    return TemporaryFailure(detail, retry_after=wait, throttled=throttled)


def outcome_of_code(
    response: httpx.Response,
    code: object,
    detail: str,
    *,
    throttled: Container[object] = (),
    temporary: Container[object] = (),
    refuses_us: Container[object] = (),
    permanent: Container[object] = (),
    opted_out: Container[object] = (),
    in_doubt: Container[object] = (),
    not_taken: Container[int] = (),
) -> ProviderFailure | None:
    """The failure that a vendor's own code means, or else the status: a code says more, with any status.

    After a `temporary` code the vendor has not taken the message.
    """
    if code in throttled or code in temporary:
        return temporary_failure(response, detail, throttled=code in throttled)
    if code in refuses_us:
        return CredentialsRefused(detail)
    if code in opted_out:
        return RecipientRefused(detail)
    if code in permanent:
        return PermanentFailure(detail)
    if code in in_doubt:
        return UnknownOutcome(detail)
    return outcome_of(response, detail, not_taken=not_taken)


def failure_behind(error: Exception) -> Exception:
    """The failure that an error of httpx means, raised by a provider that does not read answers itself.

    Any other error is returned as it is.
    """
    if isinstance(error, httpx.HTTPStatusError):
        return outcome_of(error.response) or error
    if isinstance(error, _LEFT):
        return UnknownOutcome(f"The request left, and no answer came: {type(error).__name__}")
    return error


def reason_in(response: httpx.Response, *path: str | int) -> str | None:
    """The beginning of the text at a path in a JSON answer, or None."""
    text = text_at(response, *path)
    return text and text[:_LONGEST_REASON]


def text_at(response: httpx.Response, *path: str | int) -> str | None:
    """The text at a path in a JSON answer, such as `"errors", 0, "message"`, or None."""
    try:
        found = read_json(response.content)
        for step in path:
            found = found[step]
    except (ValueError, TypeError, KeyError, IndexError):
        return None
    return found if isinstance(found, str) else None


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """The seconds that Retry-After asks for, as number or HTTP date (RFC 9110, 10.2.3), bounded; None for anything
    else.

    Zero for a negative number or a past date. `now` is the aware time that a date is measured from.
    """
    written = next((value for name, value in headers.items() if name.lower() == "retry-after"), "").strip()
    if _SECONDS.fullmatch(written):
        return bounded(float(written))
    try:
        until = parsedate_to_datetime(written)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if until.tzinfo is None:  # an HTTP date is in GMT, also in the form that doesn't say so
        until = until.replace(tzinfo=UTC)
    return bounded((until - now).total_seconds())


def bounded(seconds: float) -> float:
    """Seconds to wait: not negative, at most `LONGEST_RETRY_AFTER`."""
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


ProviderSettings = TypeVar("ProviderSettings", bound=HttpVendorSettings)
#: The failure that an answer means; None for one that accepts the message.
FailureOf = Callable[[httpx.Response], ProviderFailure | None]


class HttpProvider(BaseProvider, Generic[ProviderSettings]):
    """A vendor with an HTTP API. `close` it; a client that was handed in stays open."""

    def __init__(self, settings: ProviderSettings, client: httpx.AsyncClient | None = None) -> None:
        self._settings = settings
        self._given = client
        self._made: tuple[asyncio.AbstractEventLoop, httpx.AsyncClient] | None = None
        self.vendor_files = VendorFiles()

    @property
    def client(self) -> httpx.AsyncClient:
        """The client that was handed in, or one of this event loop: connections can't be shared between loops."""
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        if self._made is None or self._made[0] is not loop:
            self._made = loop, new_client(self._settings.timeout_seconds)
        return self._made[1]

    async def answer(self, request: httpx.Request, failure: FailureOf = outcome_of) -> httpx.Response:
        """Send a request; the answer, if it is no failure.

        `failure` reads the vendor's own codes, where they say more than the status. Raises the failure that the
        answer means, and what `exchange` raises.
        """
        response = await exchange(self.client, request)
        if found := failure(response):
            raise found
        return response

    async def submit(self, request: httpx.Request, *id_path: str | int, failure: FailureOf = outcome_of) -> str:
        """Send a request that hands a message over; the vendor's id, at a path in the JSON answer (`"data", "id"`).

        Raises as `answer` does, and `UnknownOutcome` for an answer without an id.
        """
        response = await self.answer(request, failure)
        id = text_at(response, *id_path)
        if not id or len(id) > LONGEST_ID:
            raise UnknownOutcome(f"{response.status_code} without an id: the answer can't be read.")
        return id

    async def close(self) -> None:
        made, self._made = self._made, None
        if made is not None:
            await made[1].aclose()
