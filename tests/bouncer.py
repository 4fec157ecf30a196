"""PgBouncer in transaction mode, in front of a server of the tests."""

import os
import shutil
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.live import LiveProcess, free_port

#: Debian has it where a user without rights does not look.
_PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(
    _PROGRAM is None, reason="pgbouncer is not installed (Debian: apt-get install pgbouncer)"
)


class PgBouncer(LiveProcess):
    """A pooler with the defaults of its packages, but for transaction mode and few connections."""

    def __init__(self, directory: Path, server: str, **options: str) -> None:
        assert _PROGRAM is not None
        url, port = make_url(server), free_port()
        self.url = url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        login = f"host=127.0.0.1 port={url.port} user={url.username} password={url.password}"
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": "3",
            "max_client_conn": "200",
            **options,
        }
        directory.mkdir()
        config = directory / "pgbouncer.ini"
        lines = [
            "[databases]",
            f"* = {login}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        config.write_text("\n".join(lines))
        super().__init__(directory / "pgbouncer.log")
        self._command = [_PROGRAM, *_without_root(), str(config)]

    def start(self) -> None:
        self.launch()
        self.wait_until(lambda: b"process up" in self.log.read_bytes())


def _without_root() -> list[str]:
    """The words that have it run as another user, for as root it refuses to."""
    return ["-u", "nobody"] if os.geteuid() == 0 else []
