"""A plus sign in a query, escaped or as it is: times with a zone, numbers and mail addresses."""

from typing import Any

import httpx
import pytest

from app.http.query import address_with_plus, time_with_plus
from tests.cases import each_case
from tests.factories import email, sms
from tests.wire import problem_of

pytestmark = pytest.mark.anyio


@each_case(
    ("arrived", "meant"),
    [
        ("2024-11-01T14:00:00 02:00", "2024-11-01T14:00:00+02:00"),
        ("2024-11-01T14:00:00.123456 05:30", "2024-11-01T14:00:00.123456+05:30"),
        ("2024-11-01T14:00 0200", "2024-11-01T14:00+0200"),
        ("2024-11-01t14:00:00 14", "2024-11-01t14:00:00+14"),
        ("2024-11-01 14:00:00 00:00", "2024-11-01 14:00:00+00:00"),
        # Nothing is missing.
        ("2024-11-01 14:00", "2024-11-01 14:00"),
        ("2024-11-01 14:00:00", "2024-11-01 14:00:00"),
        ("2024-11-01T14:00:00+02:00", "2024-11-01T14:00:00+02:00"),
        ("2024-11-01T14:00:00-02:00", "2024-11-01T14:00:00-02:00"),
        ("2024-11-01T14:00:00Z", "2024-11-01T14:00:00Z"),
        ("2024-11-01", "2024-11-01"),
        ("2024-11-01T14:00:00 soon", "2024-11-01T14:00:00 soon"),
        ("", ""),
    ],
)
def test_the_zone_of_a_time_gets_its_plus_again(arrived: str, meant: str) -> None:
    assert time_with_plus(arrived) == meant


@each_case(
    ("arrived", "meant"),
    [
        (" 18045551234", "+18045551234"),
        (" 1 (804) 555-1234", "+1 (804) 555-1234"),
        (" 44 20 7946 0958", "+44 20 7946 0958"),
        ("whatsapp: 18045551234", "whatsapp:+18045551234"),
        ("rcs: 491751234567", "rcs:+491751234567"),
        ("ann shop@example.com", "ann+shop@example.com"),
        ("ann shop eu@example.com", "ann+shop+eu@example.com"),
        # Nothing is missing.
        ("+18045551234", "+18045551234"),
        ("(804) 555-1234", "(804) 555-1234"),
        ("40404", "40404"),
        ("Acme Shop", "Acme Shop"),
        ("ann@example.com", "ann@example.com"),
        ('"ann b"@example.com', '"ann b"@example.com'),
        ("slack:C024BE91L", "slack:C024BE91L"),
    ],
)
def test_an_address_gets_its_plus_again(arrived: str, meant: str) -> None:
    assert address_with_plus(arrived) == meant


#: Written into the address as they are, past a client that would escape them.
TIMES = [
    "2000-01-01T02:00:00+02:00",
    "2000-01-01T02:00:00%2B02:00",
    "2000-01-01+02:00:00+02:00",
    "2000-01-01T02:00+0200",
]
LISTS = ["/api/messages?since=", "/api/admin/webhook-calls?since=", "/api/admin/webhook-calls?until="]


@each_case("path", LISTS)
@each_case("time", TIMES)
async def test_each_time_of_a_query_takes_a_plus_as_it_is(untouched: httpx.AsyncClient, path: str, time: str) -> None:
    assert (await untouched.get(path + time)).status_code == 200


async def test_a_zone_with_a_plus_is_not_read_as_utc(client: httpx.AsyncClient) -> None:
    sent = (await client.post("/api/messages/sms", json=sms())).json()
    stored = (await client.get(f"/api/messages/{sent['message_id']}")).json()["created_at"]
    [day, time] = stored.removesuffix("Z").split("T")
    # The same clock in a zone further east is an earlier moment.
    assert len((await client.get(f"/api/messages?since={day}T{time}+00:00")).json()) == 1
    assert (await client.get(f"/api/messages?until={day}T{time}+01:00")).json() == []
    assert len((await client.get(f"/api/messages?until={day}T{time}-01:00")).json()) == 1


@each_case(
    ("written", "found"),
    [
        ("+18045551234", "+18045551234"),
        ("%2B18045551234", "+18045551234"),
        ("+1+(804)+555-1234", "+18045551234"),
        ("ann+shop@example.com", "ann+shop@example.com"),
        ("ann%2Bshop@example.com", "ann+shop@example.com"),
    ],
)
async def test_a_contact_is_found_by_an_address_with_a_plus_as_it_is(
    client: httpx.AsyncClient, written: str, found: str
) -> None:
    sends: dict[str, dict[str, Any]] = {"sms": sms(), "email": email(to="ann+shop@example.com")}
    for channel, body in sends.items():
        assert (await client.post(f"/api/messages/{channel}", json=body)).status_code == 200
    [contact] = (await client.get(f"/api/contacts?address={written}")).json()
    assert contact["address"] == found


async def test_what_is_no_time_is_still_refused(untouched: httpx.AsyncClient) -> None:
    for time in ("yesterday", "2024-11-01T14:00:00 99:99", "2024-11-01T14:00:00  02:00"):
        problem_of(await untouched.get("/api/messages", params={"since": time}), 422)
