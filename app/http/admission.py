"""What holds before any routing: one spelling of an address, no body over the limit, a short way for hot routes."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config import Settings
from app.errors import AddressTooLong, BadRequest, BodyTooLarge, TooManyHeaders, UnsupportedMediaType
from app.http.access import admit
from app.http.envelope import Headers
from app.http.hot_route import HotRoute
from app.providers.registry import provider_registry

#: A key of the scope where the server has seen that the whole head is no larger than its headers may be.
HEAD_IS_SMALL = "head_is_small"
_CALLBACKS = "/api/webhooks/"


class Admission:
    """Every route answers with a slash at its end and without one; a body over the limit is never read to its end.

    A body whose length is announced is refused at once. One that comes in chunks is counted while it is read, and
    `BodyTooLarge` is raised into whoever reads it. A compressed body is not unpacked: a small one can hold a very
    large one. A POST to one of the `hot` paths is served from here. Errors are raised to the layer around this one.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, hot: Mapping[str, HotRoute]) -> None:
        self._app = app
        self._longest_address = settings.max_url_length
        self._most_headers = settings.max_headers
        self._most_header_bytes = settings.max_header_bytes
        self._limit = settings.max_body_bytes
        self._hot = hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"][:-1]}
        if len(scope["path"]) + len(scope["query_string"]) > self._longest_address:
            raise AddressTooLong(f"An address has at most {self._longest_address} characters.")
        if len(scope["headers"]) > self._most_headers:
            raise TooManyHeaders(f"A request has at most {self._most_headers} headers.")
        if HEAD_IS_SMALL not in scope and _size(scope["headers"]) > self._most_header_bytes:
            raise TooManyHeaders(f"The headers of a request have at most {self._most_header_bytes} bytes.")
        headers = scope["headers_by_name"]
        if (b"host" not in headers and scope["http_version"] != "1.0") or (
            len(headers) != len(scope["headers"]) and [name for name, _ in scope["headers"]].count(b"host") > 1
        ):
            raise BadRequest("A request names its host, and once.")
        await admit(scope)
        route = self._hot.get(scope["path"]) if scope["method"] == "POST" else None
        limit = self._limit if route is not None else self._limit_of(scope["path"])
        length = headers.get(b"content-length")
        if length is None:
            receive = _counted(receive, limit)
        elif not length.isdigit():
            raise BadRequest("The Content-Length is not a number.")
        elif int(length[:20]) > limit:
            raise _too_large(limit)
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise UnsupportedMediaType("Send the body as it is, without a Content-Encoding.")
        if route is None:
            await self._app(scope, receive, send)
        else:
            await route.serve(scope, receive, send)

    def _limit_of(self, path: str) -> int:
        """What a provider calls back with has a limit of the provider's own: a mail that is refused is lost."""
        provider = provider_registry.get(path.removeprefix(_CALLBACKS)) if path.startswith(_CALLBACKS) else None
        return self._limit if provider is None else provider.largest_callback


def _size(headers: Headers) -> int:
    return sum([len(name) + len(value) for name, value in headers])


def _counted(receive: Receive, limit: int) -> Receive:
    size = 0

    async def counting() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise _too_large(limit)
        return message

    return counting


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit} bytes.")
