"""The wall behind the code: what does not name its tenant is not executed, whichever way it is written."""

import ast
import re
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import httpx
import pytest
from sqlalchemy import (
    Select,
    and_,
    column,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    table,
    text,
    true,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import aliased, foreign, joinedload, registry, relationship, selectinload
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.elements import BinaryExpression

from app import services
from app.db.models import Base, Contact, Conversation, ConversationParticipant, DeliveryAttempt, Message, Tenant
from app.db.statements import paging
from app.db.tenant_guard import ALL_TENANTS, TENANTS_TABLES, TenantNotNamed
from app.services.messages import conversations
from app.services.messages.json_views import CONVERSATION
from tests.cases import each_case
from tests.factories import make_messages

pytestmark = pytest.mark.anyio

APP = Path(__file__).parents[2] / "app"
TENANT = literal(1)
other = aliased(Message)
M, A, C = Message, DeliveryAttempt, Conversation


@pytest.fixture
async def connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with engine.connect() as connection:
        yield connection


@pytest.fixture
async def sent(connection: AsyncConnection) -> list[str]:
    """The statements that the driver sends to PostgreSQL."""
    queries: list[str] = []
    driver: Any = (await connection.get_raw_connection()).driver_connection
    driver.add_query_logger(lambda record: queries.append(record.query))
    return queries


def unnamed_cte() -> Any:
    return select(M.id).cte("every")


def called(name: str, its_name: str) -> Any:
    return select(literal(2).label(name)).cte(its_name)


CALLED = called("tenant_id", "any")

FORGOTTEN: dict[str, Any] = {
    "select": select(M.id).where(M.id == 1),
    "select without a condition": select(func.count()).select_from(M),
    "another column": select(M.id).where(M.conversation_id == TENANT),
    "the joined table": select(M.id).join(A, A.message_id == M.id).where(M.tenant_id == TENANT),
    "the first of two": select(M.id).join(A, A.message_id == M.id).where(A.tenant_id == TENANT),
    "both, though they are of the same": select(M.id).join(A, A.tenant_id == M.tenant_id),
    "the second of FROM": select(M.id).where(M.tenant_id == TENANT, A.message_id == M.id).add_columns(A.number),
    "an outer join names the left": select(M.id).outerjoin(A, and_(M.tenant_id == TENANT, A.tenant_id == TENANT)),
    "an outer join leaves the right": select(M.id).outerjoin(A, A.message_id == M.id).where(M.tenant_id == TENANT),
    "a full join": select(M.id).join(A, and_(M.tenant_id == TENANT, A.tenant_id == TENANT), full=True),
    "an alias": select(M.id).join(other, other.id > M.id).where(M.tenant_id == TENANT),
    "the alias's own table": select(other.id).where(M.tenant_id == TENANT, other.id == M.id, other.tenant_id > 0),
    "a scalar subquery": select(select(func.count()).select_from(A).where(A.message_id == 1).scalar_subquery()),
    "a subquery in FROM": select(select(M.id).subquery()),
    "a lateral subquery": select(C.id)
    .join(select(M.id).where(M.conversation_id == C.id).lateral(), true())
    .where(C.tenant_id == TENANT),
    "a table named by a lateral subquery that leans on it": select(M.id).join(
        select(A.tenant_id).where(A.tenant_id == M.tenant_id).lateral("leaning"), true()
    ),
    "a CTE": select(unnamed_cte()),
    "a CTE beside": select(literal(1)).add_cte(unnamed_cte()),
    "a CTE that writes": select(literal(1)).add_cte(delete(M).returning(M.id).cte("gone")),
    "EXISTS": select(M.id).where(M.tenant_id == TENANT, exists().where(A.message_id == M.id)),
    "NOT EXISTS": select(M.id).where(M.tenant_id == TENANT, ~exists().where(A.message_id == M.id)),
    "IN (SELECT)": select(M.id).where(M.tenant_id == TENANT, M.id.in_(select(A.message_id))),
    "EXISTS names only itself": select(M.id).where(exists().where(A.tenant_id == TENANT)),
    "one side of a UNION": union_all(select(M.id).where(M.tenant_id == TENANT), select(A.message_id)),
    "the order": select(literal(1)).order_by(select(M.id).limit(1).scalar_subquery()),
    "OR": select(M.id).where(or_(M.tenant_id == TENANT, true())),
    "OR with another condition": select(M.id).where(or_(M.tenant_id == TENANT, M.id == 1)),
    "AND within OR": select(M.id).where(or_(and_(M.tenant_id == TENANT, M.id == 1), M.id == 2)),
    "NOT": select(M.id).where(~(M.tenant_id == TENANT)),
    "NOT of an AND": select(M.id).where(~and_(M.tenant_id == TENANT, M.id == 1)),
    "is not": select(M.id).where(M.tenant_id != TENANT),
    "at least": select(M.id).where(M.tenant_id >= TENANT),
    "itself": select(M.id).where(M.tenant_id == M.tenant_id),
    "another column of its own": select(M.id).where(M.tenant_id == M.id),
    "another column of one that is named": select(M.id).where(A.tenant_id == TENANT, M.tenant_id == A.message_id),
    "another column of the tenants table": select(M.id).where(M.tenant_id == Tenant.name),
    "a CTE that is called tenants": select(M.id).where(M.tenant_id == called("id", "tenants").c.id),
    "a column that is called tenant_id": select(CALLED).where(exists().where(M.tenant_id == CALLED.c.tenant_id)),
    "several tenants": select(M.id).where(M.tenant_id.in_([1, 2])),
    "every tenant": select(M.id).where(M.tenant_id.in_(select(Tenant.id))),
    "several tenants, as a row": select(M.id).where(tuple_(M.tenant_id, M.id).not_in([(1, 1)])),
    "a computed value": select(M.id).where(M.tenant_id == func.abs(TENANT)),
    "a CASE": select(M.id).where(func.coalesce(M.tenant_id == TENANT, true())),
    "HAVING": select(M.tenant_id).group_by(M.tenant_id).having(M.tenant_id == TENANT),
    "update": update(M).where(M.id == 1).values(body=""),
    "update without a condition": update(M).values(body=""),
    "update OR": update(M).where(or_(M.tenant_id == TENANT, M.id == 1)).values(body=""),
    "update FROM": update(M).where(M.tenant_id == TENANT, A.message_id == M.id).values(body=A.detail),
    "update to a subquery": update(M)
    .where(M.tenant_id == TENANT)
    .values(body=select(C.customer_address).where(C.id == M.conversation_id).scalar_subquery()),
    "delete": delete(M).where(M.id == 1),
    "delete without a condition": delete(M),
    "delete USING": delete(M).where(M.tenant_id == TENANT, A.message_id == M.id),
    "insert": insert(Contact).values(address="a@b.example", address_type="email", written="a@b.example"),
    "insert of nothing": insert(Contact).values(),
    "insert FROM SELECT": insert(Contact).from_select(["address"], select(literal("a@b.example"))),
    "insert beside one that names it": insert(A)
    .from_select(["message_id"], select(literal(1)))
    .add_cte(insert(Contact).values(tenant_id=1, address="", address_type="", written="").cte("named")),
    "insert FROM another's": insert(Contact).from_select(["tenant_id", "id"], select(TENANT, M.id)),
    "text": text("SELECT count(*) FROM messages"),
    "text that names it": text("SELECT id FROM messages WHERE tenant_id = 1"),
    "text in other letters": text('DELETE FROM public."Messages"'.lower().upper()),
    "text as a part": select(literal(1)).select_from(text("messages")),
    "text as a condition": select(literal(1)).where(text("EXISTS (SELECT FROM messages)")),
    "text as a column": select(literal_column("(SELECT max(id) FROM messages)")),
    "text as a prefix": select(literal(1)).prefix_with(text("(SELECT max(id) FROM messages),")),
    "text with columns": text("SELECT id FROM messages").columns(column("id")),
    "a table by its name": select(table("messages", column("id")).c.id),
}

NAMED: dict[str, Any] = {
    "a parameter": select(M.id).where(M.tenant_id == TENANT),
    "a value": select(M.id).where(literal(1) == M.tenant_id, M.id == 1),
    "within brackets": select(M.id).where(and_(M.id == 1, and_(M.tenant_id == 1, M.body != "")).self_group()),
    "by way of another": select(M.id)
    .join(A, and_(A.tenant_id == M.tenant_id, A.message_id == M.id))
    .join(C, C.tenant_id == A.tenant_id)
    .where(C.tenant_id == TENANT),
    "in the condition of a join": select(M.id).join(A, and_(M.tenant_id == TENANT, A.tenant_id == TENANT)),
    "an outer join": select(M.id).outerjoin(A, A.tenant_id == M.tenant_id).where(M.tenant_id == TENANT),
    "an alias": select(M.id).join(other, other.tenant_id == M.tenant_id).where(M.tenant_id == TENANT),
    "around it": select(M.id).where(M.tenant_id == TENANT, exists().where(A.tenant_id == M.tenant_id)),
    "for each tenant": select(Tenant.id).where(exists().where(M.tenant_id == Tenant.id)),
    "rows by their keys": select(M.id).where(tuple_(M.tenant_id, M.id).in_([(1, 1), (1, 2)])),
    "a CTE": select(select(M.id).where(M.tenant_id == TENANT).cte("own")),
    "update": update(M).where(M.tenant_id == TENANT, M.id == 1).values(body=""),
    "delete": delete(A).where(A.tenant_id == TENANT, A.message_id == M.id, M.tenant_id == A.tenant_id),
    "insert": insert(Contact).values(tenant_id=1, address="a@b.example", address_type="email", written="a@b.example"),
    "no tenant's table": select(Tenant.name),
    "text about something else": text("SELECT 1 AS messages_due"),
}


#: SQLAlchemy warns of an INSERT without the first column of its key, where it can tell.
no_key = pytest.mark.filterwarnings("ignore:Column 'contacts.tenant_id' is marked as a member of the primary key")


@no_key
@each_case("statement", FORGOTTEN.values(), ids=FORGOTTEN)
async def test_what_leaves_the_tenant_open_is_not_executed(
    connection: AsyncConnection, sent: list[str], statement: Any
) -> None:
    with pytest.raises(TenantNotNamed):
        await connection.execute(statement)
    assert sent == []


@each_case("statement", NAMED.values(), ids=NAMED)
async def test_what_names_the_tenant_is_executed(
    connection: AsyncConnection, sent: list[str], statement: Any
) -> None:
    await connection.execute(statement)
    assert sent == ["BEGIN;"]  # which goes before anything else; the statement itself is prepared


async def test_a_driver_s_own_sql_and_what_changes_tables_is_text_as_well(connection: AsyncConnection) -> None:
    for statement in ("DELETE FROM messages", "TRUNCATE contacts", 'SELECT FROM public."conversations"'):
        with pytest.raises(TenantNotNamed):
            await connection.exec_driver_sql(statement)
    with pytest.raises(TenantNotNamed):
        await connection.run_sync(Message.__table__.drop)  # type: ignore[attr-defined]


@no_key
async def test_many_rows_at_once_are_looked_at_too(connection: AsyncConnection) -> None:
    rows = [{"address": f"{n}@b.example", "address_type": "email", "written": ""} for n in range(3)]
    with pytest.raises(TenantNotNamed):
        await connection.execute(insert(Contact), rows)
    with pytest.raises(TenantNotNamed):
        await connection.execute(insert(Contact).values(rows))
    with pytest.raises(TenantNotNamed):
        await connection.execute(insert(Contact).returning(Contact.id), rows)
    await connection.execute(insert(Contact).returning(Contact.id), [row | {"tenant_id": 1} for row in rows])


class LooseMessage:
    attempts: list["LooseAttempt"]


class LooseAttempt:
    pass


def _map_without_the_tenant() -> None:
    """The same tables as others might map them: a relationship that goes by the message's id alone."""
    loose = registry()
    attempts, messages = DeliveryAttempt.__table__, Message.__table__
    loose.map_imperatively(LooseAttempt, attempts)
    by_id = relationship(
        LooseAttempt,
        primaryjoin=messages.c.id == foreign(attempts.c.message_id),
        viewonly=True,
        uselist=True,
    )
    loose.map_imperatively(LooseMessage, messages, properties={"attempts": by_id})


_map_without_the_tenant()


async def test_the_load_of_a_relationship_is_looked_at_like_any_other(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await make_messages(connection, 2)
    async with AsyncSession(engine) as session:
        for load in (selectinload, joinedload):
            own: Select[Any] = select(Message).where(Message.tenant_id == TENANT).options(load(Message.attempts))
            assert len((await session.scalars(own)).unique().all()) == 2
            loose: Select[Any] = (
                select(LooseMessage).where(Message.tenant_id == TENANT).options(load(LooseMessage.attempts))  # type: ignore[arg-type]
            )
            with pytest.raises(TenantNotNamed):
                await session.scalars(loose)
        participants = selectinload(Conversation.participants).selectinload(ConversationParticipant.contact)
        everyone = select(Conversation).where(Conversation.tenant_id == TENANT).options(participants)
        assert {len(each.participants) for each in await session.scalars(everyone)} == {2}


async def test_what_the_orm_writes_by_itself_names_the_tenant(engine: AsyncEngine) -> None:
    async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
        contact = Contact(tenant_id=1, address="a@b.example", address_type="email", written="a@b.example")
        session.add(contact)
        await session.flush()
        contact.written = "A@b.example"
        await session.flush()
        await session.refresh(contact)
        session.expunge(contact)
        found = await session.get(Contact, (1, contact.id))
        assert found is not None
        await session.delete(found)


async def test_what_is_about_all_tenants_says_so_and_why(connection: AsyncConnection) -> None:
    every = select(func.count()).select_from(Message)
    with pytest.raises(TenantNotNamed):
        await connection.execute(every)
    assert (await connection.execute(every.execution_options(all_tenants="a test counts them"))).scalar() == 0
    with pytest.raises(TenantNotNamed):  # also now that it has been rendered, and let through, before
        await connection.execute(every)
    with pytest.raises(TenantNotNamed):
        await connection.execute(every.execution_options(all_tenants=""))


#: What in the service spans all tenants without naming each, and why.
ABOUT_ALL_TENANTS = {"the address finds the tenant"}


def test_nothing_in_the_service_is_about_all_tenants_but_what_stands_here() -> None:
    reasons = set()
    for path in APP.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == ALL_TENANTS:
                reasons.add(ast.literal_eval(node.value))
            elif isinstance(node, ast.Dict):
                named = zip(node.keys, node.values, strict=True)
                reasons |= {ast.literal_eval(value) for key, value in named if _is_the_option(key)}
    assert reasons == ABOUT_ALL_TENANTS


def _is_the_option(key: ast.expr | None) -> bool:
    return isinstance(key, ast.Constant) and key.value == ALL_TENANTS


def test_every_table_but_five_belongs_to_tenants() -> None:
    own = {"tenants", "provider_states", "shared_tasks", "installation", "figures"}
    assert set(Base.metadata.tables) - TENANTS_TABLES == own


async def test_a_refusal_is_logged_without_what_was_asked(
    connection: AsyncConnection, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TenantNotNamed, match="messages") as refused:
        await connection.execute(select(Message.id).where(Message.body == "a secret"))
    [entry] = [record.msg for record in caplog.records if "tenant_not_named" in str(record.msg)]
    assert "messages" in str(entry)
    assert "secret" not in f"{entry} {refused.value}"


def _statements() -> dict[str, Any]:
    """The statements that the services keep ready made."""
    modules = (
        import_module(module.name) for module in walk_packages(services.__path__, "app.services.") if not module.ispkg
    )
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}": value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, Select | UpdateBase) and ALL_TENANTS not in value.get_execution_options()
    }


def _named_by_parameter(statement: Any) -> list[BinaryExpression[Any]]:
    found = {id(part): part for part in visitors.iterate(statement) if isinstance(part, BinaryExpression)}
    return [part for part in found.values() if re.fullmatch(r"\w+\.tenant_id = :\w+", str(part))]


async def test_no_statement_of_the_services_passes_without_one_of_its_tenants(engine: AsyncEngine) -> None:
    stripped, passed = 0, []
    for name, statement in _statements().items():
        for predicate in _named_by_parameter(statement):
            assert not statement.compile(dialect=engine.dialect).unnamed
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(predicate, "operator", operators.ge)
                stripped += 1
                if not statement.compile(dialect=engine.dialect).unnamed:
                    passed.append(f"{name} without {predicate}")
    assert passed == []
    assert stripped > 20


async def test_the_wall_holds_alone_when_a_service_forgets_its_tenant(
    client: httpx.AsyncClient, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another tenant's conversation, a service that no longer asks for its own only, and a request through it."""
    async with engine.begin() as connection:
        theirs = insert(Tenant).values(name="other").returning(Tenant.id)
        tenant = (await connection.execute(theirs)).scalar_one()
        await connection.execute(
            insert(Conversation).values(
                tenant_id=tenant, customer_address="a", contact_address="b", last_activity_at=func.now()
            )
        )
    assert (await client.get("/api/conversations")).json() == []

    without_its_tenant = paging.JsonPages(
        CONVERSATION, order=(Conversation.last_activity_at, Conversation.id), newest_first=True
    )
    monkeypatch.setattr(conversations, "_pages_of", lambda *_: without_its_tenant)
    answer = await client.get("/api/conversations")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "conversations" not in answer.text
