"""The doctor: a healthy installation is told so, and what is broken is found, with the way to mend it."""

import json
import os
import secrets
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from pydantic import SecretStr
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from app.config import Settings
from app.db.engine import create_command_engine
from app.doctor import event_log, examination, examine, installation, snapshots
from app.doctor.database import skew_finding
from app.doctor.findings import DatabaseCheck, Finding, Level, ok
from app.installation import KeyScope
from app.providers.registry import provider_registry
from app.services.consent.hashes import AddressHashes
from tests.cases import each_case
from tests.conftest import execute, make_settings
from tests.live import LiveServer, free_port
from tests.providers.test_sendgrid import provider as sendgrid
from tests.providers.test_vonage import provider as vonage
from tests.tenancy import WEBHOOK_SECRET, make_key, production, revoke

ROOT = Path(__file__).parent.parent
NewDatabase = Callable[..., str]
SECRET = "hunter2-hunter2"  # noqa: S105 - made up, to be looked for in what is printed
A_CONVERSATION = (
    "INSERT INTO conversations (tenant_id, customer_address, contact_address, last_activity_at)"
    " VALUES (1, '+12016661234', '+18045551234', now())"
)


def found(settings: Settings, check: str) -> list[Finding]:
    """The findings of the check of that name."""
    for of_settings in examination.SETTINGS_CHECKS:
        if examination.name_of(of_settings) == check:
            return examination.listed(of_settings(settings))
    [of_database] = [each for each in examination.DATABASE_CHECKS if examination.name_of(each) == check]
    assert settings.database_url is not None
    engine = create_command_engine(settings.database_url.get_secret_value())
    with engine.connect() as connection:
        findings = examination.listed(of_database(settings, connection))
    engine.dispose()
    return findings


def the_trouble(settings: Settings, check: str) -> Finding:
    """The one finding of a check that is not well, with a sentence on how to mend it."""
    [finding] = [each for each in found(settings, check) if each.level is not Level.OK]
    assert finding.mending is not None
    return finding


def message(status: str = "queued", *, due: str = "NULL", created: str = "now()", channel: str = "sms") -> str:
    return (
        "INSERT INTO messages (tenant_id, conversation_id, direction, channel, type, from_address, to_address, body,"
        f" attachments, status, sent_at, due_at, created_at) VALUES (1, 1, 'outbound', '{channel}', 'sms',"
        f" '+12016661234', '+18045551234', '{SECRET}', '[]', '{status}', now(), {due}, {created})"
    )


def doctor(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return subprocess.run(
        [sys.executable, "-m", "app", "doctor", *words],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    server = LiveServer(tmp_path)
    server.start()
    yield server
    server.stop()
    server.kill_postgres()


@pytest.mark.slow
def test_a_fresh_installation_is_well_while_it_runs_and_alone(server: LiveServer) -> None:
    environment = {"DATA_DIR": str(server.data_dir), "PORT": str(server.port)}
    beside = doctor("--online", PUBLIC_URL=server.url, **environment)
    assert (beside.returncode, beside.stdout.splitlines()[-1]) == (0, "0 problems, 0 warnings."), beside.stdout
    assert "1 worker is connected" in beside.stdout
    assert "PUBLIC_URL leads to this service" in beside.stdout
    assert server.is_ready()
    server.stop()
    server.wait_for_postgres_to_end()
    alone = doctor("--json", **environment)
    report = json.loads(alone.stdout)
    assert (alone.returncode, report["problems"], report["warnings"], report["left_out"]) == (0, 0, 0, [])
    checks = {examination.name_of(check) for check in examination.DATABASE_CHECKS}
    assert {finding["check"] for finding in report["findings"]} >= checks
    server.wait_for_postgres_to_end()


def test_settings_that_are_refused_end_it_with_2() -> None:
    ended = doctor(ENV="production")
    assert ended.returncode == 2
    assert "WEBHOOK_SECRET" in ended.stderr


def test_a_database_that_is_away_is_a_problem_and_the_settings_are_looked_at_all_the_same() -> None:
    url = f"postgresql://somebody:{SECRET}@127.0.0.1:{free_port()}/nothing"
    ended = doctor(DATABASE_URL=url, HOST="192.0.2.1")
    assert ended.returncode == 1
    assert "can't be reached" in ended.stdout
    assert "DATABASE_URL is right" in ended.stdout
    assert "Not checked, because of the above: encoding, " in ended.stdout
    assert "192.0.2.1" in ended.stdout
    assert SECRET not in ended.stdout + ended.stderr


def test_an_embedded_server_that_has_no_place_is_a_problem_too(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, where a directory is needed")
    report = examine(make_settings(data_dir=tmp_path / "data"))
    name, finding = report.findings[-1]
    assert (name, finding.level) == ("database", Level.PROBLEM)
    assert "DATA_DIR" in str(finding.mending)
    assert report.left_out[0] == "encoding"


def test_a_server_that_is_read_only_is_a_problem(new_database: Callable[[], str]) -> None:
    url = new_database()
    execute(url, f"ALTER DATABASE {make_url(url).database} SET default_transaction_read_only = on")
    finding = the_trouble(make_settings(database_url=url), "writes")
    assert (finding.level, "read-only" in finding.text) == (Level.PROBLEM, True)


@pytest.mark.slow
def test_nothing_that_is_stored_and_no_secret_is_printed(database_url: str) -> None:
    token = make_key(database_url, seconds=-5)
    execute(database_url, A_CONVERSATION, message(due="now() - interval '1 hour'"), message("failed"))
    ended = doctor("--json", DATABASE_URL=database_url, WEBHOOK_SECRET=SECRET)
    assert ended.returncode == 1
    shown = ended.stdout + ended.stderr
    assert "shorter than 24 bytes" in shown
    password = make_url(database_url).password
    assert [each for each in (token, SECRET, "+1804", "+1201", str(password)) if each in shown] == []


def test_it_changes_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(_: Settings, connection: Connection) -> Iterator[Finding]:
        connection.exec_driver_sql("DELETE FROM tenants")
        yield ok("gone")

    monkeypatch.setattr(examination, "DATABASE_CHECKS", [careless])
    name, finding = examine(settings).findings[-1]
    assert (name, finding.text) == ("careless", "The check could not be made: SQLSTATE 25006.")


def test_a_check_that_fails_is_a_problem_and_the_others_are_made(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clumsy(_: Settings, __: Connection) -> Iterator[Finding]:
        raise ValueError(SECRET)

    checks: list[DatabaseCheck] = [clumsy, *examination.DATABASE_CHECKS]
    monkeypatch.setattr(examination, "DATABASE_CHECKS", checks)
    findings = dict(examine(settings).findings)
    trouble = findings["clumsy"]
    assert (trouble.level, trouble.text) == (Level.PROBLEM, "The check itself failed: ValueError.")
    assert findings["receipts"] == ok("every one has found its message")


def test_a_check_that_never_ends_is_given_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleepy(_: Settings, connection: Connection) -> Iterator[Finding]:
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SELECT pg_sleep(5)")
        yield ok("awake")

    monkeypatch.setattr(examination, "DATABASE_CHECKS", [sleepy, *examination.DATABASE_CHECKS])
    monkeypatch.setattr(examination, "_CHECK_SECONDS", 0.2)
    report = examine(settings)
    [name, finding] = report.findings[-1]
    assert (name, finding.text) == ("sleepy", "No answer within 0.2 seconds.")
    assert report.left_out[0] == "database"


@pytest.mark.parametrize(
    ("setting", "scope", "mending"),
    [
        ("synchronous_commit", "DATABASE {database}", "Run `ALTER DATABASE {database} RESET synchronous_commit`"),
        ("synchronous_commit", "ROLE app_role", "Run `ALTER ROLE app_role RESET synchronous_commit`"),
        (
            "synchronous_commit",
            "ROLE app_role IN DATABASE {database}",
            "Run `ALTER ROLE app_role IN DATABASE {database} RESET synchronous_commit`",
        ),
    ],
)
def test_durability_that_was_switched_off_is_found_wherever_that_was_done(
    new_database: NewDatabase, app_role: Callable[[str], str], setting: str, scope: str, mending: str
) -> None:
    url = new_database()
    names = {"database": make_url(url).database}
    execute(url, f"ALTER {scope.format(**names)} SET {setting} = off")
    troubles = [each for each in found(make_settings(database_url=app_role(url)), "durability") if each.mending]
    [trouble] = [each for each in troubles if setting in each.text]
    assert trouble.level is Level.PROBLEM
    assert str(trouble.mending).startswith(mending.format(**names))


@pytest.fixture
def app_role(new_database: NewDatabase) -> Iterator[Callable[[str], str]]:
    """Gives the URL by which a role with the fewest rights reaches a database; the role is gone afterwards."""
    urls: list[str] = []
    server = new_database()
    execute(server, f"CREATE ROLE app_role LOGIN PASSWORD '{SECRET}'")

    def grant(url: str) -> str:
        urls.append(url)
        execute(url, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app_role")
        return make_url(url).set(username="app_role", password=SECRET).render_as_string(hide_password=False)

    yield grant
    for url in urls:
        execute(url, "DROP OWNED BY app_role")
    execute(server, "DROP ROLE app_role")


def test_in_production_a_role_should_not_be_able_to_do_more_than_the_service_needs(
    new_database: NewDatabase, app_role: Callable[[str], str]
) -> None:
    url = new_database()

    def with_role(of: str) -> Settings:
        return production(make_settings(), database_url=of)

    trouble = the_trouble(with_role(url), "role")
    assert trouble.level is Level.PROBLEM
    assert "GRANT SELECT" in str(trouble.mending)
    own = app_role(url)
    assert found(with_role(own), "role") == [ok("no superuser, and may not change the schema")]
    execute(url, "GRANT CREATE ON SCHEMA public TO app_role")
    trouble = the_trouble(with_role(own), "role")
    assert (trouble.level, "GRANT SELECT" in str(trouble.mending)) == (Level.WARNING, True)
    execute(url, "REVOKE SELECT ON messages FROM app_role")
    trouble = dict(examine(with_role(own)).findings)["queue"]
    assert trouble.text == "The check could not be made: permission denied for table messages."
    assert str(trouble.mending).startswith("Grant the role")


def test_more_connections_than_there_is_room_for(new_database: NewDatabase, app_role: Callable[[str], str]) -> None:
    url = new_database()
    own = make_settings(database_url=app_role(url))
    execute(url, "ALTER ROLE app_role CONNECTION LIMIT 12")
    trouble = the_trouble(own, "connections")
    assert trouble.level is Level.PROBLEM
    assert "may open 16" in trouble.text
    assert "room for 12" in trouble.text
    assert "DATABASE_POOL_SIZE" in str(trouble.mending)
    many = make_settings(database_url=url, web_concurrency=64)
    assert the_trouble(many, "connections").level is Level.PROBLEM


def test_an_encoding_that_does_not_have_every_letter(new_database: NewDatabase) -> None:
    url = new_database(empty=True)
    name = f"{make_url(url).database}_ascii"
    execute(url, f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0")
    own = make_url(url).set(database=name).render_as_string(hide_password=False)
    trouble = the_trouble(make_settings(database_url=own), "encoding")
    assert trouble.level is Level.PROBLEM
    assert "ENCODING 'UTF8'" in str(trouble.mending)


@each_case(("seconds", "level"), [(0.9, Level.OK), (1.1, Level.WARNING), (31, Level.PROBLEM)])
def test_clocks_that_differ(seconds: float, level: Level) -> None:
    assert skew_finding(seconds, "UTC").level is level


def test_a_schema_that_is_behind_or_ahead_hides_what_is_in_it(new_database: NewDatabase) -> None:
    url = new_database(empty=True)
    developing = make_settings(database_url=url)
    for settings, level in ((developing, Level.WARNING), (production(developing), Level.PROBLEM)):
        report = examine(settings)
        name, finding = report.findings[-1]
        assert (name, finding.level) == ("schema", level)
        assert "python -m app migrate" in str(finding.mending)
        assert report.left_out[-2:] == ["snapshots", "consent"]
    execute(url, "CREATE TABLE alembic_version (version_num text)", "INSERT INTO alembic_version VALUES ('2099')")
    name, finding = examine(developing).findings[-1]
    assert (name, finding.level) == ("schema", Level.PROBLEM)
    assert "newer" in str(finding.mending)


def test_a_schema_that_was_changed_by_hand(new_database: NewDatabase) -> None:
    url = new_database()
    execute(
        url,
        "ALTER TABLE messages DROP COLUMN subject",
        "ALTER TABLE messages ALTER COLUMN body DROP NOT NULL",
        "DROP INDEX ix_messages_pending",
        "DROP TABLE audit_events",
    )
    trouble = the_trouble(make_settings(database_url=url), "schema")
    assert trouble.level is Level.PROBLEM
    for said in (
        "missing column messages.subject",
        "changed column messages.body",
        "missing index ix_messages_pending",
        "missing table audit_events",
    ):
        assert said in trouble.text
    assert "app/db/models.py" in str(trouble.mending)


def test_an_index_and_a_constraint_that_are_not_valid(new_database: NewDatabase) -> None:
    url = new_database()
    execute(
        url,
        "ALTER TABLE messages ADD CONSTRAINT short CHECK (length(body) < 9) NOT VALID",
        "INSERT INTO tenants (name) VALUES ('one'), ('another')",
    )
    with pytest.raises(Exception, match="could not create unique index"):
        execute(url, "CREATE UNIQUE INDEX CONCURRENTLY half_built ON tenants ((1))")
    broken, unchecked = found(make_settings(database_url=url), "indexes")
    assert (broken.level, unchecked.level) == (Level.PROBLEM, Level.WARNING)
    assert str(broken.mending).startswith("Run `REINDEX INDEX CONCURRENTLY half_built`")
    assert unchecked.mending == "Run `ALTER TABLE messages VALIDATE CONSTRAINT short`."


@pytest.mark.slow
def test_a_table_full_of_dead_rows(new_database: NewDatabase) -> None:
    url = new_database()
    execute(
        url,
        "ALTER TABLE tenants SET (autovacuum_enabled = off)",
        "INSERT INTO tenants (name) SELECT 'tenant ' || n FROM generate_series(1, 20000) AS n",
        "DELETE FROM tenants WHERE id > 1",
        "SELECT pg_stat_force_next_flush()",
    )
    trouble = the_trouble(make_settings(database_url=url), "vacuum")
    assert trouble.level is Level.WARNING
    assert "20000 dead rows" in trouble.text
    assert "VACUUM (ANALYZE) tenants" in str(trouble.mending)


def test_a_transaction_that_delays_readers_of_the_event_log_is_named(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "_SHOWN", 1000)  # other tests use the same server
    writes = f"INSERT INTO tenants (name) VALUES ('{SECRET}')"
    with closing(psycopg2.connect(database_url, application_name="a long import")) as connection:
        pid = connection.info.backend_pid
        connection.cursor().execute("SELECT count(*) FROM tenants")
        monkeypatch.setattr(event_log, "_PATIENCE_SECONDS", -1)
        assert [each for each in found(settings, "transactions") if f"pid {pid}" in each.text] == []
        connection.cursor().execute(writes)
        monkeypatch.setattr(event_log, "_PATIENCE_SECONDS", 3600)
        assert [each.level for each in found(settings, "transactions")] == [Level.OK]
        monkeypatch.setattr(event_log, "_PATIENCE_SECONDS", -1)
        [trouble] = [each for each in found(settings, "transactions") if f"pid {pid}" in each.text]
    assert trouble.level is Level.WARNING
    assert trouble.text.startswith("A transaction of a long import (pid")
    assert f"SELECT pg_terminate_backend({pid})" in str(trouble.mending)
    assert SECRET not in f"{trouble.text}{trouble.mending}"


def hold_snapshot(connection: Any) -> int:
    """Hold a snapshot until the connection is closed; returns its process."""
    connection.set_session(isolation_level="REPEATABLE READ")
    connection.cursor().execute(f"SELECT count(*) FROM tenants WHERE name = '{SECRET}'")
    return int(connection.info.backend_pid)


def test_a_session_that_holds_a_snapshot_is_named_with_what_to_do(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(psycopg2.connect(database_url, application_name="nightly dump")) as connection:
        pid = hold_snapshot(connection)
        assert [each.level for each in found(settings, "snapshots")] == [Level.OK]
        monkeypatch.setattr(snapshots, "_PATIENCE_SECONDS", -1)
        [trouble] = [each for each in found(settings, "snapshots") if f"pid {pid}" in each.text]
        assert trouble.level is Level.WARNING
        assert trouble.text.startswith(f"nightly dump (pid {pid}, idle in transaction) holds a snapshot for ")
        assert f"SELECT pg_terminate_backend({pid})" in str(trouble.mending)
        assert SECRET not in f"{trouble.text}{trouble.mending}"
        connection.cursor().execute("ROLLBACK")
        assert [each for each in found(settings, "snapshots") if f"pid {pid}" in each.text] == []


def test_snapshots_that_a_role_may_not_see_are_counted(new_database: NewDatabase) -> None:
    url = new_database()
    role = f"serving_{secrets.token_hex(4)}"
    execute(
        url, f"CREATE ROLE {role} LOGIN PASSWORD 'serving'", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
    )
    served = make_url(url).set(username=role, password="serving").render_as_string(hide_password=False)  # noqa: S106
    with closing(psycopg2.connect(url)) as connection:
        hold_snapshot(connection)
        [finding] = found(make_settings(database_url=served), "snapshots")
        assert finding.level is Level.OK
        assert "1 of other roles can't be timed without GRANT pg_read_all_stats" in finding.text
    execute(url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_refusals_whose_secret_is_gone_are_counted(settings: Settings, database_url: str) -> None:
    hashes = AddressHashes(["of then"])
    assert [each.level for each in found(settings, "consent")] == [Level.OK]
    execute(
        database_url,
        "INSERT INTO suppressions (tenant_id, address, address_type, scope, scope_value, source, entry_id, is_hashed)"
        f" VALUES (1, '{hashes.of(1, '+18045551234')[0]}', 'phone', 'everything', '', 'keyword', 1, true)",
    )
    [finding] = found(settings, "consent")
    assert (finding.level, finding.text[:9]) == (Level.PROBLEM, "1 refusal")
    both = settings.model_copy(update={"consent_secret": SecretStr("of today,of then".replace(" ", "-"))})
    assert [each.level for each in found(both, "consent")] == [Level.PROBLEM]
    hashes = AddressHashes(["of-then"])
    execute(database_url, f"UPDATE suppressions SET address = '{hashes.of(1, '+18045551234')[0]}'")
    [finding] = found(both, "consent")
    assert (finding.level, finding.text) == (Level.OK, "1 refusal of erased people")


def test_mails_that_nobody_can_leave_are_named(settings: Settings, database_url: str) -> None:
    execute(
        database_url,
        "INSERT INTO conversations (tenant_id, customer_address, contact_address, last_activity_at)"
        " VALUES (1, 'a@shop.example', 'b@client.example', now())",
        "INSERT INTO messages (tenant_id, conversation_id, direction, channel, type, from_address, to_address, body,"
        " attachments, status, sent_at, topic) SELECT 1, id, 'outbound', 'email', 'email', customer_address,"
        " contact_address, 'News', '[]', 'sent', now(), 'offers' FROM conversations",
    )
    [finding] = found(settings, "consent")
    assert finding.level is Level.WARNING
    assert "PUBLIC_URL is not https" in finding.text
    [finding] = found(settings.model_copy(update={"public_url": "https://messaging.example"}), "consent")
    assert "DKIM" in finding.text


def test_a_prepared_transaction_that_is_left_is_named(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "_SHOWN", 1000)
    monkeypatch.setattr(event_log, "_PATIENCE_SECONDS", -1)
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("SHOW max_prepared_transactions")
        if cursor.fetchone() == ("0",):
            pytest.skip("this server prepares no transactions")
        name = f"it's {os.getpid()}"
        cursor.execute("BEGIN; INSERT INTO tenants (name) VALUES ('half'); PREPARE TRANSACTION %s", [name])
        try:
            quoted = f"'it''s {os.getpid()}'"
            [trouble] = [each for each in found(settings, "transactions") if quoted in each.text]
            assert trouble.level is Level.WARNING
            assert f"`ROLLBACK PREPARED {quoted}`" in str(trouble.mending)
        finally:
            cursor.execute("ROLLBACK PREPARED %s", [name])


def test_production_without_a_key_lets_nobody_in(settings: Settings, database_url: str) -> None:
    revoke(database_url, make_key(database_url))
    trouble = the_trouble(production(settings), "keys")
    assert trouble.level is Level.PROBLEM
    assert "python -m app keys create" in str(trouble.mending)
    make_key(database_url)
    make_key(database_url, scopes=(KeyScope.READ,))
    assert found(production(settings), "keys") == [ok("2 valid, 1 of them with the scope admin")]


def test_keys_that_have_expired_or_soon_will(settings: Settings, database_url: str) -> None:
    make_key(database_url, seconds=15 * 86400)
    make_key(database_url, seconds=-5)
    make_key(database_url, seconds=3 * 86400 + 60)
    over, soon = found(settings, "keys")
    assert over.text == "Key 2 of tenant 1 has expired: its clients are refused."
    assert soon.text == "Key 3 of tenant 1 expires in 3 days."
    assert "python -m app keys create" in str(soon.mending)
    for _ in range(5):
        make_key(database_url, seconds=60)
    assert found(settings, "keys")[-1].text == "2 more expired or will within 14 days."


def test_a_vendor_that_may_leave_a_call_unsigned_is_none_whose_secret_is_missing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(provider_registry, "vonage", vonage())
    assert found(settings, "callbacks") == [ok("those of vonage can be verified")]


def test_a_provider_whose_calls_nobody_can_verify(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_settings(**values: Any) -> Finding:
        monkeypatch.setitem(provider_registry, "sendgrid", sendgrid(**values))
        [finding] = found(settings, "callbacks")
        return finding

    assert found(settings, "callbacks") == [ok("no provider makes any")]
    assert with_settings() == ok("those of sendgrid can be verified")
    trouble = with_settings(webhook_key=None)
    assert trouble.level is Level.WARNING
    assert trouble.text.startswith("SENDGRID_WEBHOOK_KEY is not set. So callbacks of sendgrid that need it get 503")
    assert "docs/providers.md" in str(trouble.mending)
    assert "SENDGRID_INBOUND_TOKEN is not set. " in with_settings(inbound_token=None).text


def test_providers_in_trouble(settings: Settings, database_url: str) -> None:
    execute(
        database_url,
        "INSERT INTO provider_states"
        " (provider_type, failure_count, open_until, throttled_until, paused_at, paused_reason, learned_rate) VALUES"
        " ('sms', 0, NULL, NULL, now() - interval '2 hours', '401 for +18045551234', NULL),"
        " ('email', 12, now() + interval '1 minute', NULL, NULL, NULL, NULL),"
        " ('telnyx', 0, NULL, NULL, NULL, NULL, 47.125),"
        " ('twilio', 0, NULL, now() + interval '1 hour 1 minute', NULL, NULL, 47.125),"
        " ('well', 3, now() - interval '1 hour', now() - interval '1 hour', NULL, NULL, NULL)",
    )
    is_open, paused, slower, throttled = found(settings, "providers")
    assert (paused.level, is_open.level, throttled.level) == (Level.PROBLEM, Level.WARNING, Level.WARNING)
    assert slower.text == "telnyx answers 429, and gets at most 47.1 calls a second."
    assert paused.text == "sms refused our credentials 2 hours ago and is paused; its queue is kept."
    assert "POST /api/providers/sms/resume" in str(paused.mending)
    assert "12 times" in is_open.text
    assert "1 hour" in throttled.text
    assert "PROVIDER_RATES=twilio:N" in str(throttled.mending)


def test_providers_that_people_have_paused(settings: Settings, database_url: str) -> None:
    execute(
        database_url,
        "INSERT INTO provider_states (provider_type, stopped_at, stopped_reason) VALUES"
        " ('sms', now() - interval '2 hours', 'ticket 4711'), ('email', NULL, NULL)",
        "INSERT INTO provider_pauses (tenant_id, provider_type, reason) VALUES (1, 'email', 'ours')",
    )
    own, stopped = found(settings, "providers")
    assert stopped.text == "sms was paused by the operator 2 hours ago; its queue is kept."
    assert own.text == "1 tenant paused email for messages of their own."
    assert "POST /api/providers/email/resume" in str(own.mending)


def test_messages_that_nobody_sends(settings: Settings, database_url: str) -> None:
    execute(database_url, A_CONVERSATION, message(due="now() - interval '20 seconds'"))
    assert found(settings, "queue") == [ok("the oldest due message waits for 20 seconds; no worker is connected")]
    execute(database_url, "UPDATE messages SET due_at = now() - interval '3 hours'")
    trouble = the_trouble(settings, "queue")
    assert trouble.level is Level.PROBLEM
    assert trouble.text == "1 message should have left, the oldest 3 hours ago, and no worker is connected."
    assert "python -m app worker" in str(trouble.mending)
    # A lease that is renewed tells of a worker, even where its connection can't be seen.
    execute(database_url, message("sending", due="now() + interval '20 seconds'", channel="email"))
    trouble = the_trouble(settings, "queue")
    assert trouble.level is Level.WARNING
    assert "PROVIDER_CONCURRENCY" in str(trouble.mending)


def test_a_message_that_waits_for_an_earlier_one_is_not_overdue(settings: Settings, database_url: str) -> None:
    execute(
        database_url,
        A_CONVERSATION,
        message(due="now() + interval '10 minutes'"),
        message(due="now() - interval '10 minutes'"),
    )
    assert found(settings, "queue") == [ok("nothing is due; no worker is connected")]


def test_a_message_behind_a_scheduled_one_that_is_due_is_not_counted_beside_it(
    settings: Settings, database_url: str
) -> None:
    execute(
        database_url,
        A_CONVERSATION,
        message("scheduled", due="now() - interval '10 minutes'"),
        message(due="now() - interval '5 minutes'"),
    )
    assert the_trouble(settings, "queue").text.startswith("1 message should have left, the oldest 10 minutes ago")


def test_messages_that_failed_or_are_in_doubt(settings: Settings, database_url: str) -> None:
    execute(
        database_url,
        A_CONVERSATION,
        message("failed"),
        message("failed", created="now() - interval '2 days'"),
        message("unknown"),
        message("unknown", due="now() + interval '1 minute'"),
    )
    in_doubt, failed = found(settings, "outcomes")
    assert (in_doubt.level, failed.level) == (Level.WARNING, Level.WARNING)
    assert in_doubt.text == "1 message of the last day may or may not have gone out."
    assert "status=unknown" in str(in_doubt.mending)
    assert failed.text == "1 message of the last day failed."
    assert "/retry" in str(failed.mending)


def test_receipts_whose_messages_are_not_here(settings: Settings, database_url: str) -> None:
    execute(
        database_url,
        "INSERT INTO provider_events"
        " (tenant_id, provider_type, event_id, provider_message_id, status, raw, received_at) VALUES"
        " (1, 'twilio', 'a', 'x', 'sent', '{}', now() - interval '2 hours'),"
        " (1, 'twilio', 'b', 'y', 'sent', '{}', now())",
    )
    trouble = the_trouble(settings, "receipts")
    assert trouble.text.startswith("1 receipt of twilio")
    assert "vendor's console" in str(trouble.mending)


def test_calls_that_could_not_be_read(settings: Settings, database_url: str) -> None:
    execute(
        database_url,
        "INSERT INTO webhook_calls"
        " (tenant_id, provider_type, received_at, method, url, headers, body, verdict, events, addresses)"
        " SELECT 1, 'whatsapp', now(), 'POST', '', '[]', '', verdict, 1, '{+18045551234}'"
        " FROM unnest(ARRAY['taken', 'not_understood', 'refused']) AS verdict",
    )
    trouble = the_trouble(settings, "calls")
    assert trouble.text.startswith("1 callback of whatsapp could not be read")
    assert "webhooks list --verdict not_understood --provider whatsapp" in str(trouble.mending)


def test_messages_that_a_search_does_not_find_yet(settings: Settings, database_url: str) -> None:
    def queue(count: int) -> str:
        rows = f"SELECT 1, 'message', id FROM generate_series(1, {count}) id"
        return f"INSERT INTO search_queue (tenant_id, subject, subject_id) {rows}"

    execute(database_url, queue(7))
    assert dict(examine(settings).findings)["search"] == ok("7 messages and contacts wait to be indexed")
    execute(database_url, queue(50_000))
    trouble = the_trouble(settings, "search")
    assert trouble.text == "More than 50000 messages and contacts are not found by a search yet."
    assert "worker" in str(trouble.mending)


def test_a_provider_that_signs_the_address_it_calls(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_registry["sms"], "signs_address", True)
    trouble = the_trouble(production(settings), "public url")
    assert trouble.level is Level.PROBLEM
    assert "sms signs the address" in trouble.text
    assert "Set PUBLIC_URL" in str(trouble.mending)


@each_case(
    ("changes", "check", "level", "mending"),
    [
        ({"public_url": None}, "public url", Level.WARNING, "Set PUBLIC_URL"),
        ({"public_url": "http://messaging.example"}, "public url", Level.PROBLEM, "https"),
        ({"public_url": "messaging.example"}, "public url", Level.PROBLEM, "https://messaging.example"),
        ({"docs_enabled": True}, "api reference", Level.WARNING, "DOCS_ENABLED"),
        ({"log_format": "console"}, "log format", Level.WARNING, "json"),
        ({"log_level": "debug"}, "log format", Level.WARNING, "LOG_LEVEL=info"),
        ({"routes": "sms:nobody email:email"}, "routes", Level.PROBLEM, "app/providers/nobody.py"),
        ({"routes": "sms:email", "simulated_carriers": None}, "routes", Level.PROBLEM, "as sms:NAME"),
        ({"routes": "sms:email"}, "routes", Level.WARNING, "SIMULATED_CARRIERS"),
        ({"simulated_carriers": None}, "routes", Level.WARNING, "as sms:NAME"),
    ],
)
def test_what_production_should_not_be_set_to(
    settings: Settings, changes: dict[str, object], check: str, level: Level, mending: str
) -> None:
    troubles = [each for each in found(production(settings, **changes), check) if each.mending]
    assert troubles
    assert level in {each.level for each in troubles}
    assert mending in " ".join(str(each.mending) for each in troubles)


def test_the_public_url_is_shown_with_its_port_and_path_and_without_a_password(settings: Settings) -> None:
    own = settings.model_copy(update={"public_url": f"https://us:{SECRET}@messaging.example:8443/sms"})
    assert found(own, "public url") == [ok("https://messaging.example:8443/sms")]


def test_production_that_is_set_as_it_should_be(settings: Settings) -> None:
    well = production(settings, public_url="https://messaging.example", webhook_secret=WEBHOOK_SECRET)
    for check in ("profile", "webhook secret", "public url", "log format", "api reference", "disk"):
        assert [each.level for each in found(well, check)] == [Level.OK], check


def test_development_that_others_can_reach(settings: Settings) -> None:
    everywhere = settings.model_copy(update={"host": "0.0.0.0"})  # noqa: S104 - that is what it is about
    trouble = the_trouble(everywhere, "profile")
    assert (trouble.level, "ENV=production" in str(trouble.mending)) == (Level.WARNING, True)
    published = settings.model_copy(update={"public_url": "https://messaging.example"})
    assert the_trouble(published, "profile").level is Level.PROBLEM


_Usage = namedtuple("_Usage", "free")


@pytest.mark.parametrize(
    ("free", "level"), [(2e9, Level.OK), (5e8, Level.WARNING), (5e7, Level.PROBLEM)], ids=["much", "little", "none"]
)
def test_the_disk_of_the_embedded_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, level: Level
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage(free))
    finding = installation.disk(make_settings(data_dir=tmp_path / "not" / "there" / "yet"))
    assert finding.level is level


def test_the_public_url_is_fetched_only_when_told_to(settings: Settings) -> None:
    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *arguments: object) -> None: ...

    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever).start()
        astray = settings.model_copy(update={"public_url": f"http://127.0.0.1:{stranger.server_port}"})
        assert "online" not in dict(examine(astray).findings)
        assert asked == []
        finding = dict(examine(astray, online=True).findings)["online"]
        stranger.shutdown()
    assert asked == ["/healthz"]
    assert finding.text == "PUBLIC_URL/healthz is answered 404, and not by this service."
    nowhere = settings.model_copy(update={"public_url": f"http://127.0.0.1:{free_port()}"})
    finding = installation.online(nowhere)
    assert finding.text == "PUBLIC_URL can't be fetched from here: ConnectError."
