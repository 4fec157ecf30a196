"""The promises of every provider, asked of each file that has a `configured()`.

A vendor is told by its description (tests/providers/kit), from which it is made as in a process: by its variables.
"""

import base64
import re
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from inspect import isawaitable
from pathlib import Path
from urllib.parse import unquote_plus

import httpx
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
    CredentialsRefused,
    InboundMessage,
    OutboundMessage,
    PermanentFailure,
    ProviderFailure,
    Receipt,
    Reply,
    TemporaryFailure,
    UnknownOutcome,
    Unread,
)
from app.providers.registry import provider_registry
from app.providers.toolbox.models import VendorSettings
from app.providers.toolbox.verification import TOLERANCE
from tests.cases import each_case
from tests.conftest import make_settings
from tests.providers.contract import ACME, NAMES, ROOT, Kit, example_settings, load_the_documented_vendor
from tests.providers.kit import PICTURE, PUBLIC_URL, Outcome, description_of
from tests.providers.vendors import PAYLOADS, items_in, payload, without_header
from tests.wire import problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]

FAILURES: Mapping[Outcome, type[ProviderFailure]] = {
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


@pytest.fixture(params=[*NAMES, ACME])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def kit(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kit:
    monkeypatch.chdir(tmp_path)  # where there is no .env
    kit = Kit(name, monkeypatch)
    for variable in kit.described.environment:
        monkeypatch.delenv(variable, raising=False)
    return kit


@pytest.fixture
def calling(kit: Kit) -> Kit:
    if kit.described.sign is None:
        pytest.skip("it does not call back")
    return kit


@pytest.fixture
def signing(calling: Kit) -> Kit:
    if calling.described.signed_by is None:
        pytest.skip("it signs nothing")
    return calling


async def verify(provider: BaseProvider, callback: Callback) -> None:
    judging = provider.verify(callback)
    if isawaitable(judging):
        await judging


async def deliver(client: httpx.AsyncClient, callback: Callback) -> httpx.Response:
    """Post a callback with the very bytes of its headers."""
    headers = [(name.encode(), value.encode("latin-1")) for name, value in callback.headers]
    path = callback.url.removeprefix(PUBLIC_URL)
    return await client.request(callback.method, path, content=callback.body, headers=headers)


async def serving(serve: Serve, settings: Settings, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> httpx.AsyncClient:
    monkeypatch.setitem(provider_registry, kit.name, kit.caller())
    return await serve(settings.model_copy(update={"public_url": PUBLIC_URL, "worker_enabled": False}))


def test_a_vendor_that_nobody_has_described_is_told_what_to_write() -> None:
    with pytest.raises(AssertionError, match=r"Write tests/providers/kit/nobody\.py with a function description\(\)"):
        description_of("nobody")


def test_it_is_there_with_its_settings_and_absent_without(kit: Kit) -> None:
    assert kit.module.configured() is None
    provider = kit.configure({})
    assert provider.channels


def test_the_document_names_every_setting_of_its_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    load_the_documented_vendor(monkeypatch)
    settings: type[VendorSettings] = import_module("app.providers.acme").AcmeSettings
    assert set(re.findall(r"^# ([A-Z_]+)=", example_settings(), re.MULTILINE)) == {
        f"ACME_{name}".upper() for name in settings.model_fields
    }


def test_the_readme_has_a_row_for_each_and_no_other() -> None:
    assert sorted(readme_rows()) == sorted(set(NAMES) - {"simulator"})


def test_the_readme_says_what_it_does(kit: Kit) -> None:
    """Each cell is a promise that another test here has looked at."""
    provider = kit.configure({})
    if provider.simulated or kit.name == ACME:
        pytest.skip("the table is about those that really send")
    described = kit.described
    calls = [kit.sign(described.receipt(next(iter(described.words))))] if described.receipt else []
    receipts = [item for call in calls for item in items_in(provider, call)]
    brings_our_reference = any(isinstance(each, Receipt) and each.idempotency_key for each in receipts)
    assert provider.receipts_carry_key == brings_our_reference
    can_be_asked = type(provider).look_up is not BaseProvider.look_up
    in_doubt = [
        *(["key"] if provider.honours_idempotency_key else []),
        *(["look-up"] if can_be_asked else []),
        *(["receipt"] if brings_our_reference else []),
    ]
    assert readme_rows()[kit.name] == [
        ", ".join(provider.channels),
        _both(described.message, described.media),
        _both(described.inbound, described.inbound_media),
        "yes" if receipts else "",
        ", ".join(in_doubt),
        described.signed_by or "",
    ]


def _both(text: object, media: object) -> str:
    return ", ".join(word for word, there in (("text", text), ("media", media)) if there)


def readme_rows() -> dict[str, list[str]]:
    """The cells of the table of providers, by name."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[\w+\]\(docs/providers\.md#(\w+)\) \|(.*)\|$", readme, re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


async def test_a_message_goes_out_as_the_vendor_documents_it(kit: Kit) -> None:
    async with kit.provider() as (provider, end):
        result = await sent(provider, kit.described.message)
        assert result == kit.described.id
        end.must_have_got(kit.described.request)


async def sent(provider: BaseProvider, message: OutboundMessage) -> str | None:
    answer = provider.send(message)
    return (await answer if isinstance(answer, Awaitable) else answer).provider_message_id


def test_it_refuses_beforehand_nothing_that_it_could_send(kit: Kit) -> None:
    provider = kit.configure({})
    for message in filter(None, (kit.described.message, kit.described.media)):
        assert provider.refusals(message) == {}


async def test_what_hangs_on_a_message_goes_out_with_it(kit: Kit) -> None:
    if kit.described.media is None:
        pytest.skip("it takes texts alone")
    async with kit.provider() as (provider, end):
        await sent(provider, kit.described.media)
        assert PICTURE in written(end.got())


def written(content: bytes) -> str:
    """A request in clear: what forms escape, and what stands in base64 within JSON."""
    text = content.decode()
    encoded = re.findall(r"[A-Za-z0-9+/]{80,}={0,2}", text)
    return "\n".join([text, unquote_plus(text), *(base64.b64decode(each).decode() for each in encoded)])


@each_case("outcome", FAILURES)
async def test_what_goes_wrong_becomes_the_right_failure_and_shows_no_secret(kit: Kit, outcome: Outcome) -> None:
    if outcome not in kit.described.outcomes:
        return  # it can't be told apart from another outcome there
    async with kit.provider(outcome) as (provider, _):
        with capture_logs() as logs, pytest.raises(FAILURES[outcome]) as raised:
            await sent(provider, kit.described.message)
        kit.shows_no_secret("".join(traceback.format_exception(raised.value)) + repr(logs))
        if outcome is Outcome.THROTTLED:
            assert isinstance(raised.value, TemporaryFailure)
            assert (raised.value.throttled, raised.value.retry_after) == (True, 7)


def test_its_secrets_are_not_shown(kit: Kit) -> None:
    provider = kit.configure({})
    kit.shows_no_secret(repr(provider))
    for value in vars(provider).values():
        if not isinstance(value, dict | str | httpx.URL | list):  # what it makes of them is its own, and not printed
            kit.shows_no_secret(repr(value))


async def test_every_documented_call_is_genuine_and_can_be_read(calling: Kit) -> None:
    provider = calling.caller()
    files = sorted((PAYLOADS / calling.name).glob("*.*"))
    for file in files:
        callback = calling.sign(payload(calling.name, file.name))
        await verify(provider, callback)
        if file.name in calling.described.not_understood:
            with pytest.raises(ValueError):  # noqa: PT011 - every kind of it is kept as it came
                provider.parse(callback)
        else:
            parsing = provider.parse(callback)
            if not isinstance(await parsing if isinstance(parsing, Awaitable) else parsing, Reply):
                must_be_understood(provider, callback, file.name)


def must_be_understood(provider: BaseProvider, callback: Callback, name: str) -> None:
    try:
        events = items_in(provider, callback)
    except ValueError as error:
        raise AssertionError(f"{name} is not understood: {error}") from error
    assert not [event for event in events if isinstance(event, Unread)], f"part of {name} is not understood"


def test_each_of_its_words_has_its_status_and_names_the_message(calling: Kit) -> None:
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


def test_a_receipt_that_is_called_again_has_the_same_id(calling: Kit) -> None:
    provider, described = calling.caller(), calling.described
    if described.receipt is None:
        pytest.skip("it sends no receipts")
    body = described.receipt(next(iter(described.words)))
    first, second = (calling.sign(body) for _ in range(2))
    assert items_in(provider, first)[0] == items_in(provider, second)[0]


def test_a_message_that_came_in_has_both_ends_and_its_words(calling: Kit) -> None:
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


def test_what_hangs_on_a_message_that_came_in_is_kept(calling: Kit) -> None:
    provider, described = calling.caller(), calling.described
    if described.inbound_media is None:
        pytest.skip("only texts come in by it")
    [message] = items_in(provider, calling.sign(described.inbound_media))
    assert isinstance(message, InboundMessage)
    assert message.attachments or message.files


async def test_another_signature_or_none_is_refused_and_shows_no_secret(signing: Kit) -> None:
    provider = signing.caller()
    for callback in signing.genuine():
        await verify(provider, callback)
    for callback in signing.forged():
        with capture_logs() as logs, pytest.raises(CallbackRefused) as raised:
            await verify(provider, callback)
        refusal = raised.value
        signing.shows_no_secret(f"{refusal} {refusal.seen} {refusal.expected} {logs}")
        assert all(len(hint or "") <= 15 for hint in (refusal.seen, refusal.expected))


async def test_nobody_is_known_before_the_body_is_there_who_would_be_refused_then(signing: Kit) -> None:
    provider = signing.caller()
    for callback in signing.genuine():
        assert provider.is_known_by_head(replace(callback, body=b"")) in {True, False}
    for callback in signing.forged():
        with suppress(CallbackRefused):
            assert not provider.is_known_by_head(replace(callback, body=b""))


async def test_who_signs_the_address_that_is_called_says_so(signing: Kit) -> None:
    provider = signing.caller()
    for callback in signing.genuine():
        elsewhere = replace(callback, url=callback.url.replace(PUBLIC_URL, "https://elsewhere.example"))
        if provider.signs_address:
            with pytest.raises(CallbackRefused):
                await verify(provider, elsewhere)
        else:
            await verify(provider, elsewhere)


async def test_a_signature_is_good_for_a_while_and_not_before_its_time(signing: Kit) -> None:
    if signing.described.good_for is None:
        pytest.skip("it signs no time")
    provider, callback = signing.caller(), signing.genuine()[0]
    for early_or_late in (-TOLERANCE, signing.described.good_for):
        margin = timedelta(seconds=2 if early_or_late > timedelta() else -2)  # times are signed in whole seconds
        await verify(provider, replace(callback, received_at=callback.received_at + early_or_late - margin))
        with pytest.raises(CallbackRefused, match="seconds"):
            await verify(provider, replace(callback, received_at=callback.received_at + early_or_late + margin))


async def test_without_its_secret_nothing_can_be_told_of_a_call_whatever_it_shows(
    signing: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    signing.caller()
    for variable in signing.described.verified_with:
        monkeypatch.setenv(variable, "")
    if (provider := signing.module.configured()) is not None:
        for callback in [*signing.genuine(), *signing.forged()]:
            with pytest.raises(CallbackUnverifiable):
                await verify(provider, callback)


def test_a_space_does_not_make_two_secrets_of_one(signing: Kit) -> None:
    for variable in signing.described.verified_with:
        if variable == "SES_TOPIC_ARN":
            continue  # the names of topics are no secrets
        with pytest.raises(ValidationError, match="separate them by a comma") as refused:
            signing.configure({variable: "open sesame"})
        assert "sesame" not in str(refused.value)
        signing.configure({variable: signing.described.environment[variable]})


def test_the_doctor_names_the_secret_that_is_missing(signing: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    signing.configure({})
    for variable in signing.described.verified_with:
        monkeypatch.setenv(variable, "")
    if (provider := signing.module.configured()) is None:
        pytest.skip("without it there is no provider")
    monkeypatch.setattr(installation, "provider_registry", {signing.name: provider})
    [finding] = installation.callbacks(make_settings())
    assert all(variable in finding.text for variable in signing.described.verified_with)


async def test_over_http_what_is_not_the_vendor_s_is_401_and_stores_nothing(
    signing: Kit, serve: Serve, settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await serving(serve, settings, signing, monkeypatch)
    for callback in signing.forged():
        is_long = sum(len(name) + len(value) for name, value in callback.headers) > settings.max_header_bytes
        problem_of(await deliver(client, callback), 431 if is_long else 401)
    for table in ("messages", "provider_events", "webhook_calls"):
        assert rows_of(database_url, f"SELECT 1 FROM {table}") == []


async def test_over_http_what_its_vendor_may_have_failed_to_sign_is_to_come_again_and_stores_nothing(
    signing: Kit, serve: Serve, settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not signing.described.may_come_unsigned:
        pytest.skip("it signs whatever it sends")
    client = await serving(serve, settings, signing, monkeypatch)
    for callback in signing.genuine():
        answer = await deliver(client, without_header(callback, str(signing.described.signature)))
        problem_of(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
    for table in ("messages", "provider_events", "webhook_calls"):
        assert rows_of(database_url, f"SELECT 1 FROM {table}") == []


async def test_over_http_an_address_that_can_not_be_read_is_401(
    signing: Kit, serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await serving(serve, settings, signing, monkeypatch)
    for callback in signing.genuine():
        for query in ("&".join(["a"] * 1_001), "%ff=%00&=&&"):
            changed = replace(callback, url=f"{callback.url.partition('?')[0]}?{query}")
            for method in ("POST", "GET"):
                answer = await deliver(client, replace(changed, method=method))
                assert answer.status_code in {200, 401}, answer.text


async def test_what_came_while_its_secret_was_missing_can_be_judged_once_that_is_set(
    signing: Kit, serve: Serve, settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it shows the secret itself, of which the hash is kept."""
    client = await serving(serve, settings.model_copy(update={"quarantine_refused": True}), signing, monkeypatch)
    genuine, right = signing.genuine(), provider_registry[signing.name]
    for variable in signing.described.verified_with:
        monkeypatch.setenv(variable, "")
    without = signing.module.configured()
    if without is None:
        pytest.skip("it is not there without its secret")
    monkeypatch.setitem(provider_registry, signing.name, without)
    for callback in genuine:
        problem_of(await deliver(client, callback), 503)
    monkeypatch.setitem(provider_registry, signing.name, right)
    kept = (await client.get("/api/admin/webhook-calls?verdict=refused")).json()
    assert len(kept) == len(genuine)
    for each in kept:
        replayed = await client.post(f"/api/admin/webhook-calls/1/{each['id']}/replay")
        assert replayed.json()["verdict"] == "taken", replayed.text
    columns = ", ".join(f"{column}::text" for column in ("url", "headers", "convert_from(body, 'UTF8')"))
    signing.shows_no_secret(str(rows_of(database_url, f"SELECT {columns} FROM webhook_calls")))


async def test_over_http_what_comes_in_twice_is_stored_once(
    calling: Kit, serve: Serve, settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if calling.described.inbound is None:
        pytest.skip("nothing comes in by it")
    client = await serving(serve, settings, calling, monkeypatch)
    reply = provider_registry[calling.name].reply
    for _ in range(2):
        answer = await deliver(client, calling.sign(calling.described.inbound))
        assert (answer.status_code, answer.content) == (reply.status, reply.content)
    assert rows_of(database_url, "SELECT direction, provider_type FROM messages") == [("inbound", calling.name)]


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
async def test_over_http_what_has_an_impossible_date_is_of_the_time_at_which_it_came(
    calling: Kit, serve: Serve, settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    described = calling.described
    bodies = [described.receipt and described.receipt(next(iter(described.words))), described.inbound]
    changed = [dated(body, moment) for body in bodies if body and dated(body, moment) != body]
    if not changed:
        pytest.skip("it tells no time")
    client = await serving(serve, settings, calling, monkeypatch)
    for body in changed:
        answer = await deliver(client, calling.sign(body))
        assert answer.status_code == provider_registry[calling.name].reply.status
    assert set(rows_of(database_url, "SELECT verdict, events FROM webhook_calls")) == {("taken", 1)}
    times = rows_of(
        database_url,
        "SELECT coalesce(occurred_at, received_at) FROM provider_events UNION ALL SELECT sent_at FROM messages",
    )
    assert len(times) == len(changed)
    assert all(abs(datetime.now(UTC) - time) < timedelta(minutes=1) for (time,) in times)


def dated(body: bytes, moment: str) -> bytes:
    """A body with this for its times, and with an age to come where they are Unix times."""
    written = re.sub(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)", moment.encode(), body)
    written = re.sub(rb"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d{4}(?= \d\d:)", b"Fri, 31 Dec 9999", written)
    return re.sub(rb"\b1[3-9]\d{8}\b", b"99999999999", written)


async def test_over_http_a_word_that_nobody_knows_is_kept_as_it_came(
    calling: Kit, serve: Serve, settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = calling.described
    if described.receipt is None:
        pytest.skip("it sends no receipts")
    client = await serving(serve, settings, calling, monkeypatch)
    answer = await deliver(client, calling.sign(described.receipt("teleported")))
    assert answer.status_code == provider_registry[calling.name].reply.status
    [(status, raw)] = rows_of(database_url, "SELECT status, raw::text FROM provider_events")
    assert status is None
    assert "teleported" in raw
