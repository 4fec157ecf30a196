"""The HTTP form, listening in this process on a port of its own."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from app.providers.base import OutboundMessage
from app.providers.simulated.behaviours import SimulatorSettings
from app.providers.simulator import SimulatorProvider
from app.simulator.application import create_simulator
from app.simulator.server import server_of
from tests.live import LOCAL
from tests.providers import simulator_settings


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine takes its time to accept a connection."""
    monkeypatch.setattr("app.providers.toolbox.transport.CONNECT_SECONDS", 60.0)


@asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[str]:
    """The application on a socket of its own in this process; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = server_of(app, 0)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    async with asyncio.timeout(60):
        while not server.started:  # noqa: ASYNC110 - it has no event for that
            await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


class Simulation:
    """A simulator that listens in this process, its provider, and its ledger."""

    def __init__(self, url: str, ledger: Path, settings: SimulatorSettings) -> None:
        self.url = url
        self._ledger = ledger
        self.provider = SimulatorProvider(settings=settings.model_copy(update={"url": url}))

    def lines(self, message: OutboundMessage) -> list[dict[str, Any]]:
        """The lines of the ledger about a message, one for each request."""
        lines = [json.loads(line) for line in self._ledger.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line["reference"] == message.idempotency_key]

    async def summary(self) -> dict[str, int]:
        async with httpx.AsyncClient(verify=LOCAL) as client:
            answer: dict[str, int] = (await client.get(f"{self.url}/ledger/summary")).json()
            return answer


Simulate = Callable[..., Awaitable[Simulation]]


@asynccontextmanager
async def simulating(directory: Path, callback: str | None, settings: SimulatorSettings) -> AsyncIterator[Simulation]:
    ledger = directory / "ledger.jsonl"
    async with served(create_simulator(settings, ledger, callback)) as url:
        simulation = Simulation(url, ledger, settings)
        yield simulation
        await simulation.provider.close()


@pytest.fixture(scope="module")
async def simulation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Simulation]:
    """One that tests share, each with messages of its own; everything goes wrong once."""
    directory = tmp_path_factory.mktemp("simulation")
    async with simulating(directory, None, simulator_settings(failures_before_ok=1)) as simulation:
        yield simulation


@pytest.fixture
async def simulate(tmp_path: Path) -> AsyncIterator[Simulate]:
    """Starts one with settings of its own."""
    async with AsyncExitStack() as stack:

        async def start(callback: str | None = None, **values: object) -> Simulation:
            return await stack.enter_async_context(simulating(tmp_path, callback, simulator_settings(**values)))

        yield start
