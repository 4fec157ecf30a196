"""HAProxy, as Debian has it, in front of web processes: it asks `/readyz`, and retries a refused connection."""

import csv
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.live import LOCAL, free_port

PROGRAM = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin")
#: Milliseconds between two checks of a process. It is taken out after two that fail, however long each takes.
CHECK_MS = 200

_CONFIGURATION = """
defaults
    mode http
    log stdout format raw daemon
    option httplog
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout check 30s
    option redispatch 1
    default-server check inter {check}ms fall 2 rise 1
frontend clients
    bind 127.0.0.1:{port}
    default_backend service
frontend figures
    bind 127.0.0.1:{figures}
    stats enable
    stats uri /
backend service
    balance roundrobin
    option httpchk GET /readyz
    http-check expect status 200
{servers}
"""


class HaProxy:
    """A running proxy, which clients reach at `port`."""

    def __init__(self, directory: Path, ports: Sequence[int]) -> None:
        assert PROGRAM is not None
        self.port, self._figures = free_port(), free_port()
        servers = "\n".join(f"    server process{number} 127.0.0.1:{port}" for number, port in enumerate(ports))
        written = _CONFIGURATION.format(check=CHECK_MS, port=self.port, figures=self._figures, servers=servers)
        file = directory / "haproxy.cfg"
        file.write_text(written)
        self._log = (directory / "haproxy.log").open("wb")
        self.process = subprocess.Popen([PROGRAM, "-db", "-f", str(file)], stdout=self._log, stderr=self._log)

    def is_up(self, number: int) -> bool:
        """True if the proxy hands requests to a process."""
        try:
            answer = httpx.get(f"http://127.0.0.1:{self._figures}/;csv", verify=LOCAL)
        except httpx.TransportError:
            return False
        lines = csv.DictReader(answer.text.removeprefix("# ").splitlines())
        return any(line["svname"] == f"process{number}" and line["status"] == "UP" for line in lines)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        self._log.close()


@contextmanager
def haproxy(directory: Path, ports: Sequence[int]) -> Iterator[HaProxy]:
    proxy = HaProxy(directory, ports)
    try:
        yield proxy
    finally:
        proxy.stop()
