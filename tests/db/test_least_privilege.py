"""Serving with a role that may read and write rows and nothing else: the schema belongs to the role that migrates."""

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from app.config import Settings
from app.main import create_app
from tests.conftest import client_of, execute
from tests.factories import CONTACT, SENDS, until
from tests.tenancy import bearer, make_key, production
from tests.wire import rows_of

pytestmark = pytest.mark.anyio


PAGE = (Path(__file__).parents[2] / "docs" / "database.md").read_text(encoding="utf-8")


@pytest.fixture
def served_as(database_url: str) -> Iterator[str]:
    """The URL of the role that docs/database.md creates, on the test's database."""
    made = re.findall(r"^(?:create role|grant|alter default privileges) .*;$", PAGE, re.MULTILINE)
    role = f"serving_{secrets.token_hex(4)}"
    execute(database_url, *(statement.replace("messaging_serving", role) for statement in made))
    url = make_url(database_url).set(username=role, password="serving_password")  # noqa: S106 - of the page
    yield url.render_as_string(hide_password=False)
    execute(database_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_a_role_without_a_right_to_the_schema_serves_and_delivers(
    settings: Settings, database_url: str, served_as: str
) -> None:
    key = bearer(make_key(database_url))
    app = create_app(production(settings, database_url=served_as))
    async with app.router.lifespan_context(app), client_of(app) as client:
        client.headers.update(key)
        for path, make in SENDS.items():
            assert (await client.post(path, json=make())).status_code == 200

        async def statuses() -> list[str]:
            return [message["status"] for message in (await client.get("/api/messages")).json()]

        await until(statuses, lambda found: found == ["delivered"] * len(SENDS))
        assert (await client.post("/api/admin/tenants", json={"name": "Acme"})).is_success
        [contact] = (await client.get("/api/contacts", params={"address": CONTACT})).json()
        assert (await client.delete(f"/api/contacts/{contact['id']}")).status_code == 200


def test_that_role_can_change_nothing_but_rows(served_as: str) -> None:
    for statement in (
        "DROP TABLE messages",
        "ALTER TABLE messages ADD COLUMN x int",
        "CREATE TABLE x ()",
        "TRUNCATE messages",
        "CREATE ROLE x",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            rows_of(served_as, statement)
