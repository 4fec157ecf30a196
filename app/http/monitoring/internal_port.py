"""The port of the figures: the same processes serve it, and at it there is nothing of the API."""

from starlette.types import ASGIApp, Receive, Scope, Send


class InternalPort:
    """Hands the requests at METRICS_PORT to an application of their own, before any check or limit.

    The port is that of our socket, so no header can change it.
    """

    def __init__(self, app: ASGIApp, internal: ASGIApp, *, port: int) -> None:
        self._app = app
        self._internal = internal
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_internal = scope["type"] == "http" and is_at(scope.get("server"), self._port)
        await (self._internal if is_internal else self._app)(scope, receive, send)


def is_at(server: tuple[str, int | None] | None, port: int | None) -> bool:
    """True if this is the address of a socket with that port; a Unix socket has none."""
    return port is not None and server is not None and server[1] == port
