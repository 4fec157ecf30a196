"""The contract of callbacks over HTTP, up to the rows that they leave."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from app.providers.registry import provider_registry
from app.testing.description import PUBLIC_URL
from app.testing.kit import Kit
from app.testing.service import Service, StartService
from app.testing.vendor import without_header

#: A row for each thing that was stored of a callback.
_STORED = "SELECT 1 FROM messages UNION ALL SELECT 1 FROM provider_events UNION ALL SELECT 1 FROM webhook_calls"


class HttpContract:
    """Tests over HTTP, which a `ProviderContract` runs."""

    async def test_over_http_what_is_not_the_vendor_s_is_401_and_stores_nothing(
        self, signing: Kit, messaging_service: StartService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service = await _serving(messaging_service, signing, monkeypatch)
        for callback in signing.forged():
            length = sum(len(name) + len(value) for name, value in callback.headers)
            _must_be_refused(
                await service.deliver(callback), 431 if length > service.settings.max_header_bytes else 401
            )
        assert service.rows(_STORED) == []

    async def test_over_http_what_its_vendor_may_have_failed_to_sign_is_to_come_again_and_stores_nothing(
        self, signing: Kit, messaging_service: StartService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not signing.described.may_come_unsigned:
            pytest.skip("it signs whatever it sends")
        service = await _serving(messaging_service, signing, monkeypatch)
        for callback in signing.genuine():
            answer = await service.deliver(without_header(callback, str(signing.described.signature)))
            _must_be_refused(answer, 503)
            assert int(answer.headers["retry-after"]) > 0
        assert service.rows(_STORED) == []

    async def test_over_http_an_address_that_can_not_be_read_is_401(
        self, signing: Kit, messaging_service: StartService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service = await _serving(messaging_service, signing, monkeypatch)
        for callback in signing.genuine():
            for query in ("&".join(["a"] * 1_001), "%ff=%00&=&&"):
                changed = replace(callback, url=f"{callback.url.partition('?')[0]}?{query}")
                for method in ("POST", "GET"):
                    answer = await service.deliver(replace(changed, method=method))
                    assert answer.status_code in {200, 401}, answer.text

    async def test_what_came_while_its_secret_was_missing_can_be_judged_once_that_is_set(
        self, signing: Kit, messaging_service: StartService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where it shows the secret itself, of which the hash is kept."""
        service = await _serving(messaging_service, signing, monkeypatch, quarantine_refused=True)
        genuine, right = signing.genuine(), provider_registry[signing.name]
        for variable in signing.described.verified_with:
            monkeypatch.setenv(variable, "")
        without = signing.configured()
        if without is None:
            pytest.skip("it is not there without its secret")
        monkeypatch.setitem(provider_registry, signing.name, without)
        for callback in genuine:
            _must_be_refused(await service.deliver(callback), 503)
        monkeypatch.setitem(provider_registry, signing.name, right)
        kept = (await service.client.get("/api/admin/webhook-calls?verdict=refused")).json()
        assert len(kept) == len(genuine)
        for each in kept:
            replayed = await service.client.post(f"/api/admin/webhook-calls/1/{each['id']}/replay")
            assert replayed.json()["verdict"] == "taken", replayed.text
        stored = service.rows("SELECT url, headers::text, convert_from(body, 'UTF8') FROM webhook_calls")
        signing.shows_no_secret(str(stored))

    async def test_over_http_what_comes_in_twice_is_stored_once(
        self, calling: Kit, messaging_service: StartService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if calling.described.inbound is None:
            pytest.skip("nothing comes in by it")
        service = await _serving(messaging_service, calling, monkeypatch)
        reply = provider_registry[calling.name].reply
        for _ in range(2):
            answer = await service.deliver(calling.sign(calling.described.inbound))
            assert (answer.status_code, answer.content) == (reply.status, reply.content)
        assert service.rows("SELECT direction, provider_type FROM messages") == [("inbound", calling.name)]

    @pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
    async def test_over_http_what_has_an_impossible_date_is_of_the_time_at_which_it_came(
        self, calling: Kit, messaging_service: StartService, monkeypatch: pytest.MonkeyPatch, moment: str
    ) -> None:
        described = calling.described
        bodies = [described.receipt and described.receipt(next(iter(described.words))), described.inbound]
        changed = [_dated(body, moment) for body in bodies if body and _dated(body, moment) != body]
        if not changed:
            pytest.skip("it tells no time")
        service = await _serving(messaging_service, calling, monkeypatch)
        for body in changed:
            answer = await service.deliver(calling.sign(body))
            assert answer.status_code == provider_registry[calling.name].reply.status
        assert set(service.rows("SELECT verdict, events FROM webhook_calls")) == {("taken", 1)}
        times = service.rows(
            "SELECT coalesce(occurred_at, received_at) FROM provider_events UNION ALL SELECT sent_at FROM messages",
        )
        assert len(times) == len(changed)
        assert all(abs(datetime.now(UTC) - time) < timedelta(minutes=1) for (time,) in times)

    async def test_over_http_a_word_that_nobody_knows_is_kept_as_it_came(
        self, calling: Kit, messaging_service: StartService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        described = calling.described
        if described.receipt is None:
            pytest.skip("it sends no receipts")
        service = await _serving(messaging_service, calling, monkeypatch)
        answer = await service.deliver(calling.sign(described.receipt("teleported")))
        assert answer.status_code == provider_registry[calling.name].reply.status
        [(status, raw)] = service.rows("SELECT status, raw::text FROM provider_events")
        assert status is None
        assert "teleported" in raw


def _dated(body: bytes, moment: str) -> bytes:
    """A body with this for its times, and with an age to come where they are Unix times."""
    written = re.sub(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)", moment.encode(), body)
    written = re.sub(rb"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d{4}(?= \d\d:)", b"Fri, 31 Dec 9999", written)
    return re.sub(rb"\b1[3-9]\d{8}\b", b"99999999999", written)


async def _serving(start: StartService, kit: Kit, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Service:
    monkeypatch.setitem(provider_registry, kit.name, kit.caller())
    return await start(public_url=PUBLIC_URL, worker_enabled=False, **settings)


def _must_be_refused(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
