"""Behind PgBouncer in transaction mode: found by the service itself, and by the doctor."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from app.db.connectivity.connections import connect, is_pooled
from app.db.connectivity.pooler import with_pooler_known
from app.db.engine import create_serving_engine
from app.doctor.examination import examine
from app.doctor.findings import Level
from app.errors import ConfigurationError
from app.wiring import running_services
from tests.bouncer import PgBouncer, needs_pgbouncer
from tests.conftest import make_settings
from tests.live import LiveServer
from tests.services.delivery.test_notifier import listening

pytestmark = [pytest.mark.anyio, needs_pgbouncer]
_ROOT = Path(__file__).parents[3]
_OURS = "idle_in_transaction_session_timeout,jit,lock_timeout,plan_cache_mode,statement_timeout"


@pytest.fixture
def bouncer(tmp_path: Path, database_url: str) -> Iterator[PgBouncer]:
    """One that refuses every parameter that it does not know, as it does by default."""
    bouncer = PgBouncer(tmp_path / "bouncer", database_url)
    bouncer.start()
    yield bouncer
    bouncer.kill()


@pytest.fixture
def ignoring(tmp_path: Path, database_url: str) -> Iterator[PgBouncer]:
    bouncer = PgBouncer(tmp_path / "ignoring", database_url, ignore_startup_parameters=_OURS)
    bouncer.start()
    yield bouncer
    bouncer.kill()


async def test_a_pooler_that_refuses_our_parameters_is_found(bouncer: PgBouncer) -> None:
    settings = await with_pooler_known(bouncer.url, make_settings(database_url=bouncer.url))
    assert settings.database_prepared_statements is False


async def test_a_pooler_that_ignores_our_parameters_is_found(ignoring: PgBouncer) -> None:
    settings = await with_pooler_known(ignoring.url, make_settings(database_url=ignoring.url))
    assert settings.database_prepared_statements is False


async def test_a_server_is_no_pooler(database_url: str) -> None:
    settings = await with_pooler_known(database_url, make_settings(database_url=database_url))
    assert settings.database_prepared_statements is None
    connection = await connect(database_url)
    assert not await is_pooled(connection)
    await connection.close()


async def test_prepared_statements_that_are_demanded_are_refused_with_the_parameter(bouncer: PgBouncer) -> None:
    demanding = make_settings(database_url=bouncer.url, database_prepared_statements=True)
    with pytest.raises(
        ConfigurationError, match=r"^The pooler refuses `\w+`: set ignore_startup_parameters="
    ) as refused:
        await with_pooler_known(bouncer.url, demanding)
    named = re.findall("ignore_startup_parameters=([a-z_,]+)", str(refused.value))
    assert named == [_OURS]


async def test_prepared_statements_that_are_demanded_are_left_alone_where_the_pooler_ignores(
    ignoring: PgBouncer,
) -> None:
    demanding = make_settings(database_url=ignoring.url, database_prepared_statements=True)
    assert await with_pooler_known(ignoring.url, demanding) is demanding


async def test_many_share_few_connections(bouncer: PgBouncer) -> None:
    """Each statement may meet another server, which does not know what was prepared on the last one."""
    settings = await with_pooler_known(bouncer.url, make_settings(database_url=bouncer.url))
    engine = create_serving_engine(bouncer.url, settings)
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def ask(number: int) -> list[int]:
        answers = []
        for turn in range(20):
            async with (alone if turn % 2 else engine).connect() as connection:
                answers.append(await connection.scalar(text("SELECT CAST(:n AS int)"), {"n": number + turn}))
        return answers

    answers = await asyncio.gather(*(ask(number) for number in range(12)))
    await engine.dispose()
    assert answers == [[number + turn for turn in range(20)] for number in range(12)]


async def test_notifications_come_past_a_pooler(bouncer: PgBouncer, database_url: str, tmp_path: Path) -> None:
    settings = make_settings(database_url=bouncer.url, database_listen_url=database_url, data_dir=tmp_path)
    async with running_services(bouncer.url, settings, deliver=False):
        await listening(database_url, 1)


def findings(url: str, **values: object) -> list[tuple[Level, str]]:
    report = examine(make_settings(database_url=url, **values))
    assert report.left_out == []
    return [(found.level, found.text) for name, found in report.findings if name == "pooler"]


def test_the_doctor_connects_as_serving_does(bouncer: PgBouncer, ignoring: PgBouncer, database_url: str) -> None:
    for pooler in (bouncer, ignoring):
        [(level, said)] = findings(pooler.url)
        assert (level, said.startswith("A pooler is in the way")) == (Level.WARNING, True)
    [(level, said)] = findings(bouncer.url, database_prepared_statements=True)
    assert (level, said.startswith("The pooler refuses `")) == (Level.PROBLEM, True)
    assert findings(database_url) == [(Level.OK, "none: connections lead to PostgreSQL itself")]


@pytest.mark.slow
def test_everything_works_behind_it_with_default_settings(tmp_path: Path, bouncer: PgBouncer) -> None:
    server = LiveServer(tmp_path, DATABASE_URL=bouncer.url)
    server.start()
    try:
        words = [sys.executable, "bin/e2e.py"]
        done = subprocess.run(
            words, cwd=_ROOT, env={"BASE_URL": server.url}, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout
    finally:
        server.stop()
    said = server.log.read_text()
    assert "pooler_found" in said
    assert "notifier_polls" in said
    assert "database_unavailable" not in said
    assert "when not linked" not in bouncer.log.read_text()
