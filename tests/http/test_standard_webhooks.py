"""Signatures of the generic webhooks (Standard Webhooks): without a good one nothing is stored."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from standardwebhooks import Webhook
from starlette.datastructures import Headers

from app.config import Settings
from app.errors import SignatureRefused
from app.http.standard_webhooks import must_be_signed
from tests.cases import each_case
from tests.conftest import make_settings
from tests.factories import WEBHOOKS, sms_webhook, until
from tests.tenancy import PUBLISHED_SECRET, WEBHOOK_SECRET, production
from tests.wire import problem_of, row_counts, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
OTHER = "another-kept-while-the-first-is-changed"
STRANGER = "somebody-elses-of-thirty-two-characters"


def key_of(secret: str) -> bytes:
    key = make_settings(webhook_secret=secret).webhook_keys()[0]
    assert isinstance(key, bytes)
    return key


def signature(body: bytes, *, at: int | str, secret: str = WEBHOOK_SECRET, id: str = ID) -> str:
    digest = hmac.digest(key_of(secret), f"{id}.{at}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()


def signed(body: bytes, *, at: int | str | None = None, **how: str) -> dict[str, str]:
    at = int(time.time()) if at is None else at
    return {
        "content-type": "application/json",
        "webhook-id": ID,
        "webhook-timestamp": str(at),
        "webhook-signature": signature(body, at=at, **how),
    }


@pytest.fixture
async def client(serve: Serve, settings: Settings) -> httpx.AsyncClient:
    return await serve(
        settings.model_copy(
            update={"webhook_secret": make_settings(webhook_secret=f"{WEBHOOK_SECRET}, {OTHER}").webhook_secret}
        )
    )


def test_the_published_vector_is_signed_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the reference library (standardwebhooks 1.1.0) makes of the id, the time and the body of its own tests.
    body, at = b'{"test": 2432232314}', 1614265330
    shown = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    headers = Headers({"webhook-id": ID, "webhook-timestamp": str(at), "webhook-signature": shown})
    monkeypatch.setattr("app.http.standard_webhooks.time.time", lambda: at + 299.0)
    must_be_signed(headers, body, [key_of(PUBLISHED_SECRET)])
    with pytest.raises(SignatureRefused):
        must_be_signed(headers, body + b" ", [key_of(PUBLISHED_SECRET)])


@each_case("path", WEBHOOKS)
@each_case("secret", [WEBHOOK_SECRET, OTHER])
async def test_what_is_signed_with_either_secret_is_stored(client: httpx.AsyncClient, path: str, secret: str) -> None:
    body = json.dumps(WEBHOOKS[path]()).encode()
    response = await client.post(path, content=body, headers=signed(body, secret=secret))
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


#: As `openssl rand -base64 32` and others print them; the last is a text of its own.
PRINTED = [
    "q8Wm0bV2n1xTtq3c4R5y6U7i8O9p0aSdFgHjKlZxCvA=",
    "9b7c6f1e5d4a3b2c1d0e9f8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b8c",
    "whsec_q8Wm0bV2n1xTtq3c4R5y6U7i8O9p0aSdFgHjKlZxCvA=",
    "pT4/xN+0aLq8Rw2ZyKvE6sHd1mJbUcGf",
    "k3Wq_8Zt-Vb1XyR5nM2cL7aS9dF0gH4j",
]


@pytest.mark.parametrize("secret", PRINTED)
async def test_what_the_library_signs_is_stored_with_the_same_string_on_both_sides(
    serve: Serve, settings: Settings, secret: str
) -> None:
    client = await serve(production(settings, webhook_secret=secret))
    at = datetime.now(UTC)
    for number, written in enumerate(
        [secret, secret.removeprefix("whsec_"), f"whsec_{secret}".replace("whsec_" * 2, "whsec_")]
    ):
        body = json.dumps(sms_webhook(messaging_provider_id=f"signed-{number}"))
        headers = {"webhook-id": f"msg_{number}", "webhook-timestamp": str(int(at.timestamp()))}
        headers["webhook-signature"] = Webhook(written).sign(f"msg_{number}", at, body)
        headers["content-type"] = "application/json"
        assert (await client.post("/api/webhooks/sms", content=body, headers=headers)).status_code == 200, written


BODY = json.dumps(sms_webhook()).encode()
NOW = int(time.time())


@each_case(
    "changes",
    [
        {"webhook-signature": ""},
        {"webhook-id": ""},
        {"webhook-timestamp": ""},
        {"webhook-timestamp": "soon"},
        {"webhook-timestamp": "+1614265330"},
        {"webhook-timestamp": "1_614_265_330"},
        {"webhook-timestamp": "9" * 13},
        {"webhook-timestamp": f"{NOW}.0"},
        {"webhook-id": "another"},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,!!!"},
        {"webhook-signature": "v1,\u00e9".encode("latin-1")},
        {"webhook-signature": "x" * 64_000},
        {"webhook-signature": signature(BODY, at=NOW, secret=STRANGER)},
        {"webhook-signature": signature(BODY, at=NOW).replace("v1,", "v2,")},
        {"webhook-signature": signature(BODY, at=NOW).replace("v1,", "v1a,")},
        {"webhook-signature": signature(BODY, at=NOW).removeprefix("v1,")},
        {"webhook-signature": signature(BODY + b"\n", at=NOW)},
        {"webhook-signature": signature(BODY, at=NOW - 301), "webhook-timestamp": str(NOW - 301)},
        {"webhook-signature": signature(BODY, at=NOW + 302), "webhook-timestamp": str(NOW + 302)},
    ],
)
async def test_what_is_signed_wrongly_is_refused_and_nothing_is_stored(
    client: httpx.AsyncClient, database_url: str, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    monkeypatch.setattr("app.http.standard_webhooks.time.time", lambda: NOW + 1.0)  # however late this test runs
    headers = {**signed(BODY, at=NOW), **changes}
    response = await client.post("/api/webhooks/sms", content=BODY, headers=headers)
    problem_of(response, 401)
    assert set(row_counts(database_url).values()) == {0}


@each_case("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
async def test_what_is_not_signed_is_refused(client: httpx.AsyncClient, missing: str) -> None:
    headers = {name: value for name, value in signed(BODY).items() if name != missing}
    problem_of(await client.post("/api/webhooks/sms", content=BODY, headers=headers), 401)
    twice = [*signed(BODY).items(), (missing, signed(BODY)[missing])]
    problem_of(await client.post("/api/webhooks/sms", content=BODY, headers=twice), 401)


async def test_one_good_signature_among_several_is_enough(client: httpx.AsyncClient) -> None:
    headers = signed(BODY)
    headers["webhook-signature"] = f"v1a,AAAA v1,AAAA {headers['webhook-signature']}"
    assert (await client.post("/api/webhooks/sms", content=BODY, headers=headers)).status_code == 200


@each_case(
    ("names", "status"),
    [
        (("svix-id", "svix-timestamp", "svix-signature"), 200),
        (("svix-id", "webhook-timestamp", "webhook-signature"), 401),
        (("webhook-id", "svix-timestamp", "svix-signature"), 401),
    ],
)
async def test_the_headers_may_have_svix_s_names(
    client: httpx.AsyncClient, names: tuple[str, str, str], status: int
) -> None:
    whole = signed(BODY)
    own = {name: whole[f"webhook-{name.partition('-')[2]}"] for name in names}
    headers = {"content-type": "application/json", **own}
    assert (await client.post("/api/webhooks/sms", content=BODY, headers=headers)).status_code == status


async def test_a_public_key_stands_in_place_of_a_secret(serve: Serve, settings: Settings) -> None:
    private = Ed25519PrivateKey.generate()
    public = "whpk_" + base64.b64encode(private.public_key().public_bytes_raw()).decode()
    client = await serve(production(settings, webhook_secret=public))
    at = int(time.time())
    shown = "v1a," + base64.b64encode(private.sign(f"{ID}.{at}.".encode() + BODY)).decode()
    for signature, status in ((shown, 200), (shown.replace("v1a,", "v1,"), 401)):
        headers = {**signed(BODY, at=at), "webhook-signature": signature}
        assert (await client.post("/api/webhooks/sms", content=BODY, headers=headers)).status_code == status


async def test_nothing_of_a_body_is_read_before_its_signature(client: httpx.AsyncClient) -> None:
    problem_of(await client.post("/api/webhooks/sms", content=b"{", headers=signed(b"}")), 401)
    problem_of(await client.post("/api/webhooks/sms", content=b"{", headers=signed(b"{")), 422)


async def test_a_replay_is_stored_once(client: httpx.AsyncClient, database_url: str) -> None:
    headers = signed(BODY)
    for _ in range(5):
        assert (await client.post("/api/webhooks/sms", content=BODY, headers=headers)).status_code == 200
    assert rows_of(database_url, "SELECT count(*) FROM messages") == [(1,)]


async def test_a_refused_signature_is_recorded(client: httpx.AsyncClient, database_url: str) -> None:
    await client.post("/api/webhooks/email", content=BODY)

    async def events() -> list[tuple[object, ...]]:
        return rows_of(database_url, "SELECT kind, detail FROM audit_events")

    assert await until(events, bool) == [("signature_refused", {"path": "/api/webhooks/email"})]


async def test_in_production_the_generic_webhooks_are_shut_without_a_signature(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    client = await serve(production(settings))
    problem_of(await client.post("/api/webhooks/sms", json=sms_webhook()), 401)
    assert (await client.post("/api/webhooks/sms", content=BODY, headers=signed(BODY))).status_code == 200
