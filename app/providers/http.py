"""What vendors with an HTTP API have in common: what an answer means, when to come back, and how an exchange can end
without one."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx

from app.providers.base import (
    CredentialsRefused,
    PermanentFailure,
    ProviderFailure,
    TemporaryFailure,
    UnknownOutcome,
)

#: A day: who asks for more has made a mistake, and must not hold a queue for years.
LONGEST_RETRY_AFTER = 86_400.0
#: An answer to `send` is an id and a few words; what is larger is not read to its end.
LARGEST_ANSWER = 65_536

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
#: The 4xx that speak of the moment, not of the message: Request Timeout, Too Early (RFC 9110, RFC 8470).
_OF_THE_MOMENT = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY}
#: Headers that describe the body as it travelled, no longer as we have it.
_OF_THE_JOURNEY = {"content-encoding", "content-length", "transfer-encoding"}


def bounded(seconds: float) -> float:
    """Seconds that can be waited: not negative, at most `LONGEST_RETRY_AFTER`."""
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """The seconds that Retry-After asks for, as number or HTTP date (RFC 9110, 10.2.3), bounded; None for anything
    else.

    Zero for what is negative or past. `now` is the aware time that a date is measured from.
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


def outcome_of(response: httpx.Response, detail: str | None = None) -> ProviderFailure | None:
    """The failure that a status means, to be raised; None for a 2xx, whose body has the last word.

    `detail` is the vendor's own reason, where its file can tell it.
    """
    status = response.status_code
    text = " ".join(part for part in (str(status), response.reason_phrase, detail and f"- {detail}") if part)
    wait = retry_after(response.headers, datetime.now(UTC))
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return TemporaryFailure(text, retry_after=wait, throttled=True)
    if status >= 500 or status in _OF_THE_MOMENT:
        return TemporaryFailure(text, retry_after=wait)
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return CredentialsRefused(text)
    if status >= 400:
        return PermanentFailure(text)
    return None if 200 <= status < 300 else UnknownOutcome(text)


async def exchange(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """Send a request and read its answer, of any status, up to `LARGEST_ANSWER`; redirects are not followed.

    Raises `TemporaryFailure` if the request never left, and `UnknownOutcome` if it did and no whole answer came.
    """
    try:
        response = await client.send(request, stream=True, follow_redirects=False)
    except _NEVER_LEFT as error:
        raise TemporaryFailure(f"No connection was made: {_told(error)}") from error
    except _LEFT as error:
        raise UnknownOutcome(f"The request left, and no answer came: {_told(error)}") from error
    headers = [(name, value) for name, value in response.headers.multi_items() if name not in _OF_THE_JOURNEY]
    content = await _content(response)
    return httpx.Response(response.status_code, headers=headers, content=content, request=request)


async def _content(response: httpx.Response) -> bytes:
    """The body; where it can't be had, nothing, as long as the status tells the outcome without it."""
    content = b""
    trouble = f"The answer is larger than {LARGEST_ANSWER} bytes."
    try:
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > LARGEST_ANSWER:
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
