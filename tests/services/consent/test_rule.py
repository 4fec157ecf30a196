"""The rule by which a refusal stops a message: one table, for the function and for the condition in SQL."""

import pytest
from sqlalchemy import Text, cast, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.consent import ConsentScope, ConsentSource
from app.db.models import Suppression
from app.domain import Purpose
from app.services.consent.rule import Intended, stops, stops_in_sql
from tests.cases import each_case

pytestmark = pytest.mark.anyio

EVERYTHING, CHANNEL, SENDER, TOPIC = ConsentScope
SERVICE, CONFIRMATION = Purpose
SHOP, OFFICE = "+12016661234", "+12016665678"

#: The refusal, the message, and whether it stops it.
TABLE = [
    ((EVERYTHING, ""), Intended("sms", SHOP), True),
    ((EVERYTHING, ""), Intended("email", "shop@client.example", "newsletter"), True),
    ((EVERYTHING, ""), Intended("sms", SHOP, None, SERVICE), True),
    ((EVERYTHING, ""), Intended("sms", SHOP, "newsletter", SERVICE), True),
    ((EVERYTHING, ""), Intended("sms", SHOP, None, CONFIRMATION), False),
    ((CHANNEL, "sms"), Intended("sms", SHOP), True),
    ((CHANNEL, "sms"), Intended("sms", SHOP, None, SERVICE), True),
    ((CHANNEL, "sms"), Intended("whatsapp", SHOP), False),
    ((CHANNEL, "sms"), Intended("sms", SHOP, None, CONFIRMATION), False),
    ((SENDER, SHOP), Intended("sms", SHOP), True),
    ((SENDER, SHOP), Intended("sms", SHOP, None, SERVICE), True),
    ((SENDER, SHOP), Intended("sms", OFFICE), False),
    ((SENDER, SHOP), Intended("sms", SHOP, None, CONFIRMATION), False),
    ((TOPIC, "newsletter"), Intended("email", "a@b.example", "newsletter"), True),
    ((TOPIC, "newsletter"), Intended("sms", SHOP, "newsletter"), True),
    ((TOPIC, "newsletter"), Intended("email", "a@b.example", "newsletter", SERVICE), False),
    ((TOPIC, "newsletter"), Intended("email", "a@b.example", "orders"), False),
    ((TOPIC, "newsletter"), Intended("email", "a@b.example"), False),
    ((TOPIC, "newsletter"), Intended("email", "a@b.example", None, SERVICE), False),
    ((TOPIC, "newsletter"), Intended("email", "a@b.example", "newsletter", CONFIRMATION), False),
    # A word of one scope means nothing in another.
    ((TOPIC, "sms"), Intended("sms", SHOP), False),
    ((CHANNEL, SHOP), Intended("sms", SHOP), False),
]


@each_case(("refusal", "message", "stopped"), TABLE)
def test_a_refusal_stops_what_it_is_about(
    refusal: tuple[ConsentScope, str], message: Intended, stopped: bool
) -> None:
    assert stops(*refusal, message) is stopped


async def test_the_condition_in_sql_is_the_same_rule(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        found = [await _stops_in_sql(connection, str(number), *case[:2]) for number, case in enumerate(TABLE)]
    assert found == [stopped for _, _, stopped in TABLE]


async def _stops_in_sql(
    connection: AsyncConnection, address: str, refusal: tuple[ConsentScope, str], message: Intended
) -> bool:
    row = {
        "tenant_id": 1,
        "address": address,
        "address_type": "phone",
        "source": ConsentSource.API.value,
        "entry_id": 1,
    }
    scope, value = refusal
    added = insert(Suppression).values(row | {"scope": scope.value, "scope_value": value}).returning(Suppression.id)
    id = (await connection.execute(added)).scalar_one()
    names = ("channel", "sender", "topic", "purpose")
    given = {name: cast(getattr(message, name), Text()) for name in names}
    of_message = select(*(value.label(name) for name, value in given.items())).subquery()
    condition = stops_in_sql(*(of_message.c[name] for name in names))
    question = select(condition).select_from(of_message).join(Suppression, Suppression.id == id)
    return bool((await connection.execute(question.where(Suppression.tenant_id == 1))).scalar_one())
