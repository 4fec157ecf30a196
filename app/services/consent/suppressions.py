"""A tenant's list of refusals, as its team works with it: looked up, extended one by one or in bulk, and lifted."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import ARRAY, ColumnElement, Row, Select, Text, and_, any_, bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker

from app.config import Settings
from app.consent import SAID_BY_PERSON, ConsentScope, ConsentSource, LineStatus
from app.db.connectivity.outage import outage
from app.db.engine import is_unavailable
from app.db.models import ConsentEntry, Contact, Suppression
from app.db.statements.batches import TENANT
from app.db.statements.paging import Page, fetch_page, rows_of_all
from app.domain import Address, Channel
from app.errors import ContactNotFound, FieldError, InvalidRequest, SuppressionNotFound
from app.routing import channels_served
from app.schemas.consent import LineResult, NewSuppression
from app.services.consent.additions import NOT_YOURS, AdditionRules, in_words
from app.services.consent.check import HAS_HASHED
from app.services.consent.hashes import AddressHashes
from app.services.consent.ledger import Said, lift, revoke
from app.services.tenancy.addresses import AddressOwners
from app.services.tenancy.audit import record

#: Refusals added in a transaction, which then takes a few ten milliseconds.
BATCH = 250
#: Rows in a page of all refusals.
_PAGE = 1000
#: Between two tries of a batch.
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class SuppressionFilter:
    """The refusals to list; None stands for all."""

    address: Address | None = None
    source: ConsentSource | None = None
    scope: ConsentScope | None = None
    scope_value: str | None = None


class Held(NamedTuple):
    """A refusal that holds, and the entry that began it."""

    suppression: Suppression
    entry: ConsentEntry


class Line(NamedTuple):
    """A line of a list, by its number from 1; a text is the reason why it can't be read."""

    number: int
    content: NewSuppression | str


class Suppressions:
    """The refusals of one tenant. What is changed is in the ledger under `actor`, and lifting also in the audit.

    `on_logged` is called with the tenant after a commit that its event log tells.
    """

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        settings: Settings,
        owners: AddressOwners,
        hashes: AddressHashes,
        tenant_id: int,
        *,
        actor: str | None,
        client: str | None = None,
        on_logged: Callable[[int], None],
    ) -> None:
        self._sessions = sessions
        channels = channels_served(settings).union(Channel)
        self._rules = AdditionRules(tenant_id, owners, channels, settings.default_region, actor)
        self._hashes = hashes
        self._tenant_id = tenant_id
        self._actor = actor
        self._client = client
        self._on_logged = on_logged

    async def page(self, wanted: SuppressionFilter, *, limit: int, cursor: str | None) -> Page[Suppression]:
        """Refusals that hold, the newest first. An address also finds those of a person who was erased."""
        conditions = [
            getattr(Suppression, name) == value
            for name in ("source", "scope", "scope_value")
            if (value := getattr(wanted, name)) is not None
        ]
        if wanted.address is not None:
            conditions.append(Suppression.address.in_(self._known_as(wanted.address.value)))
        statement = select(Suppression).where(Suppression.tenant_id == self._tenant_id, *conditions)
        async with self._sessions() as session:
            return await fetch_page(
                session, statement, order=(Suppression.id,), newest_first=True, limit=limit, cursor=cursor
            )

    async def get(self, suppression_id: int) -> Held:
        """Raises `SuppressionNotFound`."""
        async with self._sessions() as session:
            return await self._get(session, suppression_id)

    def all(self) -> AsyncIterator[Held]:
        """Every refusal that holds, the oldest first; at most a page of them is in memory."""

        async def page_at(cursor: str | None) -> Page[Held]:
            own = select(Suppression).where(Suppression.tenant_id == self._tenant_id)
            async with self._sessions() as session:
                page = await fetch_page(
                    session, own, order=(Suppression.id,), newest_first=False, limit=_PAGE, cursor=cursor
                )
                its_entries = select(ConsentEntry).where(
                    ConsentEntry.tenant_id == self._tenant_id,
                    ConsentEntry.id.in_([each.entry_id for each in page.rows]),
                )
                entries = {entry.id: entry for entry in await session.scalars(its_entries)}
            return Page([Held(each, entries[each.entry_id]) for each in page.rows], page.next, page.previous)

        return rows_of_all(page_at)

    async def add(self, new: NewSuppression) -> tuple[Held, bool]:
        """Add a refusal; false with the one that is there if it holds already. Raises `InvalidRequest`."""
        said = self._rules.said(new, ConsentSource.API)
        if not await self._rules.may_name(said):
            raise InvalidRequest("The sender is another's.", errors=[NOT_YOURS])
        while True:
            async with self._sessions.begin() as session:
                [entry_id] = await self._revoke(await session.connection(), [said])
                known_as = Suppression.address.in_(self._known_as(said.address))
                found = await session.execute(_held(and_(Suppression.tenant_id == self._tenant_id, known_as)))
                held = [Held(row[0], row[1]) for row in found if _covers(row[0], said)]
            if held:
                break  # otherwise the one that was there has just been lifted
        if entry_id is not None:
            self._on_logged(self._tenant_id)
        return held[0], entry_id is not None

    async def add_all(
        self, lines: Iterable[Line], *, patience_seconds: float = 0.0
    ) -> AsyncIterator[list[LineResult]]:
        """Add the refusals of a list of any length; yields the results of each batch after its commit.

        A line that is refused harms no other. While the database is away or busy, a batch is tried again for
        `patience_seconds`. Then its error is raised: the batches before are stored, and the same list can be given
        again. A batch whose commit was cut off may be stored: tried again, its lines are held already.
        """
        left = iter(lines)
        # In a thread, because reading some hundred addresses would hold up all other requests.
        while judged := await asyncio.to_thread(self._judged, left):
            yield await self._add_patiently(judged, patience_seconds)

    async def lift(self, suppression_id: int, *, reason: str, evidence: str | None) -> ConsentEntry:
        """End one refusal, and no other of the same person; returns the entry of that.

        Raises `SuppressionNotFound`, also where it was lifted before, and `InvalidRequest` without `evidence` for a
        refusal by the person.
        """
        async with self._sessions.begin() as session:
            suppression, _ = await self._get(session, suppression_id)
            if suppression.source in SAID_BY_PERSON and evidence is None:
                error = FieldError("body.evidence", "the person has refused: say what shows that they agree now")
                raise InvalidRequest("This refusal is lifted only with evidence.", errors=[error])
            detail = reason if evidence is None else f"{reason} Evidence: {evidence}"
            connection = await session.connection()
            entry_id = await lift(connection, self._tenant_id, suppression_id, detail=detail, actor=self._actor)
            if entry_id is None:
                raise _not_found()
            # Reason and evidence may name the person, and the audit outlives an erasure: it refers to the entry.
            facts = {"source": suppression.source, "scope": suppression.scope, "entry_id": entry_id}
            await record(
                session, self._tenant_id, "suppression_lifted", actor=self._actor, client=self._client, **facts
            )
            entry = await session.get_one(ConsentEntry, (self._tenant_id, entry_id))
        self._on_logged(self._tenant_id)
        return entry

    async def refusals_of(self, contact_id: int) -> Sequence[Suppression]:
        """The refusals that hold for a contact, the oldest first; of a group those of its members.

        Raises `ContactNotFound`.
        """
        async with self._sessions() as session:
            known_as = await self._addresses_of(session, contact_id)
            statement = select(Suppression).where(
                Suppression.tenant_id == self._tenant_id, Suppression.address.in_(known_as)
            )
            return (await session.scalars(statement.order_by(Suppression.id))).all()

    async def history_of(self, contact_id: int, *, limit: int, cursor: str | None) -> Page[ConsentEntry]:
        """Everything that was said about messages to a contact, the newest first. Raises `ContactNotFound`."""
        async with self._sessions() as session:
            known_as = await self._addresses_of(session, contact_id)
            statement = select(ConsentEntry).where(
                ConsentEntry.tenant_id == self._tenant_id, ConsentEntry.address.in_(known_as)
            )
            return await fetch_page(
                session, statement, order=(ConsentEntry.id,), newest_first=True, limit=limit, cursor=cursor
            )

    async def _get(self, session: AsyncSession, suppression_id: int) -> Held:
        is_it = and_(Suppression.tenant_id == self._tenant_id, Suppression.id == suppression_id)
        found = (await session.execute(_held(is_it))).one_or_none()
        if found is None:
            raise _not_found()
        return Held(found[0], found[1])

    async def _addresses_of(self, session: AsyncSession, contact_id: int) -> list[str]:
        is_it = Contact.tenant_id == self._tenant_id, Contact.id == contact_id, Contact.erasing_since.is_(None)
        contact = await session.scalar(select(Contact).where(*is_it))
        if contact is None:
            raise ContactNotFound("There is no contact with this id.")
        return self._known_as(contact.address)

    def _known_as(self, address: str) -> list[str]:
        return self._hashes.known_as(self._tenant_id, address)

    def _judged(self, lines: Iterator[Line]) -> list[tuple[int, Said | str]]:
        """The next lines, each as a statement or with the reason why it is refused."""
        return [(line.number, self._rules.read(line.content)) for line in islice(lines, BATCH)]

    async def _add_patiently(self, judged: Sequence[tuple[int, Said | str]], seconds: float) -> list[LineResult]:
        gives_up_at = time.monotonic() + seconds
        while True:
            try:
                return await self._add_batch(judged)
            except Exception as error:
                if not is_unavailable(error) or time.monotonic() >= gives_up_at:
                    raise
                outage.note(error, action="waiting for it")
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _add_batch(self, judged: Sequence[tuple[int, Said | str]]) -> list[LineResult]:
        read = [
            (number, said if isinstance(said, str) or await self._rules.may_name(said) else in_words(NOT_YOURS))
            for number, said in judged
        ]
        valid = [said for _, said in read if isinstance(said, Said)]
        async with self._transaction() as connection:
            entries = await self._revoke(connection, valid)
        if any(entries):
            self._on_logged(self._tenant_id)
        added = iter(entries)
        return [
            LineResult(line=number, status=LineStatus.REFUSED, sentence=said)
            if isinstance(said, str)
            else LineResult(line=number, status=LineStatus.ADDED if next(added) else LineStatus.HELD, sentence=None)
            for number, said in read
        ]

    async def _revoke(self, connection: AsyncConnection, said: Sequence[Said]) -> list[int | None]:
        """The id of the entry for each, None where the refusal holds already, also that of an erased person."""
        erased = await self._held_by_erased(connection, said)
        entries = iter(await revoke(connection, self._tenant_id, [each for each in said if each not in erased]))
        return [None if each in erased else next(entries) for each in said]

    async def _held_by_erased(self, connection: AsyncConnection, said: Sequence[Said]) -> set[Said]:
        """Those that an erased person's refusal covers. Their addresses are not stored again."""
        if not (await connection.execute(_HAS_HASHED, {"tenant": self._tenant_id})).scalar_one():
            return set()
        known = {hash: each.address for each in said for hash in self._hashes.of(self._tenant_id, each.address)}
        covering: dict[str, list[Any]] = {}
        for row in await connection.execute(_HASHED, {"tenant": self._tenant_id, "addresses": list(known)}):
            covering.setdefault(known[row.address], []).append(row)
        return {each for each in said if any(_covers(row, each) for row in covering.get(each.address, []))}

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        async with self._sessions.begin() as session:
            yield await session.connection()


_is_hashed = and_(Suppression.tenant_id == TENANT, Suppression.is_hashed)
_HAS_HASHED = select(HAS_HASHED)
_HASHED = select(Suppression.address, Suppression.is_hashed, Suppression.scope, Suppression.scope_value).where(
    _is_hashed, Suppression.address == any_(bindparam("addresses", type_=ARRAY(Text())))
)


def _held(is_it: ColumnElement[bool]) -> Select[Suppression, ConsentEntry]:
    its_entry = and_(ConsentEntry.tenant_id == Suppression.tenant_id, ConsentEntry.id == Suppression.entry_id)
    return select(Suppression, ConsentEntry).join(ConsentEntry, its_entry).where(is_it)


def _covers(held: Suppression | Row[Any], said: Said) -> bool:
    """True if a refusal that holds makes another superfluous: the same one, or one of an erased person."""
    is_same = (held.scope, held.scope_value) == (said.scope, said.scope_value)
    return (
        is_same or held.scope == ConsentScope.EVERYTHING if held.is_hashed else is_same and held.source == said.source
    )


def _not_found() -> SuppressionNotFound:
    return SuppressionNotFound("There is no refusal with this id, or it was lifted.")
