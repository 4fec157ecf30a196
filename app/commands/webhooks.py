"""`python -m app webhooks …`: looks at the calls of providers, and takes them again."""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.config import Settings
from app.db.engine import provided_database
from app.db.migrate import prepare
from app.db.models import KeptCallback
from app.db.paging import Page, rows_of_all
from app.domain import CallbackVerdict
from app.errors import ServiceError
from app.services.callbacks.kept_callbacks import get_callback, list_callbacks
from app.services.callbacks.service import CallbackResult, SignatureCheck
from app.wiring import Services, running_services

_ACTOR = "command line"
_PAGE = 100

#: Does something with one call; in a word, and in detail, what came of it.
Deed = Callable[[Services, KeptCallback], Awaitable[tuple[str, str]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    chosen = parser.add_subparsers(dest="action", required=True)
    _add_filters(chosen.add_parser("list", help="the calls that are kept, the newest first"))
    chosen.add_parser("show", help="a call as it came").add_argument("id", type=int)
    for name, help in (
        ("verify", "whether calls are genuine, by today's settings and the time at which they came"),
        ("replay", "take calls once more; what they say is stored once, however often"),
    ):
        deed = chosen.add_parser(name, help=help)
        deed.add_argument("ids", type=int, nargs="*", metavar="ID")
        deed.add_argument("--all", action="store_true", help="every one that the filters leave")
        _add_filters(deed)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--provider")
    parser.add_argument("--verdict", choices=[verdict.value for verdict in CallbackVerdict])
    parser.add_argument("--since", type=_moment, help="received then or later: 2026-01-31 or 2026-01-31T12:00 (UTC)")


def _moment(written: str) -> datetime:
    moment = datetime.fromisoformat(written)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    """Do what was chosen, also while the service runs; 0 when it is done, 1 when a call is not genuine or not taken,
    2 when it can't be done."""
    with provided_database(settings) as url:
        prepare(url, production=settings.is_production)
        try:
            return asyncio.run(_run(url, settings, chosen))
        except ServiceError as error:
            print(error, file=sys.stderr)  # noqa: T201 - for whoever typed it
    return 2


async def _run(url: str, settings: Settings, chosen: argparse.Namespace) -> int:
    async with running_services(url, settings, deliver=False) as services:
        if chosen.action == "list":
            async for call in _calls(services.sessions, chosen):
                _say(_line(call))
            return 0
        if chosen.action == "show":
            async with services.sessions() as session:
                _show(await get_callback(session, chosen.id))
            return 0
        if bool(chosen.ids) == chosen.all:
            print("Name the calls by their ids, or say --all.", file=sys.stderr)  # noqa: T201 - as above
            return 2
        return await _each(services, chosen, _verify if chosen.action == "verify" else _replay)


async def _verify(services: Services, call: KeptCallback) -> tuple[str, str]:
    found = await services.callbacks.verify(call.tenant_id, call.id)
    return "genuine" if found.genuine else "refused", _why(found)


async def _replay(services: Services, call: KeptCallback) -> tuple[str, str]:
    found = await services.callbacks.replay(call.tenant_id, call.id, actor=_ACTOR, client=None)
    return found.verdict, f"{found.events} events  {_why(found)}"


def _why(found: CallbackResult | SignatureCheck) -> str:
    hints = f" (seen {found.seen}, expected {found.expected})" if found.expected else ""
    return f"{found.reason or ''}{hints}"


async def _each(services: Services, chosen: argparse.Namespace, deed: Deed) -> int:
    """Do it with one after the other, and say of each at once what was found."""
    counts: Counter[str] = Counter()
    async for call in _calls(services.sessions, chosen):
        outcome, details = await deed(services, call)
        counts[outcome] += 1
        _say(f"{call.id}  {call.provider_type}  {outcome}  {details}")
    _say(", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "none")
    return 0 if counts.total() == counts["genuine"] + counts[CallbackVerdict.TAKEN] else 1


async def _calls(
    sessions: async_sessionmaker[AsyncSession], chosen: argparse.Namespace
) -> AsyncIterator[KeptCallback]:
    """Those that are named, or those that the filters leave, without their content."""
    ids: list[int] = getattr(chosen, "ids", [])
    for call_id in ids:
        async with sessions() as session:
            call = await get_callback(session, call_id)
        yield call
    if ids:
        return

    async def page_at(cursor: str | None) -> Page[KeptCallback]:
        async with sessions() as session:
            return await list_callbacks(
                session,
                provider=chosen.provider,
                verdict=CallbackVerdict(chosen.verdict) if chosen.verdict else None,
                since=chosen.since,
                limit=_PAGE,
                cursor=cursor,
            )

    async for call in rows_of_all(page_at):
        yield call


def _line(call: KeptCallback) -> str:
    received = f"{call.received_at:%Y-%m-%d %H:%M:%S}"
    return f"{call.id}  {received}  {call.provider_type}  {call.verdict}  {call.events} events  {call.reason or ''}"


def _show(call: KeptCallback) -> None:
    _say(_line(call))
    if call.expected:
        _say(f"seen {call.seen}, expected {call.expected}")
    _say(f"{call.method} {call.url}")
    for name, value in call.headers:
        _say(f"{name}: {'(not kept)' if value is None else value}")
    _say("")
    _say(call.body.decode("utf-8", "replace"))


def _say(line: str) -> None:
    # What strangers have sent must not steer a terminal.
    shown = "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in line)
    print(shown.rstrip(), flush=True)  # noqa: T201 - it is what was asked for
