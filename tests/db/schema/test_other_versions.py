"""The service on other versions of PostgreSQL than the embedded one: migrations, end-to-end check, backup, restore.

They are taken from where Debian's packages have them, and from OTHER_POSTGRES, a list of directories with `initdb`.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection

from app.backup.restoring import restore
from app.backup.taking import take
from app.db.embedded.programs import Programs, find_programs
from app.db.engine import create_command_engine
from app.db.schema import revisions
from app.db.schema.migrate import migrate
from tests.conftest import database_named, execute, make_settings
from tests.live import LiveServer, free_port

_ROOT = Path(__file__).parents[3]
_DEBIAN = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin")) if (path / "initdb").exists()]
BINDIRS = [*_DEBIAN, *filter(None, os.environ.get("OTHER_POSTGRES", "").split(os.pathsep))]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BINDIRS, reason="no other PostgreSQL (Debian: apt-get install postgresql-15)"),
]


class OtherServer:
    """A server of other programs, in a directory of its own, which lets anyone in on this machine."""

    def __init__(self, directory: Path, bindir: Path) -> None:
        self._place = directory / "other"
        self._place.mkdir()
        self._files = self._place / "data"
        self._files.mkdir(mode=0o700)
        # Found for the embedded server: the user that can run these.
        self._programs: Programs = replace(find_programs(None, self._place), bindir=bindir)
        self._programs.own(self._files)
        self._run("initdb", "--username=app", "--auth=trust", "--encoding=UTF8", "--locale=C")
        self.port = free_port()
        self.url = f"postgresql://app@127.0.0.1:{self.port}/postgres"
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "start", "--silent", "-w", "-o", settings)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--silent", "--mode=immediate")

    def _run(self, name: str, *words: str) -> None:
        with (self._place / "log").open("ab") as log:
            done = self._programs.run(name, "-D", str(self._files), *words, cwd=self._place, output=log)
        assert done.returncode == 0, (self._place / "log").read_text()


@pytest.fixture(params=BINDIRS)
def bindir(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def server(bindir: Path, tmp_path: Path) -> Iterator[OtherServer]:
    server = OtherServer(tmp_path, bindir)
    yield server
    server.stop()


def test_it_is_migrated_served_backed_up_and_restored(bindir: Path, server: OtherServer, tmp_path: Path) -> None:
    execute(server.url, "CREATE DATABASE served", "CREATE DATABASE restored")
    served, restored = (database_named(server.url, name) for name in ("served", "restored"))
    migrate(served)
    engine = create_command_engine(served)
    with engine.connect() as connection:
        assert revisions.differences(connection) == []
        print(f"PostgreSQL {_version(connection)}")
    engine.dispose()

    service = LiveServer(tmp_path, DATABASE_URL=served)
    service.start()
    check = [sys.executable, "bin/e2e.py"]
    done = subprocess.run(
        check, cwd=_ROOT, env=os.environ | {"BASE_URL": service.url}, capture_output=True, text=True, timeout=240
    )
    settings = make_settings(pg_bindir=bindir)
    taken = take(served, settings, tmp_path / "backup")
    assert service.stop() == 0
    assert re.search(r"\n[1-9][0-9]* passed, 0 failed", done.stdout), done.stdout

    restore(restored, settings, tmp_path / "backup", replace=False, keep_queue=False)
    assert taken.manifest.rows["messages"] > 0


def _version(connection: Connection) -> str:
    return str(connection.exec_driver_sql("SHOW server_version").scalar())
