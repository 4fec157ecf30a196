"""The command line: tenants and keys, also while the service runs."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.__main__ import main
from tests.cases import each_case
from tests.live import LiveServer
from tests.tenancy import bearer
from tests.wire import rows_of


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A command logs to the error stream of its test, which is closed after it."""
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers


@pytest.fixture(autouse=True)
def _on_the_test_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out.strip()


def test_a_tenant_and_its_key_are_made_and_the_key_is_revoked(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant_id = said(capsys, "tenants", "create", "Acme").split()[0]
    headings, *_, acme = said(capsys, "tenants", "list").splitlines()
    assert headings.split()[:2] == ["ID", "NAME"]
    assert acme.split()[:2] == [tenant_id, "Acme"]
    token = said(capsys, "keys", "create", "--tenant", "Acme", "--name", "staging", "--scopes", "send,read")
    assert token.startswith(f"msk_{tenant_id}_")
    headings, listed = said(capsys, "keys", "list", "--tenant", tenant_id).splitlines()
    assert headings.split() == ["TENANT", "ID", "STATE", "SCOPES", "NAME"]
    assert token not in listed
    assert "valid" in listed
    said(capsys, "keys", "revoke", "Acme", listed.split()[1])
    assert "revoked" in said(capsys, "keys", "list", "--tenant", "Acme")
    assert "belongs to Acme" in said(capsys, "tenants", "add-address", "Acme", "+1 202 555 0100")
    actors = rows_of(database_url, "SELECT DISTINCT actor FROM audit_events")
    assert actors == [("command line",)]


def test_how_long_messages_are_kept_is_said_for_a_tenant_and_taken_back(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "tenants", "create", "Acme")
    for written, kept in (("30", 30), ("default", None)):
        said(capsys, "tenants", "keep", "Acme", written)
        assert rows_of(database_url, "SELECT retention_days FROM tenants WHERE name = 'Acme'") == [(kept,)]


@each_case(
    "words",
    [
        ("tenants", "keep", "1", "0"),
        ("tenants", "keep", "nobody", "30"),
        ("keys", "create", "--tenant", "nobody", "--name", "x"),
        ("keys", "create", "--name", "x", "--scopes", "everything"),
        ("keys", "create", "--name", "x", "--expires-in-days", "0"),
        ("keys", "revoke", "1", "99"),
        ("tenants", "create", "default"),
        ("tenants", "add-address", "1", "nonsense@"),
    ],
)
def test_what_cannot_be_done_ends_with_2_and_a_sentence(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "cannot_start" not in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.slow
def test_a_key_made_beside_a_running_service_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    server = LiveServer(tmp_path)
    server.start()
    try:
        made = subprocess.run(
            [sys.executable, "-m", "app", "keys", "create", "--name", "live"],
            env={**os.environ, "DATA_DIR": str(server.data_dir)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        headers = bearer(made.stdout.strip())
        assert httpx.get(f"{server.url}/api/conversations", headers=headers).status_code == 200
        assert httpx.get(f"{server.url}/api/conversations", headers=bearer("x")).status_code == 401
        assert httpx.get(f"{server.url}/readyz").status_code == 200
    finally:
        server.stop()
