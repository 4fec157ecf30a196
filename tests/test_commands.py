"""The command line itself: what it says of its commands, and that it loads none but the chosen one."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import app.commands
from app.__main__ import main
from tests.cases import each_case

_ROOT = Path(__file__).parent.parent
#: Files of `app.commands` that are no command.
_SHARED = {"administering"}


def helped(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--help"])
    return capsys.readouterr().out


def test_every_command_is_named_and_shows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    named = helped(capsys)
    for file in pkgutil.iter_modules(app.commands.__path__):
        if file.name not in _SHARED:
            assert f"\n    {file.name} " in named
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
