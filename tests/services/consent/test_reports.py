"""Reports of providers about consent, on real PostgreSQL: each counts once, and none against a later word."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.consent import ConsentScope, ConsentSource, ReportedConsent
from app.db.models import DeliveryAttempt
from app.details import MessageDetails
from app.domain import Address, AddressType, AttemptOutcome, Direction, MessageStatus, NewMessage
from app.providers.base import PermanentFailure, Receipt, RecipientRefused, TemporaryFailure
from app.services.accept.store_stepwise import store_messages
from app.services.consent.hashes import AddressHashes
from app.services.consent.ledger import Said, grant, refusals_of, revoke
from app.services.consent.reports import EFFECTS
from app.services.delivery.results.outcomes import AttemptResult, record_outcomes
from app.services.delivery.results.receipts import attach_parked, store_receipts, sweep_parked
from app.services.people.erasure import accept_erasure
from tests.tenancy import make_tenant

pytestmark = pytest.mark.anyio

JANE, SHOP, VENDOR = "jane@example.com", "shop@example.com", "postmark"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HARD, SOFT, COMPLAINT = ReportedConsent.HARD_BOUNCE, ReportedConsent.SOFT_BOUNCE, ReportedConsent.COMPLAINT
UNSUBSCRIBED, SUBSCRIBED = ReportedConsent.UNSUBSCRIBED, ReportedConsent.SUBSCRIBED
OPTED_OUT = ReportedConsent.OPTED_OUT
EVERYTHING, CHANNEL, TOPIC = ConsentScope.EVERYTHING, ConsentScope.CHANNEL, ConsentScope.TOPIC
DELIVERED = MessageStatus.DELIVERED

Holding = tuple[ConsentScope, str, ConsentSource]


class Post:
    """Mails and texts that a provider has, what it reports of them, and what the ledger says then."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._events = 0

    async def sent(
        self,
        to: str = JANE,
        *,
        channel: str = "email",
        kind: str = AddressType.EMAIL,
        topic: str | None = None,
        sent_to: str | None = None,
        tenant_id: int = 1,
        status: MessageStatus = MessageStatus.SENT,
        with_id: bool = True,
    ) -> int:
        """A message that the provider has, known to it as `vendor-<id>`."""
        sender = Address(kind, SHOP, SHOP) if kind == AddressType.EMAIL else Address(kind, "+12016661234", "")
        new = NewMessage(
            Direction.OUTBOUND,
            channel,
            channel,
            sender,
            Address(kind, to, to),
            "Hello!",
            topic=topic,
            tenant_id=tenant_id,
            details=MessageDetails(sent_to=sent_to),
        )
        async with self.engine.begin() as connection:
            [stored] = await store_messages(connection, tenant_id, [new])
            attempt = {"tenant_id": tenant_id, "message_id": stored.id, "number": 1, "provider_type": VENDOR}
            id_ = f"vendor-{stored.id}" if with_id else None
            await connection.execute(
                insert(DeliveryAttempt).values(started_at=func.now(), provider_message_id=id_, **attempt)
            )
            change = "UPDATE messages SET status = :status, due_at = NULL, attempt_count = 1 WHERE id = :id"
            everywhere = text(change).execution_options(all_tenants="a test")
            await connection.execute(everywhere, {"status": status.value, "id": stored.id})
        return stored.id

    def receipt(self, message_id: int, consent: ReportedConsent | None, **values: Any) -> Receipt:
        self._events += 1
        known = Receipt(f"event-{self._events}", None, f"vendor-{message_id}", detail="So.", consent=consent)
        return replace(known, **values)

    async def says(self, *receipts: Receipt) -> None:
        async with self.engine.begin() as connection:
            await store_receipts(connection, [(VENDOR, receipt) for receipt in receipts])

    async def reports(self, message_id: int, consent: ReportedConsent | None, **values: Any) -> None:
        await self.says(self.receipt(message_id, consent, **values))

    async def answers(self, *answers: tuple[int, Exception]) -> list[bool]:
        results = [
            AttemptResult(
                1, id_, 1, "twilio", AttemptOutcome.PERMANENT, MessageStatus.FAILED, str(error), error=error
            )
            for id_, error in answers
        ]
        async with self.engine.begin() as connection:
            return await record_outcomes(connection, results)

    async def holding(self, *addresses: str, tenant_id: int = 1) -> list[Holding]:
        async with self.engine.connect() as connection:
            found = await refusals_of(connection, tenant_id, addresses or [JANE])
        return [(each.scope, each.scope_value, each.source) for each in found]

    async def sources(self, *addresses: str, tenant_id: int = 1) -> list[ConsentSource]:
        return [source for _, _, source in await self.holding(*addresses, tenant_id=tenant_id)]

    async def ask(self, question: str) -> list[tuple[Any, ...]]:
        async with self.engine.connect() as connection:
            everything = text(question).execution_options(all_tenants="a test looks at all there is")
            return [tuple(row) for row in await connection.execute(everything)]

    async def refuses(self, *sources: ConsentSource, address: str = JANE) -> None:
        async with self.engine.begin() as connection:
            await revoke(connection, 1, [Said(address, "email", source) for source in sources])

    async def agrees(self, source: ConsentSource, *, address: str = JANE) -> None:
        async with self.engine.begin() as connection:
            await grant(connection, 1, Said(address, "email", source), lifts=list(ConsentSource), every_scope=True)


@pytest.fixture
def post(engine: AsyncEngine) -> Post:
    return Post(engine)


@pytest.mark.parametrize(
    ("consent", "topic", "expected"),
    [
        (COMPLAINT, None, [(EVERYTHING, "", ConsentSource.COMPLAINT)]),
        (COMPLAINT, "news", [(EVERYTHING, "", ConsentSource.COMPLAINT)]),
        (HARD, "news", [(EVERYTHING, "", ConsentSource.HARD_BOUNCE)]),
        (SOFT, None, []),
        (UNSUBSCRIBED, "news", [(EVERYTHING, "", ConsentSource.MAIL)]),
        (ReportedConsent.LEFT_GROUP, "news", [(TOPIC, "news", ConsentSource.MAIL)]),
        (ReportedConsent.LEFT_GROUP, None, [(CHANNEL, "email", ConsentSource.MAIL)]),
        (OPTED_OUT, "news", [(EVERYTHING, "", ConsentSource.VENDOR)]),
        (ReportedConsent.NO_MARKETING, "news", [(TOPIC, "news", ConsentSource.VENDOR)]),
        (ReportedConsent.NO_MARKETING, None, [(CHANNEL, "email", ConsentSource.VENDOR)]),
        (SUBSCRIBED, None, []),
        (None, "news", []),
    ],
)
async def test_a_report_revokes_consent(
    post: Post, consent: ReportedConsent | None, topic: str | None, expected: list[Holding]
) -> None:
    await post.reports(await post.sent(topic=topic), consent)
    assert await post.holding() == expected


def test_every_report_has_an_effect() -> None:
    assert set(EFFECTS) == set(ReportedConsent)


@pytest.mark.parametrize(
    ("consent", "left"),
    [
        (SUBSCRIBED, {*ConsentSource} - {ConsentSource.MAIL, ConsentSource.VENDOR}),
        (ReportedConsent.OPTED_IN, {*ConsentSource} - {ConsentSource.VENDOR}),
        (ReportedConsent.JOINED_GROUP, {*ConsentSource}),
    ],
)
async def test_a_report_ends_what_the_vendor_itself_has_said(
    post: Post, consent: ReportedConsent, left: set[ConsentSource]
) -> None:
    await post.refuses(*ConsentSource)
    await post.reports(await post.sent(), consent)
    assert set(await post.sources()) == left


async def test_a_group_that_is_joined_again_ends_only_the_refusal_of_this_group(post: Post) -> None:
    news, offers = await post.sent(topic="news"), await post.sent(topic="offers")
    for mail in (news, offers):
        await post.reports(mail, ReportedConsent.LEFT_GROUP)
    await post.reports(news, UNSUBSCRIBED)
    await post.reports(news, ReportedConsent.JOINED_GROUP)
    assert await post.holding() == [
        (TOPIC, "offers", ConsentSource.MAIL),
        (EVERYTHING, "", ConsentSource.MAIL),
    ]


async def test_the_receipt_is_the_evidence_and_its_words_are_redacted(post: Post) -> None:
    mail = await post.sent()
    await post.reports(mail, HARD, detail="550 5.1.1 <jane@example.com> unknown")
    [(receipt_id, detail)] = await post.ask("SELECT id, detail FROM provider_events")
    found = await post.ask("SELECT address, address_type, message_id, receipt_id, detail FROM consent_entries")
    assert found == [(JANE, "email", mail, receipt_id, detail)]
    assert "jane" not in detail
    events = await post.ask("SELECT type FROM events WHERE type LIKE 'consent%'")
    assert events == [("consent.revoked",)]


async def test_fifty_copies_of_a_report_at_once_count_once(post: Post) -> None:
    receipt = post.receipt(await post.sent(), COMPLAINT)
    await asyncio.gather(*(post.says(receipt) for _ in range(50)))
    assert await post.ask("SELECT count(*) FROM consent_entries") == [(1,)]
    assert await post.sources() == [ConsentSource.COMPLAINT]


async def test_a_repeat_does_not_undo_what_the_team_has_lifted(post: Post) -> None:
    receipt = post.receipt(await post.sent(), COMPLAINT)
    await post.says(receipt)
    await post.agrees(ConsentSource.API)
    await post.says(receipt)
    assert await post.sources() == []


async def test_reports_of_fifty_mails_to_one_address_at_once_count_once(post: Post) -> None:
    receipts = [post.receipt(await post.sent(), COMPLAINT) for _ in range(20)]
    await asyncio.gather(*(post.says(receipt) for receipt in receipts))
    assert await post.sources() == [ConsentSource.COMPLAINT]


async def _attached(post: Post, message_id: int, tenant_id: int) -> None:
    async with post.engine.begin() as connection:
        await attach_parked(connection, tenant_id, [(message_id, VENDOR, f"vendor-{message_id}")])


async def _swept(post: Post, message_id: int, tenant_id: int) -> None:
    set_id = text(f"UPDATE delivery_attempts SET provider_message_id = 'vendor-{message_id}'")
    async with post.engine.begin() as connection:
        await connection.execute(set_id.execution_options(all_tenants="a test"))
        await sweep_parked(connection)


@pytest.mark.parametrize("find", [_attached, _swept])
@pytest.mark.parametrize("is_elsewhere", [False, True])
async def test_a_parked_report_counts_once_its_message_is_known(
    post: Post,
    database_url: str,
    find: Callable[[Post, int, int], Awaitable[None]],
    is_elsewhere: bool,
) -> None:
    tenant_id = make_tenant(database_url) if is_elsewhere else 1
    mail = await post.sent(tenant_id=tenant_id, with_id=False)
    await post.reports(mail, HARD)
    assert await post.ask("SELECT count(*) FROM consent_entries") == [(0,)]
    await find(post, mail, tenant_id)
    assert await post.sources(tenant_id=tenant_id) == [ConsentSource.HARD_BOUNCE]
    [(receipt_id,)] = await post.ask("SELECT id FROM provider_events")
    assert await post.ask("SELECT tenant_id, receipt_id FROM consent_entries") == [(tenant_id, receipt_id)]
    await find(post, mail, tenant_id)
    assert await post.ask("SELECT count(*) FROM consent_entries") == [(1,)]


async def test_the_address_is_the_one_that_the_mail_went_to(post: Post) -> None:
    await post.reports(await post.sent(sent_to="Jane <Other@Example.com>"), HARD)
    assert await post.sources() == []
    assert await post.sources("other@example.com") == [ConsentSource.HARD_BOUNCE]


async def test_no_member_of_a_group_is_refused_by_a_report_about_the_group(post: Post) -> None:
    group = "group:+18045551111,+18045552222"
    await post.reports(await post.sent(group, channel="sms", kind=AddressType.GROUP), OPTED_OUT)
    assert await post.ask("SELECT count(*) FROM consent_entries") == [(0,)]


async def test_the_report_of_one_tenant_is_none_of_another(post: Post, database_url: str) -> None:
    other = make_tenant(database_url)
    await post.sent()
    await post.reports(await post.sent(tenant_id=other), COMPLAINT)
    assert await post.sources() == []
    assert await post.sources(tenant_id=other) == [ConsentSource.COMPLAINT]


async def test_a_report_about_a_person_who_is_being_erased_leaves_no_address(post: Post) -> None:
    mail = await post.sent()
    [(contact_id,)] = await post.ask(f"SELECT id FROM contacts WHERE address = '{JANE}'")
    async with post.engine.begin() as connection:
        await accept_erasure(connection, 1, contact_id, hashes=AddressHashes(["secret"]), actor=None, client=None)
    await post.reports(mail, COMPLAINT)
    assert await post.ask("SELECT count(*) FROM consent_entries") == [(0,)]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(
    ("said", "left"),
    [((UNSUBSCRIBED, SUBSCRIBED), []), ((SUBSCRIBED, UNSUBSCRIBED), [ConsentSource.MAIL])],
)
async def test_the_last_word_counts_in_whichever_order_the_reports_come(
    post: Post,
    said: tuple[ReportedConsent, ...],
    left: list[ConsentSource],
    order: tuple[int, ...],
    *,
    together: bool,
) -> None:
    mail = await post.sent()
    at = [datetime.now(UTC) - timedelta(hours=2), datetime.now(UTC) - timedelta(hours=1)]
    receipts = [post.receipt(mail, said[number], occurred_at=at[number]) for number in order]
    for batch in [receipts] if together else [[receipt] for receipt in receipts]:
        await post.says(*batch)
    assert await post.sources() == left


@pytest.mark.parametrize(
    ("consent", "agreed_by", "left"),
    [
        (OPTED_OUT, ConsentSource.KEYWORD, []),
        (UNSUBSCRIBED, ConsentSource.API, []),
        (HARD, ConsentSource.API, []),
        (COMPLAINT, ConsentSource.API, []),
        # The person says nothing about a bounce, and only the team can end a complaint.
        (HARD, ConsentSource.MAIL, [ConsentSource.HARD_BOUNCE]),
        (COMPLAINT, ConsentSource.MAIL, [ConsentSource.COMPLAINT]),
        # Nor does the vendor speak for the person.
        (UNSUBSCRIBED, ConsentSource.VENDOR, [ConsentSource.MAIL]),
    ],
)
async def test_an_old_report_changes_nothing_that_was_said_since(
    post: Post, consent: ReportedConsent, agreed_by: ConsentSource, left: list[ConsentSource]
) -> None:
    mail = await post.sent()
    await post.agrees(agreed_by)
    await post.reports(mail, consent, occurred_at=datetime.now(UTC) - timedelta(minutes=1))
    assert await post.sources() == left


async def test_a_report_without_a_time_is_as_old_as_the_attempt(post: Post) -> None:
    before = await post.sent()
    await post.agrees(ConsentSource.KEYWORD)
    await post.reports(before, OPTED_OUT)
    assert await post.sources() == []
    await post.reports(await post.sent(), OPTED_OUT)
    assert await post.sources() == [ConsentSource.VENDOR]


async def test_a_report_from_the_future_is_one_of_now(post: Post) -> None:
    mail = await post.sent()
    await post.reports(mail, UNSUBSCRIBED, occurred_at=datetime(2099, 1, 1, tzinfo=UTC))
    assert await post.sources() == [ConsentSource.MAIL]
    await post.reports(mail, SUBSCRIBED, occurred_at=datetime.now(UTC))
    assert await post.sources() == []


def _days(*results: str) -> list[tuple[float, str]]:
    """One result a day."""
    return [(float(day), result) for day, result in enumerate(results)]


@pytest.mark.parametrize(
    ("results", "is_refused"),
    [
        (_days("soft", "soft", "soft", "soft", "soft"), True),
        (_days("soft", "soft", "soft", "soft"), False),
        ([(0, "soft"), (1, "soft"), (1.5, "soft"), (2, "soft"), (2.9, "soft")], False),
        ([(0, "soft"), (0, "soft"), (0, "soft"), (0, "soft"), (3, "soft")], True),
        (_days("soft", "soft", "delivered", "soft", "soft", "soft", "soft"), False),
        (_days("delivered", "soft", "soft", "soft", "soft", "soft"), True),
        (_days("soft", "soft", "soft", "read", "soft", "soft"), False),
        (_days("soft", "soft", "nothing", "soft", "soft", "soft"), True),
        # Delivered in the end, or bounced in the end: the last report of a mail is its result.
        (_days("soft+delivered", "soft", "soft", "soft", "soft"), False),
        (_days("soft", "delivered+soft", "soft", "soft", "soft"), True),
    ],
)
async def test_soft_bounces_count_in_a_row(post: Post, results: list[tuple[float, str]], is_refused: bool) -> None:
    for day, result in results:
        mail = await post.sent()
        for hour, word in enumerate(result.split("+")):
            at = NOON + timedelta(days=day, hours=hour)
            status = MessageStatus(word) if word in {"delivered", "read"} else None
            await post.reports(mail, SOFT if word == "soft" else None, status=status, occurred_at=at)
    assert await post.sources() == ([ConsentSource.SOFT_BOUNCES] if is_refused else [])


async def test_soft_bounces_count_for_an_address_and_not_for_a_sender_or_another_recipient(post: Post) -> None:
    for day in range(5):
        await post.reports(await post.sent("max@example.com"), SOFT, occurred_at=NOON + timedelta(days=day))
        other = await post.sent(sent_to="office@example.com")
        await post.reports(other, SOFT, occurred_at=NOON + timedelta(days=day))
    await post.reports(await post.sent(), SOFT, occurred_at=NOON + timedelta(days=9))
    assert await post.sources() == []
    for address in ("max@example.com", "office@example.com"):
        assert await post.sources(address) == [ConsentSource.SOFT_BOUNCES]


async def test_after_the_team_has_lifted_soft_bounces_a_new_row_begins(post: Post) -> None:
    start = datetime.now(UTC) - timedelta(days=10)
    for day in range(5):
        await post.reports(await post.sent(), SOFT, occurred_at=start + timedelta(days=day))
    assert await post.sources() == [ConsentSource.SOFT_BOUNCES]
    await post.agrees(ConsentSource.API)
    for day in range(4):
        await post.reports(await post.sent(), SOFT, occurred_at=datetime.now(UTC) + timedelta(days=day))
    assert await post.sources() == []
    await post.reports(await post.sent(), SOFT, occurred_at=datetime.now(UTC) + timedelta(days=4))
    assert await post.sources() == [ConsentSource.SOFT_BOUNCES]


PHONE = "+18045551234"


async def _text(post: Post, to: str = PHONE) -> int:
    return await post.sent(to, channel="sms", kind=AddressType.PHONE, status=MessageStatus.SENDING, with_id=False)


async def test_a_refusal_to_send_is_recorded_with_the_outcome(post: Post) -> None:
    texts = [await _text(post), await _text(post), await _text(post, "+18045559999")]
    error = RecipientRefused("21610 Attempt to send to unsubscribed recipient +18045551234")
    assert await post.answers(*((each, error) for each in texts)) == [True, True, True]
    entries = await post.ask("SELECT address, source, message_id, receipt_id, detail FROM consent_entries ORDER BY 1")
    assert [entry[:4] for entry in entries] == [
        (PHONE, "vendor", texts[1], None),
        ("+18045559999", "vendor", texts[2], None),
    ]
    assert entries[0][4] == "twilio 21610 Attempt to send to unsubscribed recipient ***1234"
    assert set(await post.ask("SELECT status FROM messages")) == {("failed",)}
    # The outcome again, as after a lost commit.
    await post.answers(*((each, error) for each in texts))
    assert await post.ask("SELECT count(*) FROM consent_entries") == [(2,)]


@pytest.mark.parametrize("error", [TemporaryFailure("21610"), PermanentFailure("21610"), ValueError("21610")])
async def test_no_other_failure_means_anything(post: Post, error: Exception) -> None:
    await post.answers((await _text(post), error))
    assert await post.ask("SELECT count(*) FROM consent_entries") == [(0,)]


async def test_a_refusal_that_came_too_late_changes_nothing(post: Post) -> None:
    message = await post.sent(PHONE, channel="sms", kind=AddressType.PHONE, status=DELIVERED)
    assert await post.answers((message, RecipientRefused("21610"))) == [False]
    assert await post.ask("SELECT count(*) FROM consent_entries") == [(0,)]


async def test_stops_and_reports_at_once_do_not_wait_for_each_other_forever(post: Post) -> None:
    """Many addresses in opposite orders, each with a mail, a report, a refusal to send and a word of the person."""
    addresses = [f"person-{number}@example.com" for number in range(12)]
    mails = [await post.sent(address) for address in addresses]
    receipts = [post.receipt(mail, consent) for mail in mails for consent in (HARD, UNSUBSCRIBED)]

    async def stop(order: list[str]) -> None:
        async with post.engine.begin() as connection:
            await revoke(connection, 1, [Said(each, "email", ConsentSource.MAIL) for each in order])

    await asyncio.gather(
        post.says(*receipts),
        post.says(*reversed(receipts)),
        *(post.says(receipt) for receipt in receipts),
        stop(addresses),
        stop(addresses[::-1]),
    )
    for address in addresses:
        assert sorted(await post.sources(address)) == [ConsentSource.HARD_BOUNCE, ConsentSource.MAIL]
    assert await post.ask("SELECT count(*) FROM suppressions") == [(24,)]
