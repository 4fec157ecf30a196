"""Tokens of unsubscribe links: what is sealed is opened, and nothing else is."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.consent import ConsentScope, ConsentSource
from app.services.consent.hashes import AddressHashes
from app.services.consent.ledger import hide_address, refusals_of
from app.services.consent.links import Subscription, UnsubscribeLinks, unsubscribe
from tests.cases import each_case
from tests.factories import CONTACT_EMAIL

URL = "https://messages.example/u/"
LINKS = UnsubscribeLinks(["new", "old"], URL)
SENT = Subscription(7, 123456789, datetime(2026, 11, 29, 12, 0, 1, tzinfo=UTC), "email", CONTACT_EMAIL, "newsletter")
ODD = replace(SENT, address="jörg+a&b@例え.example", topic="offres de l’été\nand more")  # noqa: RUF001
TOKEN = LINKS.token_of(SENT)


@each_case("subscription", [SENT, ODD, replace(SENT, tenant_id=1, message_id=2**62)])
def test_what_is_sealed_is_opened(subscription: Subscription) -> None:
    assert LINKS.opened(LINKS.token_of(subscription)) == subscription


def test_a_token_is_short_and_reveals_nothing() -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{100,120}", TOKEN)
    assert LINKS.token_of(SENT) != TOKEN
    for fact in (CONTACT_EMAIL, "newsletter", "email"):
        assert fact.encode() not in urlsafe_b64decode(TOKEN + "==")


def test_both_secrets_open_during_a_rotation_and_the_first_one_seals() -> None:
    before, after = UnsubscribeLinks(["old"], URL), UnsubscribeLinks(["new"], URL)
    assert LINKS.opened(before.token_of(SENT)) == SENT
    assert after.opened(TOKEN) == SENT
    assert before.opened(TOKEN) is None


def test_a_token_with_any_other_character_opens_nothing() -> None:
    for place, character in enumerate(TOKEN):
        for other in {"A", "B", "_", "!", "é"} - {character}:
            assert LINKS.opened(TOKEN[:place] + other + TOKEN[place + 1 :]) is None


def _with_another_bit_at_its_end(token: str) -> str:
    """The same bytes, in a spelling that a lax reader of base64 takes."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(token) % 4
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


@each_case(
    "token",
    [
        "",
        "a",
        "newsletter",
        TOKEN[:-1],
        TOKEN[1:],
        TOKEN + "A",
        TOKEN + "=",
        TOKEN + "\n",
        TOKEN.lower(),
        TOKEN * 2,
        "A" * 16,
        urlsafe_b64encode(bytes(80)).decode().rstrip("="),
        _with_another_bit_at_its_end(TOKEN),
    ],
)
def test_a_made_up_token_opens_nothing(token: str) -> None:
    assert LINKS.opened(token) is None


def test_the_headers_name_the_page_and_the_sender() -> None:
    headers = LINKS.headers_of(SENT, "news+weekly@shop.example")
    mail = r"<mailto:news%2Bweekly@shop\.example\?subject=unsubscribe%20([\w-]+)>"
    links = re.fullmatch(rf"<https://messages\.example/u/([\w-]+)>, {mail}", headers["List-Unsubscribe"])
    assert links is not None
    assert [LINKS.opened(token) for token in links.groups()] == [SENT, SENT]
    assert [*headers] == ["List-Unsubscribe", "List-Unsubscribe-Post"]
    assert headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


@each_case(
    ("changes", "sent_to", "address"),
    [
        ({}, None, "jane@example.com"),
        ({}, "Office@Example.com", "office@example.com"),
        ({"topic": None}, None, None),
        ({"channel": "sms", "to_address": "+18045551234"}, None, None),
    ],
)
def test_a_link_is_for_the_address_that_a_mail_of_a_topic_goes_to(
    changes: dict[str, str | None], sent_to: str | None, address: str | None
) -> None:
    facts = {"id": 9, "channel": "email", "topic": "newsletter", "created_at": SENT.accepted_at}
    ends = {"from_address": "shop@example.com", "to_address": "Jane@example.com"}
    headers = LINKS.headers_for(7, SimpleNamespace(**{**facts, **ends, **changes}), sent_to)
    found = [LINKS.opened(token) for token in re.findall("/u/([^>]+)>", headers.get("List-Unsubscribe", ""))]
    assert found == ([replace(SENT, message_id=9, address=address)] if address else [])


def test_without_a_page_there_is_only_the_link_by_mail_and_no_promise_of_one_click() -> None:
    headers = UnsubscribeLinks(["new"], None).headers_of(SENT, "shop@example.com")
    assert [*headers] == ["List-Unsubscribe"]
    assert headers["List-Unsubscribe"].startswith("<mailto:shop@example.com?subject=unsubscribe%20")


def test_a_link_that_fits_no_line_of_a_mail_is_left_out() -> None:
    long = replace(SENT, address=f"{'x' * 400}@example.com")
    headers = LINKS.headers_of(long, f"{'s' * 250}@example.com")
    assert headers["List-Unsubscribe"].startswith("<https:")
    assert "mailto" not in headers["List-Unsubscribe"]
    assert "List-Unsubscribe-Post" in headers
    assert LINKS.headers_of(replace(long, topic="t" * 500), "s@example.com") == {}


@pytest.mark.anyio
async def test_a_link_that_is_used_after_an_erasure_does_not_store_the_address_again(
    engine: AsyncEngine,
) -> None:
    hashes = AddressHashes(["secret"])
    source = ConsentSource.UNSUBSCRIBE_LINK
    async with engine.begin() as connection:
        sent = replace(SENT, tenant_id=1)
        assert await unsubscribe(connection, sent, hashes, source)
        assert not await unsubscribe(connection, sent, hashes, source)
        [hash] = hashes.of(1, CONTACT_EMAIL)
        await hide_address(connection, 1, CONTACT_EMAIL, hash)
        assert not await unsubscribe(connection, sent, hashes, source)
        assert await refusals_of(connection, 1, [CONTACT_EMAIL]) == []
        assert await unsubscribe(connection, replace(sent, topic="offers"), hashes, source)
        [refusal] = await refusals_of(connection, 1, [CONTACT_EMAIL])
        assert (refusal.scope, refusal.scope_value) == (ConsentScope.TOPIC, "offers")
