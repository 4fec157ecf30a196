"""The ledger: entries are added, refusals begin once for each source, and each source has its own way back."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.consent import ConsentScope, ConsentSource
from app.services.consent.hashes import AddressHashes
from app.services.consent.ledger import Said, grant, hide_address, refusals_of, revoke
from tests.factories import CONTACT
from tests.tenancy import make_tenant

pytestmark = pytest.mark.anyio

STOPPED = Said(CONTACT, "phone", ConsentSource.KEYWORD, message_id=7, detail="STOP")
NEWSLETTER = replace(STOPPED, source=ConsentSource.API, scope=ConsentScope.TOPIC, scope_value="newsletter")
BOUNCED = replace(STOPPED, source=ConsentSource.HARD_BOUNCE)
HASHES = AddressHashes(["new", "old"])


async def _ask(connection: AsyncConnection, question: str) -> list[tuple[Any, ...]]:
    everything = text(question).execution_options(all_tenants="a test looks at all there is")
    return [tuple(row) for row in await connection.execute(everything)]


async def _sources(connection: AsyncConnection, *addresses: str, tenant_id: int = 1) -> list[ConsentSource]:
    return [refusal.source for refusal in await refusals_of(connection, tenant_id, addresses or [CONTACT])]


async def test_a_refusal_holds_once_for_each_source_and_scope(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        first = await revoke(connection, 1, [STOPPED, STOPPED, NEWSLETTER, BOUNCED])
        again = await revoke(connection, 1, [STOPPED, replace(NEWSLETTER, scope_value="offers")])
        assert [entry is None for entry in [*first, *again]] == [False, True, False, False, True, False]
        found = await refusals_of(connection, 1, [CONTACT])
        assert [(each.scope, each.scope_value, each.source) for each in found] == [
            (ConsentScope.EVERYTHING, "", ConsentSource.HARD_BOUNCE),
            (ConsentScope.EVERYTHING, "", ConsentSource.KEYWORD),
            (ConsentScope.TOPIC, "newsletter", ConsentSource.API),
            (ConsentScope.TOPIC, "offers", ConsentSource.API),
        ]
        assert found[1].message_id == 7
        assert found[1].entry_id == first[0]
        # An entry for each change, and an event of the log for each entry.
        assert await _ask(connection, "SELECT count(*) FROM consent_entries") == [(4,)]
        facts = await _ask(connection, "SELECT type, (facts ->> 'entry_id')::int FROM events ORDER BY id")
        assert sorted(facts) == [("consent.revoked", each) for each in sorted(filter(None, [*first, *again]))]


async def test_start_ends_what_the_person_said_and_no_bounce(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await revoke(connection, 1, [STOPPED, NEWSLETTER, BOUNCED])
        assert await grant(connection, 1, STOPPED, every_scope=True) is not None
        assert await _sources(connection) == [ConsentSource.HARD_BOUNCE]


async def test_consent_of_one_scope_leaves_the_others(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await revoke(connection, 1, [STOPPED, NEWSLETTER])
        assert await grant(connection, 1, NEWSLETTER) is not None
        assert await _sources(connection) == [ConsentSource.KEYWORD]


async def test_a_yes_to_another_question_writes_nothing(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await revoke(connection, 1, [BOUNCED])
        assert await grant(connection, 1, STOPPED, every_scope=True, only_if_refused=True) is None
        assert await _ask(connection, "SELECT action FROM consent_entries") == [("revoked",)]
        await revoke(connection, 1, [STOPPED])
        assert await grant(connection, 1, STOPPED, every_scope=True, only_if_refused=True) is not None


async def test_another_tenant_and_another_address_are_not_concerned(engine: AsyncEngine, database_url: str) -> None:
    other = make_tenant(database_url)
    async with engine.begin() as connection:
        await revoke(connection, 1, [STOPPED])
        await grant(connection, other, STOPPED, every_scope=True)
        await grant(connection, 1, replace(STOPPED, address="+18045550000"), every_scope=True)
        assert await _sources(connection) == [ConsentSource.KEYWORD]
        assert await _sources(connection, tenant_id=other) == []


async def test_an_erased_persons_refusal_is_found_by_the_hash_alone(engine: AsyncEngine) -> None:
    newest, older = HASHES.of(1, CONTACT)
    async with engine.begin() as connection:
        await revoke(connection, 1, [STOPPED, NEWSLETTER])
        await hide_address(connection, 1, CONTACT, newest)
        found = await _ask(connection, "SELECT address, detail FROM consent_entries")
        found += await _ask(connection, "SELECT address, NULL FROM suppressions")
        assert set(found) == {(newest, None)}
        assert await _sources(connection) == []
        assert len(await _sources(connection, CONTACT, newest, older)) == 2
        # The person says it again, and is erased again.
        await revoke(connection, 1, [STOPPED])
        await hide_address(connection, 1, CONTACT, newest)
        assert len(await _sources(connection, newest)) == 2
        # The person writes START.
        await grant(connection, 1, STOPPED, hashes=[newest, older], every_scope=True)
        assert await _sources(connection, CONTACT, newest, older) == []


def test_a_hash_tells_tenants_addresses_and_secrets_apart() -> None:
    hashes = {*HASHES.of(1, CONTACT), *HASHES.of(2, CONTACT), *HASHES.of(1, "+18045550000")}
    assert len(hashes) == 6
    assert [hash.rpartition(":")[0] for hash in HASHES.of(1, CONTACT)] == HASHES.names
    assert AddressHashes(["old", "newer"]).of(1, CONTACT)[0] == HASHES.of(1, CONTACT)[1]
    assert not any(CONTACT in hash or "old" in hash for hash in hashes)
