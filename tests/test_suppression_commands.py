"""`python -m app suppressions`: what is exported and imported, and what is said about lines that are not valid."""

import csv
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from app.__main__ import main
from app.commands import suppressions
from app.consent import ConsentScope
from app.db.connectivity.outage import outage
from app.db.engine import create_command_engine
from app.services.consent.hashes import AddressHashes
from tests.cases import each_case
from tests.conftest import execute, make_settings
from tests.tenancy import make_tenant
from tests.wire import rows_of

JANE, JOE = "jane@example.org", "+18045550001"
STORED = "SELECT address, scope, scope_value, source FROM suppressions ORDER BY id"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs the command with these words; returns its exit code, its output and its remarks."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    capsys.readouterr()

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["suppressions", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def import_of(run: Run, tmp_path: Path) -> Callable[..., tuple[int, list[str]]]:
    """Imports a file of this content; returns the exit code and the remarks."""

    def import_of(content: str | bytes, *options: str) -> tuple[int, list[str]]:
        file = tmp_path / "list.csv"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        code, output, remarks = run("import", str(file), *options)
        assert output == ""
        return code, remarks.splitlines()

    return import_of


ImportOf = Callable[..., tuple[int, list[str]]]


def test_a_bare_list_of_addresses_is_imported(import_of: ImportOf, database_url: str) -> None:
    lines = [JANE, "", "(804) 555-0001", "JANE@example.org", "nonsense?", "a@example.org,b@example.org"]
    content = "".join(f"{line}\r\n" for line in lines)
    code, remarks = import_of(f"\ufeff{content}")
    assert code == 1
    assert remarks[0].startswith("Line 5: address: this is a name")
    assert remarks[1] == "Line 6: this line has 2 fields, and the file 1 columns"
    assert remarks[2] == "2 added, 1 held already, 2 refused."
    everything = (ConsentScope.EVERYTHING, "", "import")
    assert sorted(rows_of(database_url, STORED)) == [(JOE, *everything), (JANE, *everything)]
    assert rows_of(database_url, "SELECT DISTINCT actor FROM consent_entries") == [("command line",)]
    assert rows_of(database_url, "SELECT DISTINCT type FROM events") == [("consent.revoked",)]


def test_an_export_can_be_imported_by_another_tenant(import_of: ImportOf, run: Run, database_url: str) -> None:
    make_tenant(database_url, "Kestrel")
    lines = [
        "detail,Address,SCOPE,scope_value",
        f'"=1+1, ""moved""",{JANE},topic,offers',
        f"'quoted,{JOE},channel,sms",
        f",{JOE}",
    ]
    assert import_of("\n".join(lines)) == (0, ["3 added, 0 held already, 0 refused."])
    code, exported, remarks = run("export")
    assert (code, remarks) == (0, "")
    header, *rows = csv.reader(io.StringIO(exported))
    assert header == ["address", "scope", "scope_value", "source", "detail", "created_at"]
    assert sorted(row[:5] for row in rows) == [
        [JOE, "channel", "sms", "import", "'quoted"],
        [JOE, "everything", "", "import", ""],
        [JANE, "topic", "offers", "import", '\'=1+1, "moved"'],
    ]
    assert import_of(exported, "--tenant", "Kestrel") == (0, ["3 added, 0 held already, 0 refused."])
    again = run("export", "--tenant", "Kestrel")[1]
    _, *others = csv.reader(io.StringIO(again))
    assert sorted(row[:4] for row in others) == sorted(row[:4] for row in rows)
    [(detail,)] = rows_of(database_url, "SELECT detail FROM consent_entries WHERE tenant_id > 1 AND scope = 'topic'")
    [origin] = [row for row in rows if row[1] == "topic"]
    assert detail == f"import, {origin[5]}: {origin[4]}"


@each_case(
    ("line", "sentence"),
    [
        (b'"jane@example.org', "this is no line of CSV"),
        (b'"jane"@example.org', "this is no line of CSV"),
        (b"jane@example.org,nothing", "scope: "),
        (b"jane@example.org,topic,two words", "scope_value: a topic has up to 63"),
        (b"jane@example.org,topic", "scope_value: name the topic"),
        (b"jane@example.org,sender,x@", "scope_value: "),
        (b",everything", "address: this field is required"),
        (b"j\xe4ne@example.org", "address: this text is not valid Unicode"),
        (b"jane@example.org,,,", "this line has 4 fields"),
        (b"\x00", "address: "),
        (b"x" * 200_000, ""),
    ],
)
def test_a_line_that_is_not_valid_harms_no_other(import_of: ImportOf, line: bytes, sentence: str) -> None:
    code, remarks = import_of(b"address,scope,scope_value\n" + line + b"\njoe@example.org\n")
    assert code == 1
    assert remarks[0].startswith(f"Line 2: {sentence}")
    assert remarks[1] in {"1 added, 0 held already, 1 refused.", "0 added, 1 held already, 1 refused."}


@each_case("header", ["address,colour", "address,address", "address,"])
def test_a_file_with_other_columns_is_refused_as_a_whole(import_of: ImportOf, header: str) -> None:
    code, remarks = import_of(f"{header}\n{JANE},1\n")
    assert (code, len(remarks)) == (2, 1)
    assert remarks[0].startswith("The file has other columns than these")


def test_a_file_or_a_tenant_that_is_not_there_is_told_in_a_sentence(run: Run, tmp_path: Path) -> None:
    code, _, remarks = run("import", str(tmp_path / "none.csv"))
    assert (code, remarks) == (2, "The file can't be read: No such file or directory.\n")
    code, _, remarks = run("export", "--tenant", "none")
    assert (code, remarks) == (2, "There is no such tenant.\n")


def test_a_list_comes_from_another_program(run: Run, monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{JANE}\n".encode())))
    assert run("import", "-") == (0, "", "1 added, 0 held already, 0 refused.\n")
    assert len(rows_of(database_url, STORED)) == 1


def test_erased_people_are_not_exported(import_of: ImportOf, run: Run, database_url: str) -> None:
    import_of(f"{JANE}\n{JOE}\n")
    [hash] = AddressHashes(make_settings().consent_secrets).of(1, JANE)
    execute(database_url, f"UPDATE suppressions SET address = '{hash}', is_hashed = true WHERE address = '{JANE}'")
    code, exported, remarks = run("export")
    assert (code, exported.count("\n")) == (0, 2)
    assert remarks.startswith("Refusals of erased people are left out")
    assert import_of(f"{JANE}\n") == (0, ["0 added, 1 held already, 0 refused."])


def test_an_import_waits_for_a_busy_database(
    import_of: ImportOf, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_LOCK_TIMEOUT_SECONDS", "0.1")
    with create_command_engine(database_url).connect() as other:
        other.execute(text("LOCK TABLE suppressions IN EXCLUSIVE MODE"))
        monkeypatch.setattr(outage, "note", lambda *_, **__: other.rollback())
        assert import_of(f"{JANE}\n{JOE}\n") == (0, ["2 added, 0 held already, 0 refused."])


def test_an_import_gives_up_when_the_database_stays_busy(
    import_of: ImportOf, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_LOCK_TIMEOUT_SECONDS", "0.1")
    monkeypatch.setattr(suppressions, "_PATIENCE_SECONDS", 0.0)
    with create_command_engine(database_url).connect() as other:
        other.execute(text("LOCK TABLE suppressions IN EXCLUSIVE MODE"))
        code, remarks = import_of(f"{JANE}\n")
    assert (code, remarks[-1]) == (1, "0 added, 0 held already, 0 refused.")
    assert remarks[-2].startswith("The database is away. Import the same file again")


@pytest.mark.slow
def test_a_long_list_is_imported_in_batches(
    import_of: ImportOf, run: Run, new_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not one that other tests have filled and emptied: its statistics would have every batch read all those before.
    monkeypatch.setenv("DATABASE_URL", new_database())
    code, remarks = import_of("".join(f"person{number}@example.org\n" for number in range(20_100)))
    assert code == 0, remarks[-3:]
    assert {"10000 lines so far.", "20000 lines so far."} <= set(remarks)
    assert remarks[-1] == "20100 added, 0 held already, 0 refused."
    assert run("export")[1].count("\n") == 20_101
