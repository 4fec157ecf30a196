"""Acts on keywords in inbound texts, and on mails that unsubscribe, in the transaction that stores the message."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from sqlalchemy.ext.asyncio import AsyncConnection

from app.config import Settings
from app.consent import ConsentSource
from app.domain import (
    Address,
    AddressType,
    Channel,
    Direction,
    Keyword,
    MessageType,
    NewMessage,
    Purpose,
    StoredMessage,
)
from app.keywords import ExtraWords, keyword_in
from app.services.accept.loops import LoopLimit
from app.services.accept.mail_refusals import is_inbound_mail, is_refusal, stop_by, subscription_in
from app.services.accept.store_stepwise import store_messages
from app.services.consent.hashes import AddressHashes
from app.services.consent.ledger import Said, grant, revoke
from app.services.consent.links import UnsubscribeLinks, unsubscribe


@dataclass(frozen=True, slots=True)
class KeywordRules:
    """The keywords of an installation, and the texts that answer them."""

    extra: ExtraWords
    replies: dict[Keyword, str]
    hashes: AddressHashes
    loops: LoopLimit
    links: UnsubscribeLinks

    @classmethod
    def of(cls, settings: Settings) -> Self:
        texts = {Keyword.STOP: settings.stop_reply, Keyword.HELP: settings.help_reply}
        replies = {keyword: text for keyword, text in texts.items() if text}
        hashes = AddressHashes(settings.consent_secrets)
        return cls(settings.extra_keywords, replies, hashes, LoopLimit.of(settings), UnsubscribeLinks.of(settings))

    def concern(self, message: NewMessage) -> bool:
        """True for a message that may change consent, or that is replied to."""
        if is_inbound_mail(message):
            return subscription_in(message, self.links) is not None or is_refusal(message, self.extra)
        return self.keyword_of(message) is not None

    def keyword_of(self, message: NewMessage) -> Keyword | None:
        """The keyword that an inbound text or chat is. Mail has ways of its own to unsubscribe."""
        if message.direction is Direction.OUTBOUND or message.channel == Channel.EMAIL:
            return None
        return message.handled_keyword or keyword_in(message.body, self.extra)


async def act_on_keywords(
    connection: AsyncConnection,
    tenant_id: int,
    messages: Sequence[NewMessage],
    places: Sequence[StoredMessage],
    rules: KeywordRules,
) -> None:
    """Change consent as the new ones of these messages say, and store our replies.

    A repeat changes nothing. A keyword that the vendor has handled gets no reply of ours, nor does a second STOP, nor
    a mail.
    """
    # In the order of addresses, so that two batches do not wait for each other.
    for message, place in sorted(zip(messages, places, strict=True), key=lambda pair: pair[0].contact.value):
        if not place.duplicate and is_inbound_mail(message):
            await _act_on_mail(connection, tenant_id, message, place, rules)
        keyword = None if place.duplicate else rules.keyword_of(message)
        if keyword is None or (person := _person(message)) is None:
            continue
        if await _changes(connection, tenant_id, keyword, person, message, place, rules) and keyword in rules.replies:
            reply = _reply(message, rules.replies[keyword])
            await store_messages(connection, tenant_id, [reply], rules.loops)


async def _act_on_mail(
    connection: AsyncConnection, tenant_id: int, message: NewMessage, place: StoredMessage, rules: KeywordRules
) -> None:
    if subscription := subscription_in(message, rules.links):
        # The token counts for its own tenant, also in a mail that came in for another one.
        evidence = place.id if subscription.tenant_id == tenant_id else subscription.message_id
        await unsubscribe(
            connection, subscription, rules.hashes, ConsentSource.MAIL, message_id=evidence, detail="link by mail"
        )
    elif is_refusal(message, rules.extra):
        await revoke(connection, tenant_id, [stop_by(message, place.id)])


async def _changes(
    connection: AsyncConnection,
    tenant_id: int,
    keyword: Keyword,
    person: Address,
    message: NewMessage,
    place: StoredMessage,
    rules: KeywordRules,
) -> bool:
    """Act on one keyword; False where there is nothing to reply to."""
    if keyword is Keyword.HELP:
        return message.handled_keyword is None
    source = ConsentSource.KEYWORD if message.handled_keyword is None else ConsentSource.VENDOR
    said = Said(person.value, person.type, source, message_id=place.id, detail=message.body.strip()[:64] or None)
    if keyword is Keyword.STOP:
        [entry] = await revoke(connection, tenant_id, [said])
        return entry is not None and message.handled_keyword is None
    hashes = rules.hashes.of(tenant_id, person.value)
    is_yes = keyword is Keyword.YES
    await grant(connection, tenant_id, said, hashes=hashes, every_scope=True, only_if_refused=is_yes)
    return False


def _person(message: NewMessage) -> Address | None:
    """The address of the person: in a group that of its member, if the provider names one."""
    if message.contact.type != AddressType.GROUP:
        return message.contact
    author = message.details.author
    return None if author is None else Address(AddressType.PHONE, author, author)


def _reply(message: NewMessage, text: str) -> NewMessage:
    type_ = MessageType.SMS if message.channel == Channel.SMS else message.type
    return NewMessage(
        Direction.OUTBOUND,
        message.channel,
        type_,
        sender=message.customer,
        recipient=message.contact,
        body=text,
        purpose=Purpose.CONFIRMATION,
        tenant_id=message.tenant_id,
    )
