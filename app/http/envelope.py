"""The parts that all answers share: a request id, security headers, and a problem document for an error.

This layer is outside the framework, so that the framework's own answers get them too.
"""

import os
import re
import time
from collections.abc import Iterator

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config import Settings
from app.http.browser.headers import HEADERS, shown_at
from app.http.monitoring.measured import MEASURED
from app.http.problems import answer_to
from app.log import begin_request
from app.web.unsubscribe import STYLE_SOURCE

log = structlog.get_logger(__name__)

Headers = list[tuple[bytes, bytes]]

#: The key of the scope of a HEAD, whose method reads GET: an answer that waits need not wait for it.
IS_HEAD = "is_head"

_WELL_FORMED_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

_EVERYWHERE: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]
_DATA: Headers = [
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
]
#: For the API reference, whose files are revalidated at every visit. Swagger UI sets style attributes and shows
#: images from data URLs; its scripts are files.
_REFERENCE: Headers = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"cache-control", b"no-cache"),
]
#: For the pages of unsubscribe links, which have a form and no script. Their addresses are secret.
_PAGES: Headers = [
    (
        b"content-security-policy",
        f"default-src 'none'; style-src {STYLE_SOURCE}; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'".encode(),
    ),
    (b"cache-control", b"no-store"),
    (b"x-robots-tag", b"noindex, nofollow"),
]
#: For the pages of the inbox, whose scripts and styles are files of ours.
_PREFLIGHT: Headers = [
    (b"access-control-allow-methods", b"GET, POST, PATCH, DELETE"),
    (
        b"access-control-allow-headers",
        b"Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Prefer, X-Request-Id",
    ),
    (b"access-control-max-age", b"600"),
]
_EXPOSED = (
    b"Idempotent-Replayed, Link, Location, Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id"
)


def data_headers(settings: Settings) -> Headers:
    """The headers of every answer of the API, besides its request id."""
    return [*_EVERYWHERE, *_DATA, *_transport_security(settings)]


def request_ids() -> Iterator[bytes]:
    """Endless ids of 96 random bits. Many are drawn at a time, because the system call costs more than the rest."""
    while True:
        drawn = os.urandom(12 * 256).hex().encode()
        for start in range(0, len(drawn), 24):
            yield drawn[start : start + 24]


def id_for(given: bytes | None, ids: Iterator[bytes]) -> bytes:
    """The caller's id, if it is well-formed, or else the next of ours."""
    return next(ids) if given is None or not _WELL_FORMED_ID.fullmatch(given) else given


class Envelope:
    """Gives every answer its headers and an `X-Request-Id`, the caller's own where that is well-formed.

    The id is bound to the log context of the request. HEAD is answered wherever GET is, without the body. An error is
    answered as a problem, unless the answer has begun: then the server closes the connection. The origins of
    `CORS_ORIGINS` may read answers, and their preflight is answered here; other origins get no CORS header.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._data = data_headers(settings)
        self._reference = [*_EVERYWHERE, *_REFERENCE, *_transport_security(settings)]
        self._pages = [*_EVERYWHERE, *_PAGES, *_transport_security(settings)]
        self._shown = {
            kind: [*_without(_EVERYWHERE, own), *own, *_transport_security(settings)] for kind, own in HEADERS.items()
        }
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)
        self._access_log = settings.access_log
        self._ids = request_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = scope["headers_by_name"] = dict(scope["headers"])
        id_ = id_for(given.get(b"x-request-id"), self._ids)
        begin_request(id_.decode())
        added = self._headers_at(scope["path"])
        added = [(b"x-request-id", id_), *added]
        scope["answer_headers"] = added  # inner layers add to it
        method = scope["method"]
        preflight = False
        if self._origins:
            added.append((b"vary", b"Origin"))
            if given.get(b"origin") in self._origins:
                added.append((b"access-control-allow-origin", given[b"origin"]))
                added.append((b"access-control-expose-headers", _EXPOSED))
                preflight = method == "OPTIONS" and b"access-control-request-method" in given
        if method == "HEAD":
            scope = {**scope, "method": "GET", IS_HEAD: True}
        status = 0
        measured = scope.get(MEASURED)
        began = time.perf_counter() if self._access_log else 0.0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                if measured is not None:
                    measured.status = status
                message["headers"] = [*message["headers"], *added]
            elif method == "HEAD":
                message["body"] = b""
            await send(message)

        try:
            if preflight:
                added += _PREFLIGHT
                await Response(status_code=204)(scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        except Exception as error:
            if status:
                raise
            response = await answer_to(Request(scope, receive), error)
            await response(scope, receive, answer)
        finally:
            if self._access_log:
                duration = round((time.perf_counter() - began) * 1000, 1)
                log.info("request", method=method, path=scope["path"], status=status, duration_ms=duration)

    def _headers_at(self, path: str) -> Headers:
        if path.startswith("/api/"):
            return self._data
        if path.startswith("/u/"):
            return self._pages
        if (kind := shown_at(path)) is not None:
            return self._shown[kind]
        return self._reference if path.startswith("/docs") else self._data


def _without(headers: Headers, replaced: Headers) -> Headers:
    names = {name for name, _ in replaced}
    return [each for each in headers if each[0] not in names]


def _transport_security(settings: Settings) -> Headers:
    """The HSTS header, where clients reach us by TLS. It would lock out an installation without."""
    if not (settings.public_url or "").lower().startswith("https://"):
        return []
    return [(b"strict-transport-security", b"max-age=31536000")]  # a year
