"""Keeps callers who have written from reading a replica that lacks what they wrote.

An answer to a change has the header `Read-After`, the time by which it was committed. This process remembers it for
the caller. A client that sends it back, as browsers do by a cookie, reads its writes in every process.
"""

import re
import time
from datetime import UTC, datetime

from starlette.types import Message, Scope, Send

from app.config import Settings
from app.db.connectivity.replica import written_at
from app.errors import FieldError, InvalidRequest
from app.http.browser.cookies import cookies_of, is_secure
from app.http.browser.requests import SAFE_METHODS, needs_session

HEADER = b"read-after"
_COOKIE = b"messaging_read_after"
_TIME = re.compile(rb"[0-9]{1,15}")  # milliseconds
#: The difference that the clocks of two machines may have.
_SKEW_SECONDS = 1.0
_EVER = 0.0
#: A part of a page is asked for after an event, and must not be older. The hits of a search always may be.
_SEARCH = "/inbox/search"


class ReadYourWrites:
    """Tells reads, by `written_at`, which writes they have to show."""

    def __init__(self, settings: Settings) -> None:
        #: By then a replica has it, or is too far behind to be read.
        self._seconds = settings.database_read_lag_seconds + _SKEW_SECONDS
        self._written: dict[tuple[int, str | None], float] = {}

    def begin(self, scope: Scope, send: Send) -> Send:
        """Set `written_at` for a request that was let in; returns a `send` that tells the caller of a change.

        Raises `InvalidRequest` for a header that is not a time.
        """
        access = scope.get("state", {}).get("access")
        if access is None:
            written_at.set(None)
            return send
        caller = access.tenant_id, access.prefix
        if scope["method"] in SAFE_METHODS:
            written_at.set(self._to_show(scope, caller))
            return send
        written_at.set(None)

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *self._note(scope, caller)]}
            await send(message)

        return telling

    def _to_show(self, scope: Scope, caller: tuple[int, str | None]) -> float | None:
        path, headers = scope["path"], scope["headers_by_name"]
        if needs_session(path) and path != _SEARCH and b"hx-request" in headers:
            return None
        told = [_moment(headers[HEADER])] if HEADER in headers else []
        told += [int(value) / 1000 for name, value in cookies_of(scope) if name == _COOKIE and _TIME.fullmatch(value)]
        told = [min(each, time.time()) for each in told]
        return max([self._written.get(caller, _EVER), *told]) + _SKEW_SECONDS

    def _note(self, scope: Scope, caller: tuple[int, str | None]) -> list[tuple[bytes, bytes]]:
        """Remember a change that is committed by now; returns the headers that tell of it."""
        now = time.time()
        self._written.pop(caller, None)
        self._written[caller] = now
        while (oldest := next(iter(self._written))) != caller and self._written[oldest] < now - self._seconds:
            del self._written[oldest]
        headers = [(HEADER, datetime.fromtimestamp(now, UTC).isoformat().encode())]
        if needs_session(scope["path"]):
            secure = "; Secure" if is_secure(scope) else ""
            lasts = f"Path=/; Max-Age={self._seconds:.0f}; HttpOnly; SameSite=Strict{secure}"
            headers.append((b"set-cookie", b"%b=%d; %b" % (_COOKIE, now * 1000, lasts.encode())))
        return headers


def _moment(written: bytes) -> float:
    try:
        moment = datetime.fromisoformat(written.decode("ascii"))
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        error = FieldError("header.Read-After", "send the time that an answer had in this header")
        raise InvalidRequest("The header Read-After is not a time.", errors=[error]) from None
