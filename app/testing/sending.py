"""The contract of `send`: the request, the failures, and what is not shown."""

import base64
import re
import traceback
from collections.abc import Awaitable, Mapping
from urllib.parse import unquote_plus

import httpx
import pytest
from structlog.testing import capture_logs

from app.providers.base import (
    BaseProvider,
    CredentialsRefused,
    OutboundMessage,
    PermanentFailure,
    ProviderFailure,
    TemporaryFailure,
    UnknownOutcome,
)
from app.testing.description import PICTURE, Outcome
from app.testing.kit import Kit

_FAILURES: Mapping[Outcome, type[ProviderFailure]] = {
    Outcome.THROTTLED: TemporaryFailure,
    Outcome.OUT_OF_ORDER: TemporaryFailure,
    Outcome.BROKEN: UnknownOutcome,
    Outcome.CUT_OFF: UnknownOutcome,
    Outcome.REFUSED: PermanentFailure,
    Outcome.UNAUTHORISED: CredentialsRefused,
    Outcome.SENSELESS: UnknownOutcome,
    Outcome.SILENT: UnknownOutcome,
    Outcome.UNREACHABLE: TemporaryFailure,
}


class SendingContract:
    """Tests of `send`, which a `ProviderContract` runs."""

    async def test_a_message_goes_out_as_the_vendor_documents_it(self, kit: Kit) -> None:
        async with kit.provider() as (provider, end):
            result = await _sent(provider, kit.described.message)
            assert result == kit.described.id
            end.must_have_got(kit.described.request)

    def test_it_refuses_beforehand_nothing_that_it_could_send(self, kit: Kit) -> None:
        provider = kit.configure({})
        for message in filter(None, (kit.described.message, kit.described.media)):
            assert provider.refusals(message) == {}

    async def test_what_hangs_on_a_message_goes_out_with_it(self, kit: Kit) -> None:
        if kit.described.media is None:
            pytest.skip("it takes texts alone")
        async with kit.provider() as (provider, end):
            await _sent(provider, kit.described.media)
            assert PICTURE in _written(end.got())

    async def test_what_goes_wrong_becomes_the_right_failure_and_shows_no_secret(self, kit: Kit) -> None:
        for outcome in _FAILURES.keys() & kit.described.outcomes:
            try:
                await self._must_fail(kit, outcome)
            except (Exception, pytest.fail.Exception) as error:
                error.add_note(f"where the vendor's answer is: {outcome}")
                raise

    async def _must_fail(self, kit: Kit, outcome: Outcome) -> None:
        async with kit.provider(outcome) as (provider, _):
            with capture_logs() as logs, pytest.raises(_FAILURES[outcome]) as raised:
                await _sent(provider, kit.described.message)
            kit.shows_no_secret("".join(traceback.format_exception(raised.value)) + repr(logs))
            if outcome is Outcome.THROTTLED:
                assert isinstance(raised.value, TemporaryFailure)
                assert (raised.value.throttled, raised.value.retry_after) == (True, 7)

    def test_its_secrets_are_not_shown(self, kit: Kit) -> None:
        provider = kit.configure({})
        kit.shows_no_secret(repr(provider))
        for value in vars(provider).values():
            if not isinstance(value, dict | str | httpx.URL | list):  # made of them, and not printed
                kit.shows_no_secret(repr(value))


async def _sent(provider: BaseProvider, message: OutboundMessage) -> str | None:
    answer = provider.send(message)
    return (await answer if isinstance(answer, Awaitable) else answer).provider_message_id


def _written(content: bytes) -> str:
    """A request in clear: what forms escape, and what stands in base64 within JSON."""
    text = content.decode()
    encoded = re.findall(r"[A-Za-z0-9+/]{80,}={0,2}", text)
    return "\n".join([text, unquote_plus(text), *(base64.b64decode(each).decode() for each in encoded)])
