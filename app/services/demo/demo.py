"""Plays the demo into an empty installation in development, and removes it again."""

import asyncio
import secrets
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.addresses import any_address
from app.config import Settings
from app.db.models import Contact, Conversation, Message
from app.details import MessageDetails
from app.domain import DEFAULT_TENANT_ID, Address, Channel, Direction, NewMessage
from app.errors import NoDemo
from app.providers.base import InboundMessage
from app.providers.registry import provider_registry
from app.routing import route_of
from app.services.callbacks.items import CallbackItems
from app.services.consent.suppressions import Suppressions
from app.services.demo.people import OUR_MAIL, OUR_NUMBER, PEOPLE, REFUSING, Line, Person
from app.services.messages.metadata import has_pair, pair_parameters
from app.services.messages.service import MessageService
from app.services.people.contacts import ContactChange, ContactService

#: The pair of metadata that marks the people of the demo.
DEMO = ("demo", "true")
_REMOVED = "The demo is removed."
#: The longest wait for the last answer of the demo. By default it comes 1.5 seconds after its message has left.
_ANSWER_SECONDS = 5.0


class Demo:
    """A tenant's demo. Its people are marked by metadata, and all that is theirs goes with them."""

    def __init__(
        self,
        settings: Settings,
        sessions: async_sessionmaker[AsyncSession],
        tenant_id: int,
        *,
        messages: MessageService,
        items: CallbackItems,
        contacts: ContactService,
        suppressions: Suppressions,
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._tenant_id = tenant_id
        self._messages = messages
        self._items = items
        self._contacts = contacts
        self._suppressions = suppressions

    async def is_offered(self) -> bool:
        """True in development, while tenant 1 has no conversations, and where only simulated carriers send."""
        if self._settings.is_production or self._tenant_id != DEFAULT_TENANT_ID or not self._only_simulated():
            return False
        found = select(Conversation.id).where(Conversation.tenant_id == self._tenant_id).limit(1)
        async with self._sessions() as session:
            return (await session.execute(found)).scalar() is None

    async def is_there(self) -> bool:
        """True if a person of the demo is there."""
        return bool(await self._people(1))

    async def play(self) -> None:
        """Send and receive all messages of the demo. Raises `NoDemo` where it is not offered."""
        if not await self.is_offered():
            raise NoDemo("The demo is only for an empty installation in development whose carriers are simulated.")
        run = secrets.token_hex(4)
        for person in PEOPLE:
            for number, line in enumerate(person.lines):
                await self._say(person, line, key=f"demo-{run}-{person.address}-{number}")
            await self._mark(person)

    async def remove(self) -> None:
        """Remove the people of the demo, their messages, and their refusals."""
        await self._hear_the_refusal()
        while people := await self._people(50):
            for contact_id in people:
                for held in await self._suppressions.refusals_of(contact_id):
                    await self._suppressions.lift(held.id, reason=_REMOVED, evidence="A person of the demo.")
                await self._contacts.erase(contact_id, actor=None, client=None)

    async def _hear_the_refusal(self) -> None:
        """Wait for the STOP that is still on its way: it would begin a conversation that is not marked."""
        address = self._address(REFUSING)
        answers = select(Message.id).where(
            Message.tenant_id == self._tenant_id,
            Message.direction == Direction.INBOUND,
            Message.from_address == address.value,
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                while (await self._contacts.contacts(address, limit=1)).rows:
                    async with self._sessions() as session:
                        if (await session.execute(answers.limit(1))).first() is not None:
                            return
                    await asyncio.sleep(0.1)

    def _only_simulated(self) -> bool:
        names = [name for channel in (Channel.SMS, Channel.EMAIL) for name in route_of(self._settings, channel)]
        return bool(names) and all(name in provider_registry and provider_registry[name].simulated for name in names)

    async def _people(self, limit: int) -> list[int]:
        marked = select(Contact.id).where(
            Contact.tenant_id == self._tenant_id, Contact.erasing_since.is_(None), has_pair("contact", Contact.id, 0)
        )
        parameters = {"tenant": self._tenant_id, **pair_parameters([DEMO])}
        async with self._sessions() as session:
            return list((await session.execute(marked.limit(limit), parameters)).scalars())

    async def _say(self, person: Person, line: Line, *, key: str) -> None:
        at = datetime.now(UTC) - timedelta(minutes=line.minutes_ago)
        if line.direction is Direction.OUTBOUND:
            await self._send(person, line, at, key)
        else:
            await self._receive(person, line, at, key)

    async def _send(self, person: Person, line: Line, at: datetime, key: str) -> None:
        is_mail = person.channel is Channel.EMAIL
        message = NewMessage(
            Direction.OUTBOUND,
            person.channel,
            person.channel.value,
            self._address(OUR_MAIL if is_mail else OUR_NUMBER),
            self._address(person.address),
            line.body,
            subject=line.subject,
            sent_at=at,
            idempotency_key=key,
            fingerprint=key,
            tenant_id=self._tenant_id,
            topic=line.topic,
            html="" if is_mail else None,
            details=MessageDetails(to_name=person.name),
        )
        await self._messages.send(message, actor=None, client=None, may_serve=True)

    async def _receive(self, person: Person, line: Line, at: datetime, key: str) -> None:
        is_mail = person.channel is Channel.EMAIL
        message = InboundMessage(
            key,
            person.channel,
            person.channel.value,
            person.address,
            OUR_MAIL if is_mail else OUR_NUMBER,
            line.body,
            subject=line.subject,
            sent_at=at,
            details=MessageDetails(from_name=person.name),
        )
        await self._items.accept(person.channel.value, message)

    async def _mark(self, person: Person) -> None:
        page = await self._contacts.contacts(self._address(person.address), limit=1)
        for contact in page.rows:
            change = ContactChange(person.name, sets_name=True, metadata=dict([DEMO]))
            await self._contacts.change(contact.id, change)

    def _address(self, written: str) -> Address:
        return any_address(written, region=self._settings.default_region)
