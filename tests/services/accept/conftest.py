"""Both forms of accepting: tests that use `form` or `engine` run with each, on any PostgreSQL."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings
from app.db.engine import create_serving_engine
from app.db.schema.distribution import with_its_form
from tests.conftest import execute

FORMS = {"in steps": True} if os.environ.get("CITUS_URL") else {"one statement": False, "in steps": True}


@pytest.fixture(params=list(FORMS.values()), ids=list(FORMS))
def form(request: pytest.FixtureRequest, database_url: str) -> Iterator[bool]:
    """True while the database is noted as distributed, so that processes store messages in steps."""
    execute(database_url, f"UPDATE installation SET is_distributed = {request.param}")
    yield request.param
    execute(database_url, f"UPDATE installation SET is_distributed = {len(FORMS) == 1}")


@pytest.fixture
async def engine(form: bool, settings: Settings, database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_serving_engine(database_url, settings)
    yield await with_its_form(engine)
    await engine.dispose()
