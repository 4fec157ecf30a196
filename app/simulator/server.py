"""The server that lets the simulator cut connections."""

import asyncio
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.auto import AutoHTTPProtocol


class _TellsItsTransport:
    """Puts the connection's transport into the state that requests see, for the one who has to cut it."""

    app_state: dict[str, Any]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)  # type: ignore[misc]


def server_of(app: Starlette, port: int) -> uvicorn.Server:
    """The server for `create_simulator`, on loopback; requests that are held don't hold up its end."""
    protocol = cast(type[asyncio.Protocol], type("Protocol", (_TellsItsTransport, AutoHTTPProtocol), {}))
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
