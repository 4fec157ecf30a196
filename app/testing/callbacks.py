"""The contract of `verify` and `parse`."""

from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from inspect import isawaitable

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from app.config import Settings
from app.doctor import installation
from app.providers.base import (
    BaseProvider,
    Callback,
    CallbackRefused,
    CallbackUnverifiable,
    InboundMessage,
    ProviderFailure,
    Receipt,
    Reply,
    Unread,
)
from app.providers.toolbox.verification import TOLERANCE
from app.testing.description import PUBLIC_URL
from app.testing.kit import Kit
from app.testing.vendor import items_in, payload_in


class CallbackContract:
    """Tests of callbacks, which a `ProviderContract` runs."""

    async def test_every_documented_call_is_genuine_and_can_be_read(self, calling: Kit) -> None:
        provider = calling.caller()
        for file in sorted(calling.payloads.glob("*.*")) if calling.payloads else []:
            callback = calling.sign(payload_in(file))
            await _verify(provider, callback)
            if file.name in calling.described.not_understood:
                with pytest.raises(ValueError):  # noqa: PT011 - every kind of it is kept as it came
                    provider.parse(callback)
            else:
                parsing = provider.parse(callback)
                if not isinstance(await parsing if isinstance(parsing, Awaitable) else parsing, Reply):
                    _must_be_understood(provider, callback, file.name)

    def test_each_of_its_words_has_its_status_and_names_the_message(self, calling: Kit) -> None:
        provider, described = calling.caller(), calling.described
        if described.receipt is None:
            pytest.skip("it sends no receipts")
        assert described.words
        for word, status in described.words.items():
            [receipt] = items_in(provider, calling.sign(described.receipt(word)))
            assert isinstance(receipt, Receipt)
            assert receipt.status is status, word
            assert receipt.provider_message_id or receipt.idempotency_key
            assert receipt.occurred_at is None or receipt.occurred_at.tzinfo is not None

    def test_a_receipt_that_is_called_again_has_the_same_id(self, calling: Kit) -> None:
        provider, described = calling.caller(), calling.described
        if described.receipt is None:
            pytest.skip("it sends no receipts")
        body = described.receipt(next(iter(described.words)))
        first, second = (calling.sign(body) for _ in range(2))
        assert items_in(provider, first)[0] == items_in(provider, second)[0]

    def test_a_message_that_came_in_has_both_ends_and_its_words(self, calling: Kit) -> None:
        provider, described = calling.caller(), calling.described
        if described.inbound is None:
            pytest.skip("nothing comes in by it")
        [message] = items_in(provider, calling.sign(described.inbound))
        assert isinstance(message, InboundMessage)
        assert message.channel in provider.channels
        assert message.provider_message_id
        assert message.from_address
        assert message.to_address
        assert message.body
        assert message.sent_at is None or message.sent_at.tzinfo is not None
        [again] = items_in(provider, calling.sign(described.inbound))
        assert isinstance(again, InboundMessage)
        assert replace(again, sent_at=message.sent_at) == message  # a mail with an old date counts from its arrival

    def test_what_hangs_on_a_message_that_came_in_is_kept(self, calling: Kit) -> None:
        provider, described = calling.caller(), calling.described
        if described.inbound_media is None:
            pytest.skip("only texts come in by it")
        [message] = items_in(provider, calling.sign(described.inbound_media))
        assert isinstance(message, InboundMessage)
        assert message.attachments or message.files

    async def test_a_file_at_another_host_gets_no_secret(self, calling: Kit) -> None:
        described = calling.described
        if described.inbound_media is None:
            pytest.skip("only texts come in by it")
        [message] = items_in(calling.caller(), calling.sign(described.inbound_media))
        assert isinstance(message, InboundMessage)
        if not message.kept:
            pytest.skip("it hands files over, or names public ones")
        async with calling.provider() as (provider, end):
            with suppress(ProviderFailure):
                await provider.fetch_file("https://127.0.0.1/v1/file", most_bytes=1000)
            assert end.vendor.requests == []  # type: ignore[attr-defined]  # all of these speak HTTP

    async def test_another_signature_or_none_is_refused_and_shows_no_secret(self, signing: Kit) -> None:
        provider = signing.caller()
        for callback in signing.genuine():
            await _verify(provider, callback)
        for callback in signing.forged():
            with capture_logs() as logs, pytest.raises(CallbackRefused) as raised:
                await _verify(provider, callback)
            refusal = raised.value
            signing.shows_no_secret(f"{refusal} {refusal.seen} {refusal.expected} {logs}")
            assert all(len(hint or "") <= 15 for hint in (refusal.seen, refusal.expected))

    async def test_nobody_is_known_before_the_body_is_there_who_would_be_refused_then(self, signing: Kit) -> None:
        provider = signing.caller()
        for callback in signing.genuine():
            assert provider.is_known_by_head(replace(callback, body=b"")) in {True, False}
        for callback in signing.forged():
            with suppress(CallbackRefused):
                assert not provider.is_known_by_head(replace(callback, body=b""))

    async def test_who_signs_the_address_that_is_called_says_so(self, signing: Kit) -> None:
        provider = signing.caller()
        for callback in signing.genuine():
            elsewhere = replace(callback, url=callback.url.replace(PUBLIC_URL, "https://elsewhere.example"))
            if provider.signs_address:
                with pytest.raises(CallbackRefused):
                    await _verify(provider, elsewhere)
            else:
                await _verify(provider, elsewhere)

    async def test_a_signature_is_good_for_a_while_and_not_before_its_time(self, signing: Kit) -> None:
        if signing.described.good_for is None:
            pytest.skip("it signs no time")
        provider, callback = signing.caller(), signing.genuine()[0]
        for early_or_late in (-TOLERANCE, signing.described.good_for):
            margin = timedelta(seconds=2 if early_or_late > timedelta() else -2)  # times are signed in whole seconds
            await _verify(provider, replace(callback, received_at=callback.received_at + early_or_late - margin))
            with pytest.raises(CallbackRefused, match="seconds"):
                await _verify(provider, replace(callback, received_at=callback.received_at + early_or_late + margin))

    async def test_without_its_secret_nothing_can_be_told_of_a_call_whatever_it_shows(
        self, signing: Kit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        signing.caller()
        for variable in signing.described.verified_with:
            monkeypatch.setenv(variable, "")
        if (provider := signing.configured()) is not None:
            for callback in [*signing.genuine(), *signing.forged()]:
                with pytest.raises(CallbackUnverifiable):
                    await _verify(provider, callback)

    def test_a_space_does_not_make_two_secrets_of_one(self, signing: Kit) -> None:
        for variable in {*signing.described.verified_with} - signing.described.spaced:
            with pytest.raises(ValidationError, match="separate them by a comma") as refused:
                signing.configure({variable: "open sesame"})
            assert "sesame" not in str(refused.value)
            signing.configure({variable: signing.described.environment[variable]})

    def test_the_doctor_names_the_secret_that_is_missing(self, signing: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
        signing.configure({})
        for variable in signing.described.verified_with:
            monkeypatch.setenv(variable, "")
        if (provider := signing.configured()) is None:
            pytest.skip("without it there is no provider")
        monkeypatch.setattr(installation, "provider_registry", {signing.name: provider})
        [finding] = installation.callbacks(Settings.model_construct())
        assert all(variable in finding.text for variable in signing.described.verified_with)


def _must_be_understood(provider: BaseProvider, callback: Callback, name: str) -> None:
    try:
        events = items_in(provider, callback)
    except ValueError as error:
        raise AssertionError(f"{name} is not understood: {error}") from error
    assert not [event for event in events if isinstance(event, Unread)], f"part of {name} is not understood"


async def _verify(provider: BaseProvider, callback: Callback) -> None:
    judging = provider.verify(callback)
    if isawaitable(judging):
        await judging
