"""The HTTP simulator as a process: its start, its signals, and its ledger after a kill."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.commands.simulate import add_arguments, run
from app.errors import ConfigurationError
from app.providers.base import (
    UnknownOutcome,
)
from app.providers.simulator import SimulatorProvider, configured
from app.simulator.application import create_simulator
from tests.conftest import make_settings
from tests.live import LOCAL, free_port
from tests.providers import outbound, simulator_settings

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


class Process:
    """The command as a process on a port of its own; restarts keep its ledger."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.ledger = directory / "of" / "ledger.jsonl"
        self._options = options
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", str(self.port), "--ledger", str(self.ledger), *self._options]
        self._running = subprocess.Popen([sys.executable, "-m", "app", "simulate", *options], cwd=ROOT)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._running.poll() is None, "it ended by itself"
            with contextlib.suppress(httpx.TransportError):
                self.summary()
                return
        raise AssertionError("it did not start")

    def end(self, name: signal.Signals) -> int:
        assert self._running is not None
        self._running.send_signal(name)
        return self._running.wait(20)

    def summary(self) -> dict[str, int]:
        answer: dict[str, int] = httpx.get(f"{self.url}/ledger/summary", verify=LOCAL).json()
        return answer

    def close(self) -> None:
        if self._running is not None and self._running.poll() is None:
            self._running.kill()
            self._running.wait()


def test_there_is_no_such_provider_without_an_address_or_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIMULATOR_URL", raising=False)
    monkeypatch.setenv("ENV", "development")
    assert configured() is None
    monkeypatch.setenv("SIMULATOR_URL", "http://127.0.0.1:9100")
    assert isinstance(configured(), SimulatorProvider)
    monkeypatch.setenv("ENV", "production")
    assert configured() is None


def test_it_never_starts_in_production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="never runs with ENV=production"):
        create_simulator(simulator_settings(ENV="production"), tmp_path / "ledger.jsonl", None)
    monkeypatch.setenv("ENV", "production")
    with pytest.raises(ConfigurationError, match="never runs with ENV=production"):
        run(make_settings(), arguments("--ledger", str(tmp_path / "ledger.jsonl")))
    assert list(tmp_path.iterdir()) == []


def arguments(*written: str) -> Namespace:
    parser = ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(written)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path, "--seed", "7", "--mix", "ok:1")
    yield process
    process.close()


@pytest.mark.slow
async def test_a_killed_simulator_takes_up_what_it_had_accepted_and_refused(process: Process) -> None:
    process.start()
    provider = SimulatorProvider(settings=simulator_settings(url=process.url))
    accepted, failing, torn = outbound(), outbound("+15005550300"), outbound("+15005550700")
    first = await provider.send(accepted)
    with pytest.raises(UnknownOutcome):
        await provider.send(failing)
    with pytest.raises(UnknownOutcome):
        await provider.send(torn)
    process.end(signal.SIGKILL)
    with process.ledger.open("ab") as ledger:
        ledger.write(b'{"reference": "half a li')  # as after a kill during a write
    process.start()
    assert process.summary() == {"accepted": 2, "distinct": 2, "duplicates_refused": 0}
    assert await provider.send(accepted) == first
    with pytest.raises(UnknownOutcome):
        await provider.send(failing)
    await provider.send(failing)  # the third request, counted over the restart
    assert await provider.look_up(torn) == await provider.send(torn)
    assert process.summary() == {"accepted": 3, "distinct": 3, "duplicates_refused": 2}
    assert all(json.loads(line) for line in process.ledger.read_text(encoding="utf-8").splitlines())
    await provider.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process could obey")
@pytest.mark.parametrize(("name", "to"), [(signal.SIGTERM, "+15005550800"), (signal.SIGINT, "+15005550100")])
async def test_a_signal_ends_it_in_order_and_denies_nothing_to_those_it_kept_waiting(
    process: Process, name: signal.Signals, to: str
) -> None:
    process.start()
    provider = SimulatorProvider(settings=simulator_settings(url=process.url))
    waiting = asyncio.create_task(provider.send(outbound(to)))
    async with asyncio.timeout(60):
        while process.summary()["accepted"] == 0:  # noqa: ASYNC110 - it waits for another process
            await asyncio.sleep(0.01)
    assert await asyncio.to_thread(process.end, name) == 0
    with pytest.raises(UnknownOutcome):
        await waiting
    await provider.close()
