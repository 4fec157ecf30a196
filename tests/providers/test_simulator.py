"""The HTTP simulator over sockets: every behaviour through its provider, and its record in the ledger."""

import asyncio
import hashlib
import socket
import time
from datetime import datetime

import httpx
import pytest

from app.providers.base import (
    CredentialsRefused,
    PermanentFailure,
    ProviderFailure,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.simulator import SimulatorProvider
from app.providers.toolbox.http_client import LONGEST_RETRY_AFTER
from tests.cases import each_case
from tests.live import LOCAL, free_port
from tests.providers import outbound, simulator_settings
from tests.providers.conftest import Simulate, Simulation

pytestmark = pytest.mark.anyio


async def test_an_accepted_message_is_in_the_ledger_before_its_answer(simulation: Simulation) -> None:
    message = outbound("+15005550000", body="Grüße", key="1-17")
    result = await simulation.provider.send(message)
    [line] = simulation.lines(message)
    assert line["provider_message_id"] == result.provider_message_id
    assert (line["reference"], line["idempotency_key"], line["to"]) == ("1-17", "1-17", "+15005550000")
    assert line["body_sha256"] == hashlib.sha256("Grüße".encode()).hexdigest()
    assert (line["duplicate"], line["reply"]) == (False, "id")
    assert datetime.fromisoformat(line["accepted_at"]).tzinfo is not None


@each_case(
    ("name", "failure", "accepts"),
    [
        ("throttled", TemporaryFailure, False),
        ("failing", UnknownOutcome, False),
        ("failing-after", UnknownOutcome, True),
        ("unauthorised", CredentialsRefused, False),
        ("reset-before", UnknownOutcome, False),
        ("reset-after", UnknownOutcome, True),
        ("malformed", UnknownOutcome, True),
        ("huge", UnknownOutcome, True),
        ("redirect", UnknownOutcome, False),
    ],
)
async def test_what_goes_wrong_on_the_wire_becomes_the_right_failure_and_passes(
    simulation: Simulation, name: str, failure: type[ProviderFailure], accepts: bool
) -> None:
    message = outbound(f"{name}@simulator.test")
    with pytest.raises(failure) as raised:
        await simulation.provider.send(message)
    assert str(raised.value)
    found = await simulation.provider.look_up(message)
    assert (found is not None) is accepts
    result = await simulation.provider.send(message)
    assert found is None or found == result
    assert await simulation.provider.look_up(message) == result
    assert [line["accepted_at"] is not None for line in simulation.lines(message)] == [accepts, True]
    assert [line["duplicate"] for line in simulation.lines(message)] == [False, accepts]


@each_case("number", range(12))
async def test_no_malformed_answer_is_taken_for_an_id(simulation: Simulation, number: int) -> None:
    with pytest.raises(UnknownOutcome, match="without an id"):
        await simulation.provider.send(outbound("+15005550900", key=f"malformed-{number}"))


async def test_a_connection_that_is_cut_is_reset_and_not_closed_in_order(simulation: Simulation) -> None:
    with pytest.raises(UnknownOutcome, match="ReadError"):
        await simulation.provider.send(outbound("+15005550600"))


async def test_a_refusal_carries_the_carrier_s_reason(simulation: Simulation) -> None:
    with pytest.raises(PermanentFailure, match="400 Bad Request - the carrier refuses this recipient"):
        await simulation.provider.send(outbound("+15005550400"))


async def test_what_is_beyond_the_carrier_s_rate_is_throttled_and_written_down(simulate: Simulate) -> None:
    simulation = await simulate(rate=0.01)
    assert (await simulation.provider.send(outbound())).provider_message_id
    too_many = outbound()
    with pytest.raises(TemporaryFailure) as raised:
        await simulation.provider.send(too_many)
    assert raised.value.throttled
    assert [line["reply"] for line in simulation.lines(too_many)] == ["throttled"]


@pytest.mark.parametrize(
    ("asked", "as_date", "lowest", "highest"),
    [
        (0.25, False, 0.25, 0.25),
        (-5, False, 0, 0),
        (10**9, False, LONGEST_RETRY_AFTER, LONGEST_RETRY_AFTER),
        (100, True, 90, 100),
    ],
)
async def test_retry_after_crosses_the_wire_in_both_its_forms(
    simulate: Simulate, asked: float, as_date: bool, lowest: float, highest: float
) -> None:
    simulation = await simulate(retry_after_seconds=asked, retry_after_as_date=as_date)
    with pytest.raises(TemporaryFailure) as raised:
        await simulation.provider.send(outbound("+15005550200"))
    assert raised.value.throttled
    assert raised.value.retry_after is not None
    assert lowest <= raised.value.retry_after <= highest


async def test_a_silent_carrier_is_given_up_by_its_client_and_found_by_looking_up(simulate: Simulate) -> None:
    simulation = await simulate(timeout_seconds=1)
    message = outbound("+15005550800")
    with pytest.raises(UnknownOutcome, match="ReadTimeout"):
        await simulation.provider.send(message)
    found = await simulation.provider.look_up(message)
    assert found is not None
    assert await simulation.provider.send(message) == found


async def test_a_slow_answer_is_an_answer(simulate: Simulate) -> None:
    simulation = await simulate(slow_seconds=0.1)
    began = time.monotonic()
    assert (await simulation.provider.send(outbound("+15005550100"))).provider_message_id
    assert time.monotonic() - began >= 0.1


async def test_fifty_copies_under_one_key_are_one_acceptance(simulation: Simulation) -> None:
    message = outbound()
    ids = {
        result.provider_message_id
        for result in await asyncio.gather(*(simulation.provider.send(message) for _ in range(50)))
    }
    assert len(ids) == 1
    assert [line["duplicate"] for line in simulation.lines(message)] == [False] + [True] * 49


async def test_a_carrier_that_ignores_keys_sends_twice_and_its_ledger_says_so(simulate: Simulate) -> None:
    simulation = await simulate(honours_idempotency_key=False)
    message = outbound("+15005550700")
    assert simulation.provider.honours_idempotency_key is False
    with pytest.raises(UnknownOutcome):
        await simulation.provider.send(message)
    await simulation.provider.send(message)
    assert await simulation.summary() == {"accepted": 2, "distinct": 1, "duplicates_refused": 0}
    assert len({line["provider_message_id"] for line in simulation.lines(message)}) == 2


async def test_a_key_that_comes_back_with_another_body_is_refused(simulation: Simulation) -> None:
    one, two = outbound(key="reused", body="one"), outbound(key="reused", body="two")
    await simulation.provider.send(one)
    with pytest.raises(PermanentFailure, match="another body"):
        await simulation.provider.send(two)
    assert [line["reply"] for line in simulation.lines(one)] == ["id", "key_reused"]
    assert simulation.lines(two)[1]["accepted_at"] is None


async def test_a_request_that_is_no_message_is_refused_and_not_in_the_ledger(simulation: Simulation) -> None:
    before = await simulation.summary()
    async with httpx.AsyncClient(base_url=simulation.url, verify=LOCAL) as client:
        for content in (b"", b"{", b"[]", b'{"reference": ""}', b'{"to": "+15005550000"}'):
            assert (await client.post("/messages", content=content)).status_code == 422
    assert await simulation.summary() == before


async def test_a_simulator_that_is_away_has_not_got_the_message() -> None:
    settings = simulator_settings(url=f"http://127.0.0.1:{free_port()}")
    provider = SimulatorProvider(settings=settings)
    with pytest.raises(TemporaryFailure, match="No connection"):
        await provider.send(outbound())
    with pytest.raises(TemporaryFailure, match="No connection"):
        await provider.look_up(outbound())
    await provider.close()


async def test_a_name_that_is_not_known_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    provider = SimulatorProvider(settings=simulator_settings(url="http://nowhere.invalid"))
    with pytest.raises(TemporaryFailure, match="not known"):
        await provider.send(outbound())
    await provider.close()


def provider_that_gets(answer: httpx.Response | Exception) -> SimulatorProvider:
    def handler(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = httpx.AsyncClient(transport=httpx.MockTransport(handler))
    return SimulatorProvider(client, simulator_settings(url="http://simulator.test"))


@each_case(
    "answer",
    [
        httpx.Response(500),
        httpx.Response(404),
        httpx.Response(307, headers={"Location": "/"}),
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, json={"messages": [{"id": None}]}),
        httpx.ReadTimeout("late"),
        httpx.ConnectError("refused"),
    ],
)
async def test_a_look_up_that_fails_says_nothing_about_the_message(answer: httpx.Response | Exception) -> None:
    with pytest.raises(TemporaryFailure):
        await provider_that_gets(answer).look_up(outbound())


@each_case("content", [b"", b"{}", b"[]", b'{"id": ""}', b'{"id": null}', b'{"id": "' + b"x" * 513])
async def test_a_2xx_without_an_id_is_in_doubt(content: bytes) -> None:
    with pytest.raises(UnknownOutcome):
        await provider_that_gets(httpx.Response(202, content=content)).send(outbound())
