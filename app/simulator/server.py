"""A server whose responses can hold or reset their connection, as a broken carrier does."""

import asyncio
import socket
import struct
import sys
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

_NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class _TransportInState:
    """Puts the connection's transport into the state that requests see."""

    app_state: dict[str, Any]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)  # type: ignore[misc]


def server_of(app: Starlette, port: int) -> uvicorn.Server:
    """The server for an application that answers with `NoAnswer`, on loopback. Held requests do not delay its end."""
    protocol = cast(type[asyncio.Protocol], type("Protocol", (_TransportInState, AutoHTTPProtocol), {}))
    config = uvicorn.Config(
        app,
        port=port,
        http=protocol,
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


class NoAnswer(Response):
    """No answer: the connection stays open until the client gives up, or is reset at once with `reset`."""

    def __init__(self, *, reset: bool) -> None:
        self._resets = reset

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = cast(asyncio.Transport, scope["state"]["transport"])
        try:
            if self._resets:
                _reset(transport)
            await _disconnected(receive)
        except asyncio.CancelledError:  # the server stops, and its 500 would deny what may be accepted
            _reset(transport)
            await _disconnected(receive)


def _reset(transport: asyncio.Transport) -> None:
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
