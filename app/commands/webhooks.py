"""`python -m app webhooks …`: lists the kept callbacks of providers, verifies and replays them."""

import argparse
import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

from app.commands import ACTOR, moment, refuse, say, table
from app.config import Settings
from app.db.models import KeptCallback
from app.db.schema.migrate import prepared_database
from app.db.statements.paging import Page, rows_of_all
from app.installation import CallbackVerdict
from app.services.callbacks.callback_store import CallbackResult
from app.services.callbacks.kept_callbacks import get_callback, list_callbacks
from app.wiring import Services, running_services

#: Works on one callback; returns the outcome in a word, and its details.
Action = Callable[[Services, KeptCallback], Awaitable[tuple[str, str]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    chosen = parser.add_subparsers(dest="action", required=True)
    _add_filters(chosen.add_parser("list", help="list the kept callbacks, newest first"))
    chosen.add_parser("show", help="show a callback as it came").add_argument("id", type=int)
    for name, help in (
        ("verify", "check signatures again, with today's settings and the time at which the callbacks came"),
        ("replay", "process callbacks again; what is stored already is not stored twice"),
    ):
        action = chosen.add_parser(name, help=help)
        action.add_argument("ids", type=int, nargs="*", metavar="ID")
        action.add_argument("--all", action="store_true", help="all that match the filters")
        _add_filters(action)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--provider")
    parser.add_argument("--verdict", choices=[verdict.value for verdict in CallbackVerdict])
    parser.add_argument("--since", type=moment, help="received since (UTC): 2026-01-31 or 2026-01-31T12:00")


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    """Run the chosen action; 1 if a callback is not genuine or not taken, 2 if the action is refused."""
    with prepared_database(settings) as url:
        return asyncio.run(_run(url, settings, chosen))


async def _run(url: str, settings: Settings, chosen: argparse.Namespace) -> int:
    async with running_services(url, settings, deliver=False) as services:
        if chosen.action == "list":
            calls = [_cells(call) async for call in _calls(services, chosen)]
            say(*table(["ID", "RECEIVED", "PROVIDER", "VERDICT", "EVENTS", "REASON"], calls))
            return 0
        if chosen.action == "show":
            async with services.sessions() as session:
                _show(await get_callback(session, chosen.id))
            return 0
        if bool(chosen.ids) == chosen.all:
            return refuse("Name callbacks by their ids, or all that match with --all.")
        return await _each(services, chosen, _verify if chosen.action == "verify" else _replay)


async def _verify(services: Services, call: KeptCallback) -> tuple[str, str]:
    found = await services.callbacks.verify(call.tenant_id, call.id)
    return "genuine" if found.genuine else "refused", _why(found)


async def _replay(services: Services, call: KeptCallback) -> tuple[str, str]:
    found = await services.callbacks.replay(call.tenant_id, call.id, actor=ACTOR, client=None)
    return found.verdict, f"{found.events} events  {_why(found)}"


def _why(found: CallbackResult) -> str:
    hints = f" (seen {found.seen}, expected {found.expected})" if found.expected else ""
    return f"{found.reason or ''}{hints}"


async def _each(services: Services, chosen: argparse.Namespace, action: Action) -> int:
    counts: Counter[str] = Counter()
    async for call in _calls(services, chosen):
        outcome, details = await action(services, call)
        counts[outcome] += 1
        say(f"{call.id}  {call.provider_type}  {outcome}  {details}")
    say(", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "none")
    return 0 if counts.total() == counts["genuine"] + counts[CallbackVerdict.TAKEN] else 1


async def _calls(services: Services, chosen: argparse.Namespace) -> AsyncIterator[KeptCallback]:
    """The callbacks with the given ids, or else all that match the filters, without their content."""
    ids: list[int] = getattr(chosen, "ids", [])
    for call_id in ids:
        async with services.sessions() as session:
            call = await get_callback(session, call_id)
        yield call
    if ids:
        return

    verdict = CallbackVerdict(chosen.verdict) if chosen.verdict else None

    async def page_at(cursor: str | None) -> Page[KeptCallback]:
        async with services.sessions() as session:
            return await list_callbacks(
                session, provider=chosen.provider, verdict=verdict, since=chosen.since, limit=100, cursor=cursor
            )

    async for call in rows_of_all(page_at):
        yield call


def _cells(call: KeptCallback) -> list[object]:
    received = f"{call.received_at:%Y-%m-%d %H:%M:%S}"
    return [call.id, received, call.provider_type, call.verdict, call.events, call.reason]


def _show(call: KeptCallback) -> None:
    say("  ".join(str(cell) for cell in _cells(call) if cell is not None))
    if call.expected:
        say(f"seen {call.seen}, expected {call.expected}")
    say(f"{call.method} {call.url}")
    say(*(f"{name}: {'(not kept)' if value is None else value}" for name, value in call.headers))
    say("", call.body.decode("utf-8", "replace"))
