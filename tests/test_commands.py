"""The command line itself: what it says of its commands, and that it loads none but the chosen one."""

import logging
import os
import pkgutil
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from starlette.types import Message

import app.commands
from app.__main__ import installed, main
from app.main import create_app
from tests.cases import each_case
from tests.conftest import make_settings
from tests.logs import captured

_ROOT = Path(__file__).parent.parent
#: Files of `app.commands` that are no command.
_SHARED = {"administering", "event_forwarding", "event_stream"}


def helped(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--help"])
    return capsys.readouterr().out


def test_every_command_is_named_and_shows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    named = helped(capsys)
    for file in pkgutil.iter_modules(app.commands.__path__):
        if file.name not in _SHARED:
            assert re.search(rf"\n    {file.name}\s", named)
            assert f"usage: python -m app {file.name}" in helped(capsys, file.name)
    assert "--reload" in helped(capsys, "serve")
    assert "--expires-in-days" in helped(capsys, "keys", "create")
    assert "add-address" in helped(capsys, "tenants")


@pytest.mark.slow
@each_case(
    ("words", "foreign"),
    [
        ("--help", {"pydantic", "sqlalchemy", "structlog"}),
        ("keys --help", {"alembic", "fastapi", "uvicorn", "app.providers"}),
        ("worker --help", {"alembic", "fastapi", "app.doctor", "app.simulator"}),
        ("serve --help", {"alembic", "app.doctor", "app.simulator"}),
        ("simulate --help", {"alembic", "asyncpg", "fastapi", "app.services"}),
    ],
)
def test_a_command_loads_nothing_that_only_others_need(words: str, foreign: set[str]) -> None:
    asked = f"import sys; sys.argv[1:] = {words.split()}; from app.__main__ import main\n"
    asked += "try: main()\nfinally: print('loaded:', *sys.modules)"
    run = subprocess.run([sys.executable, "-c", asked], cwd=_ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0
    loaded = run.stdout.rpartition("loaded:")[2].split()
    assert "argparse" in loaded
    assert foreign.isdisjoint(loaded)


def test_the_version_is_that_of_the_api(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"messaging-service {app.__version__}\n"
    assert create_app(make_settings()).version == app.__version__


def test_a_program_shows_the_name_by_which_it_was_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APP_COMMAND", "")  # is put back afterwards
    monkeypatch.setattr(sys, "argv", ["/usr/bin/messaging-service"])
    with pytest.raises(SystemExit, match="0"):
        installed()
    assert capsys.readouterr().out.startswith("usage: messaging-service ")


def test_the_command_alone_prints_the_menu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([])
    assert "\n    psql " in capsys.readouterr().out


def test_psql_opens_the_database_that_is_served(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert main(["psql", "--url"]) == 0
    assert capfd.readouterr().out == f"{database_url}\n"
    assert main(["psql", "-Atc", "SELECT current_database()"]) == 0
    assert capfd.readouterr().out == f"{make_url(database_url).database}\n"
    assert main(["psql", "-v", "ON_ERROR_STOP=1", "-c", "SELECT nonsense"]) == 1


@pytest.mark.slow
@each_case("words", ["serve", "simulate --ledger {ledger} --port {port}"])
def test_a_busy_port_is_named_in_one_sentence(database_url: str, tmp_path: Path, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        environment = os.environ | {"DATABASE_URL": database_url, "PORT": str(port)}
        options = words.format(ledger=tmp_path / "ledger.jsonl", port=port).split()
        command = [sys.executable, "-m", "app", *options]
        run = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert f"Port {port} is used by another program" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
@each_case(
    ("words", "environment", "sentence"),
    [
        ("serve", {"DATA_DIR": "{file}"}, "choose another DATA_DIR"),
        ("worker", {"DATA_DIR": "{file}/below"}, "choose another DATA_DIR"),
        ("migrate", {"DATABASE_URL": "postgresql://a:secret@127.0.0.1:1/b"}, "be reached: connection to server"),
        ("serve", {"PORT": "many"}, "PORT: "),
        ("worker", {"HTTP_URL": "ftp://a.example"}, "HTTP_URL: write it as"),
        (
            "doctor",
            {"HTTP_URL": "https://a.example", "HTTP_HEADERS": "secret"},
            "HEADERS can't be read: it has to be",
        ),
    ],
)
def test_what_keeps_it_from_starting_is_told_in_one_sentence(
    tmp_path: Path, words: str, environment: dict[str, str], sentence: str
) -> None:
    (tmp_path / "file").touch()
    given = {name: value.format(file=tmp_path / "file") for name, value in environment.items()}
    inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    command = [sys.executable, "-m", "app", words]
    run = subprocess.run(command, cwd=_ROOT, env=inherited | given, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (2, "")
    assert sentence in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert "secret" not in run.stderr


def test_settings_that_are_not_text_are_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env").write_bytes(b"PUBLIC_URL=https://m\xfcller.example")
    monkeypatch.chdir(tmp_path)
    assert main(["migrate"]) == 2
    assert capsys.readouterr().err == "The file .env can't be read: save it as UTF-8.\n"


@pytest.mark.anyio
async def test_a_server_of_another_kind_gets_no_traceback_either() -> None:
    """`uvicorn app.main:app` prints what the application gives it when it can't start."""
    url = "postgresql://a:secret@127.0.0.1:1/b"
    app = create_app(make_settings(database_url=url))
    written, sent = captured(), []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(OperationalError):
        await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": ""}]
    assert "be reached: connection to server" in written.getvalue()
    assert "Traceback" not in written.getvalue()


@pytest.mark.slow
def test_only_long_running_commands_tell_of_the_embedded_server(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert main(["migrate"]) == 0
    assert not logging.getLogger("app.db.embedded.cluster").isEnabledFor(logging.INFO)
    monkeypatch.setattr("app.commands.worker.run", lambda *_: 0)
    assert main(["worker"]) == 0
    assert logging.getLogger("app.db.embedded.cluster").isEnabledFor(logging.INFO)
