"""The service as a process of its own, for tests that kill it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

_ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class LiveServer:
    """`python -m app serve` on a port and a data directory of its own; restarts keep both."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = directory / "data"
        self.log = directory / "server.log"
        self._environment = environment
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, within_seconds: float = 30) -> float:
        """Start it and wait until it is ready; returns the seconds that took."""
        began = time.monotonic()
        environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        environment |= {"PORT": str(self.port), "DATA_DIR": str(self.data_dir), **self._environment}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app", "serve"], cwd=_ROOT, env=environment, stdout=log, stderr=log
            )
        while time.monotonic() - began < within_seconds:
            assert self.process.poll() is None, f"it ended by itself:\n{self.log.read_text()}"
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return time.monotonic() - began
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(f"not ready within {within_seconds} seconds:\n{self.log.read_text()}")

    def kill(self) -> None:
        """SIGKILL, as when the machine's memory runs out: nothing of ours gets to tidy up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill_postgres(self) -> None:
        """SIGKILL for the embedded server, the parent first, so that it can't restart its children."""
        processes = self.postgres_processes()
        for process in sorted(processes, key=lambda each: each.create_time()):
            process.kill()
        psutil.wait_procs(processes, timeout=10)

    def stop(self, name: signal.Signals = signal.SIGTERM) -> int:
        """End it in order; returns its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(name)
        return self.process.wait(timeout=30)

    def postgres_processes(self) -> list[psutil.Process]:
        """The embedded server and its children, told by the data directory on the parent's command line."""
        found = []
        for process in psutil.process_iter(["name", "cmdline"]):
            command = process.info["cmdline"] or []
            if "postgres" in (process.info["name"] or "") and any(str(self.data_dir) in part for part in command):
                found += [process, *process.children(recursive=True)]
        return found
