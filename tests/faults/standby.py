"""An asynchronous standby of the faults' PostgreSQL, and one address for both servers."""

import asyncio
import json
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg2
from sqlalchemy.engine import make_url

from app.db.embedded.programs import find_programs
from tests.conftest import execute
from tests.faults.rig import Postgres
from tests.live import free_port


class Standby(Postgres):
    """A copy that follows a primary, until it is cut off from it, and can be promoted."""

    def __init__(self, directory: Path, primary: Postgres) -> None:
        place = directory / "postgres"
        files = place / "data"
        files.mkdir(mode=0o700, parents=True)
        programs = find_programs(None, place)
        programs.own(files)
        with (directory / "backup.log").open("wb") as output:
            words = ("-D", str(files), "-d", primary.url, "--checkpoint=fast", "--write-recovery-conf")
            done = programs.run("pg_basebackup", *words, cwd=place, output=output)
        assert done.returncode == 0, (directory / "backup.log").read_text()
        url = make_url(primary.url)
        login = {"password": url.password, "port": free_port(), "major": programs.major}
        (place / "conn.json").write_text(json.dumps(login))
        self._serve(directory, wal_retrieve_retry_interval="200ms")

    def has_all_of(self, primary: Postgres) -> bool:
        """Tell if everything that the primary has written by now is replayed here."""
        written = value_of(primary.url, "SELECT pg_current_wal_lsn()")
        return bool(value_of(self.url, f"SELECT pg_last_wal_replay_lsn() >= '{written}'"))

    def cut_off(self) -> None:
        """Let it get nothing more. What the primary commits from now on is lost with it."""
        execute(self.url, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")

    def is_cut_off(self) -> bool:
        return not value_of(self.url, "SELECT count(*) FROM pg_stat_wal_receiver")

    def promote(self) -> None:
        assert value_of(self.url, "SELECT pg_promote()")


def value_of(url: str, question: str) -> Any:
    """The one value that a question to a server is answered with."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(question)
        row = cursor.fetchone()
    assert row is not None
    return row[0]


class Switch(Thread):
    """One address for whichever server is the primary. It has a thread, so that no test slows it down."""

    def __init__(self, target: str) -> None:
        super().__init__(daemon=True)
        self.port = free_port()
        self.lead_to(target)
        self._loop = asyncio.new_event_loop()

    def lead_to(self, url: str) -> None:
        """Lead new connections to another server. Those of a server that dies end with it."""
        self._target = make_url(url).port

    def run(self) -> None:
        self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", self.port))
        self._loop.run_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pump(reader, to_server), _pump(from_server, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()
