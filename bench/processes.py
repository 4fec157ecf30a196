"""Programs that the benchmark starts in a clean environment, and stops after use."""

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO

import psutil

from app.config import Settings
from bench.load import PATIENCE, Plan, Seen

HOST = "127.0.0.1"
_ROOT = Path(__file__).resolve().parent.parent
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
#: Ends a program in order. Windows has no SIGTERM.
_IN_ORDER: int = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)
_numbers = itertools.count()


class BenchError(Exception):
    """The measurement is impossible, for the reason in the text."""


@dataclass(frozen=True)
class Server:
    """A server that takes connections on `port`."""

    port: int
    process: asyncio.subprocess.Process
    output: Path  #: its log


@dataclass(frozen=True)
class Site:
    """A directory for the files of programs, and the settings of all services that run there."""

    directory: Path
    settings: Mapping[str, str]

    def service(self, *, worker_enabled: bool, **settings: str) -> AbstractAsyncContextManager[Server]:
        """The service, once it takes connections."""
        port = free_port()
        settings |= {**self.settings, "HOST": HOST, "PORT": str(port), "WORKER_ENABLED": str(worker_enabled)}
        return serving(self.directory, ["-m", "app", "serve"], port, **settings)

    def comparators(self, answers: Mapping[str, object] | None = None) -> AbstractAsyncContextManager[Server]:
        """The endpoints of `bench.comparators`, which give these answers to reads."""
        port, file = free_port(), self.directory / "answers.json"
        file.write_text(json.dumps(answers or {}), encoding="utf-8")
        return serving(self.directory, ["-m", "bench.comparators", str(port), str(file)], port)

    async def load(self, server: Server, plan: Plan) -> tuple[Seen, float]:
        """The load generator's results, and the server's microseconds of processor time for each request."""
        words = [sys.executable, "-m", "bench.load", json.dumps({**asdict(plan), "port": server.port})]
        before = cpu_seconds(server.process)
        said = await answer_of(words, self.directory, within_seconds=plan.seconds + 2 * PATIENCE)
        seen = Seen(**json.loads(said))
        used = cpu_seconds(server.process) - before
        return seen, used * 1e6 / max(seen.answered, 1)


@asynccontextmanager
async def serving(directory: Path, words: Sequence[str], port: int, **settings: str) -> AsyncIterator[Server]:
    """Python with the arguments `words`, once it takes connections on `port`. It is stopped in order on exit."""
    output = directory / f"server-{port}.log"
    async with started([sys.executable, *words], directory, settings, output=output) as process:
        await until(partial(_answers, port), process, output, within_seconds=_START_SECONDS)
        yield Server(port, process, output)


async def until(
    is_so: Callable[[], Awaitable[bool]],
    process: asyncio.subprocess.Process,
    output: Path,
    *,
    within_seconds: float,
    look_seconds: float = 0.05,
) -> None:
    """Wait until the condition holds.

    Raises `BenchError` with the end of `output` if the program ends first or the time is over.
    """
    try:
        async with asyncio.timeout(within_seconds):
            while not await is_so():
                if process.returncode is not None:
                    raise BenchError(f"{output.stem} ended by itself:\n{_ending(output)}")
                await asyncio.sleep(look_seconds)
    except TimeoutError:
        raise BenchError(f"{output.stem} took longer than {within_seconds:g} seconds:\n{_ending(output)}") from None


def cpu_seconds(process: asyncio.subprocess.Process) -> float:
    """The processor time of a program since its start, in user code and in the kernel."""
    parent = psutil.Process(process.pid)
    family = [parent, *parent.children(recursive=True)]  # on Windows a venv's Python is a child
    return sum(times.user + times.system for times in (one.cpu_times() for one in family))


async def answer_of(words: Sequence[str], directory: Path, *, within_seconds: float, **settings: str) -> str:
    """The standard output of a program. Raises `BenchError` if it fails or takes too long."""
    number = next(_numbers)  # several run at once
    output, errors = directory / f"answer-{number}.txt", directory / f"errors-{number}.txt"
    async with started(words, directory, settings, output=output, errors=errors) as process:
        try:
            code = await asyncio.wait_for(process.wait(), within_seconds)
        except TimeoutError:
            raise BenchError(f"{words[0]} has not ended after {within_seconds:g} seconds") from None
    if code != 0:
        raise BenchError(f"{' '.join(words)} failed:\n{_ending(errors)}")
    return output.read_text(encoding="utf-8")


@asynccontextmanager
async def started(
    words: Sequence[str], directory: Path, settings: Mapping[str, str], *, output: Path, errors: Path | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that runs in `directory`, without Ctrl-C reaching it. It is stopped on exit, also after an error."""
    with _emptied(output) as out, _emptied(errors or output) as err:
        process = await asyncio.create_subprocess_exec(
            *words,
            cwd=directory,
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    try:
        yield process
    finally:
        await _stop(process)


def _emptied(path: Path) -> IO[bytes]:
    path.write_bytes(b"")
    return path.open("ab")


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Our environment without settings of the service, of the simulator and of libpq, plus `settings`.

    So the defaults apply, and no real provider or database is used. A program's directory has no `.env` either.
    """
    ours = {name: value for name, value in os.environ.items() if not name.upper().startswith(("PG", "SIMULATOR_"))}
    kept = {name: value for name, value in ours.items() if name.lower() not in Settings.model_fields}
    return {**kept, "PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1", **settings}


@asynccontextmanager
async def answering(answer: Callable[[str, bytes], Awaitable[bytes]]) -> AsyncIterator[int]:
    """A small HTTP server in this process; gives its port. `answer` gets path and body, and returns all bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                path = head.split(b" ", 2)[1].decode()
                size = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
                writer.write(await answer(path, await reader.readexactly(size)))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the service or the measurement has ended
        finally:
            writer.transport.abort()

    listener = await asyncio.start_server(serve, HOST, 0, backlog=1000)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


def free_port() -> int:
    """A free port of loopback."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    try:
        process.send_signal(_IN_ORDER)
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except ProcessLookupError:
        await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _ending(output: Path) -> str:
    return "\n".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
