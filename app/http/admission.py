"""The checks before routing: a request's address, headers and body size, and whether its key may do what it asks."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config import Settings
from app.errors import AddressTooLong, BadRequest, BodyTooLarge, TooManyHeaders, UnsupportedMediaType
from app.http.access import admit, template_of
from app.http.browser.forms import needs_token, with_token_checked
from app.http.envelope import Headers
from app.http.hot_route import HotRoute
from app.http.monitoring.measured import note_route
from app.http.read_route import ReadRoute, plain_path
from app.http.read_your_writes import ReadYourWrites
from app.providers.registry import provider_registry

#: The key of the scope under which the server says that the whole head is within the limit for headers.
HEAD_IS_SMALL = "head_is_small"
_CALLBACKS = "/api/webhooks/"
_UPLOADS = {"/api/files", "/inbox/files"}
#: Bytes that a form has around its file.
_FORM_BYTES = 10_000
#: Bytes of a body, where it holds many things at once.
_LARGE = {"/api/suppressions/batch": 5_000_000, "/api/batches": 1_000_000_000}


class Admission:
    """Checks a request, then hands it to its hot or read route, or to the application. Errors are raised outwards.

    A path is served with a slash at its end and without. A body over the limit is never read to its end: its
    announced length is checked first, and one in chunks is counted. A compressed body is refused, because a small one
    can hold a very large one.
    """

    def __init__(
        self, app: ASGIApp, *, settings: Settings, hot: Mapping[str, HotRoute], reads: Mapping[str, ReadRoute]
    ) -> None:
        self._app = app
        self._longest_address = settings.max_url_length
        self._most_headers = settings.max_headers
        self._most_header_bytes = settings.max_header_bytes
        self._limit = settings.max_body_bytes
        self._uploads = settings.file_max_bytes + _FORM_BYTES
        self._hot = hot
        self._reads = reads
        self._own_writes = ReadYourWrites(settings) if settings.database_read_url else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"][:-1]}
        path, method = scope["path"], scope["method"]
        try:
            self._check_head(scope)
            await admit(scope)
        except Exception:
            note_route(scope, template_of(path))
            raise
        if self._own_writes is not None:
            send = self._own_writes.begin(scope, send)
        route = self._hot.get(path) if method == "POST" else None
        receive = _limited(receive, scope, self._limit if route is not None else self._limit_of(path))
        if needs_token(scope):
            receive = await with_token_checked(scope, receive)
        if route is not None:
            note_route(scope, route.path)
            await route.serve(scope, receive, send)
        elif method != "GET" or not await self._read(scope, receive, send):
            try:
                await self._app(scope, receive, send)
            finally:
                if (found := scope.get("route")) is not None:
                    note_route(scope, found.path)

    async def _read(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer a plain read; False if the request is none."""
        template, ids = plain_path(scope["path"])
        route = self._reads.get(template)
        if route is None:
            return False
        note_route(scope, route.path)
        return await route.serve(scope, receive, send, ids)

    def _check_head(self, scope: Scope) -> None:
        if len(scope["path"]) + len(scope["query_string"]) > self._longest_address:
            raise AddressTooLong(f"An address has at most {self._longest_address} characters.")
        headers, by_name = scope["headers"], scope["headers_by_name"]
        if len(headers) > self._most_headers:
            raise TooManyHeaders(f"A request has at most {self._most_headers} headers.")
        if HEAD_IS_SMALL not in scope and _size(headers) > self._most_header_bytes:
            raise TooManyHeaders(f"The headers of a request have at most {self._most_header_bytes} bytes.")
        is_repeated = len(by_name) != len(headers) and [name for name, _ in headers].count(b"host") > 1
        if is_repeated or (b"host" not in by_name and scope["http_version"] != "1.0"):
            raise BadRequest("A request names its host, and once.")

    def _limit_of(self, path: str) -> int:
        """The limit for a body. Uploads have their own, and callbacks their provider's: a refused mail is lost."""
        if path in _UPLOADS:
            return self._uploads
        provider = provider_registry.get(path.removeprefix(_CALLBACKS)) if path.startswith(_CALLBACKS) else None
        return max(self._limit, _LARGE.get(path, 0)) if provider is None else provider.largest_callback


def _size(headers: Headers) -> int:
    return sum([len(name) + len(value) for name, value in headers])


def _limited(receive: Receive, scope: Scope, limit: int) -> Receive:
    """A `receive` that reads at most `limit` bytes. Refuses a body that is announced as larger, or encoded."""
    headers = scope["headers_by_name"]
    length = headers.get(b"content-length")
    if length is not None and not length.isdigit():
        raise BadRequest("The Content-Length is not a number.")
    if length is not None and int(length[:20]) > limit:
        raise _too_large(limit)
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise UnsupportedMediaType("Send the body as it is, without a Content-Encoding.")
    return _counted(receive, limit) if length is None else receive


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
