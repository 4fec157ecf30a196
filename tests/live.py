"""The service as a process of its own, for tests that kill it."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

_ROOT = Path(__file__).parent.parent
#: For `verify` of httpx, where no TLS is spoken. Reading the certificates of all authorities takes 30 ms a client,
#: which a polling test would take from the process that it waits for.
LOCAL = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL for each in this order; returns when they have ended."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=60)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class LiveProcess:
    """`python -m app …` as a process; started again, it has the same environment and goes on with its log."""

    def __init__(self, log: Path, *words: str, module: str = "app", **environment: str) -> None:
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [sys.executable, "-m", module, *words]
        self._environment = environment

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=_ROOT, env=environment | self._environment, stdout=log, stderr=log
            )

    def wait_until(self, is_ready: Callable[[], bool], *, within_seconds: float = 120) -> None:
        """Wait for a condition, as long as the process lives."""
        assert self.process is not None
        deadline = time.monotonic() + within_seconds
        while not is_ready():
            assert self.process.poll() is None, f"it ended by itself:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"not within {within_seconds} seconds:\n{self.log.read_text()}"
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, as when the machine's memory runs out: nothing of ours gets to tidy up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, name: signal.Signals = signal.SIGTERM) -> int:
        """End it in order; returns its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(name)
        return self.process.wait(timeout=60)


class LiveServer(LiveProcess):
    """`serve` on a port and a data directory of its own; restarts keep both."""

    def __init__(self, directory: Path, *, port: int = 0, module: str = "app", **environment: str) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = directory / "data"
        own = {"PORT": str(self.port), "DATA_DIR": str(self.data_dir)}
        super().__init__(directory / "server.log", "serve", module=module, **own, **environment)

    def start(self, *, within_seconds: float = 120) -> None:
        """Start it and wait until it is ready."""
        self.launch()
        try:
            self.wait_until(self.is_ready, within_seconds=within_seconds)
        except BaseException:
            self.kill()  # its fixture has not come to its end, and will not
            raise

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", verify=LOCAL).status_code == 200
        except httpx.TransportError:
            return False

    def kill_postgres(self) -> None:
        """SIGKILL for the embedded server, the parent first, so that it can't restart its children."""
        kill_all(sorted(self.postgres_processes(), key=psutil.Process.create_time))

    def wait_for_postgres_to_end(self) -> None:
        """The embedded server is stopped once its lock file is gone. Its process ends a moment later."""
        _, alive = psutil.wait_procs(self.postgres_processes(), timeout=120)
        assert not alive

    def postgres_processes(self) -> list[psutil.Process]:
        """The embedded server and its children, told by the data directory on the parent's command line."""
        found = []
        for process in psutil.process_iter(["name", "cmdline"]):
            command = process.info["cmdline"] or []
            if "postgres" in (process.info["name"] or "") and any(str(self.data_dir) in part for part in command):
                with suppress(psutil.NoSuchProcess):  # it is just ending
                    found += [process, *process.children(recursive=True)]
        return found
