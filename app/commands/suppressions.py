"""`python -m app suppressions …`: exports the refusals of a tenant as CSV, and imports such a list."""

import argparse
import asyncio
import csv
import io
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from app.commands import ACTOR, refuse, remark
from app.config import Settings
from app.consent import LineStatus
from app.db.engine import is_unavailable
from app.db.schema.migrate import prepared_database
from app.errors import InvalidRequest
from app.http.problems import invalid_request
from app.schemas.consent import LONGEST_DETAIL, NewSuppression
from app.services.consent.additions import reason_of
from app.services.consent.suppressions import Held, Line, Suppressions
from app.services.tenancy.administration import AdministrationService
from app.wiring import running_services

_COLUMNS = ("address", "scope", "scope_value", "source", "detail", "created_at")
#: Where the imported refusal comes from is kept in its detail.
_ORIGIN = ("source", "created_at")
#: Lines between two lines of progress.
_PROGRESS = 10_000
#: An import waits for a database that is away for so long.
_PATIENCE_SECONDS = 60.0
#: Spreadsheets take a cell that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    chosen = parser.add_subparsers(dest="action", required=True)
    exporting = chosen.add_parser("export", help=f"print the refusals as CSV, with the columns {', '.join(_COLUMNS)}")
    importing = chosen.add_parser("import", help="add the refusals of such a file, or of one with an address a line")
    importing.add_argument("file", help="a file in UTF-8, or `-` for the standard input")
    for action in (exporting, importing):
        action.add_argument("--tenant", default="1", help="name or id (the first tenant)")


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    """Export or import; 1 if a line is refused or the database goes away, 2 if the file can't be read at all."""
    try:
        file = _opened(chosen.file) if chosen.action == "import" else nullcontext(None)
    except OSError as error:
        return refuse(f"The file can't be read: {error.strerror}.")
    with file as source, prepared_database(settings) as url:
        return asyncio.run(_run(url, settings, chosen.tenant, source))


def _opened(name: str) -> Any:
    return nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb")


async def _run(url: str, settings: Settings, tenant_name: str, source: BinaryIO | None) -> int:
    async with running_services(url, settings, deliver=False) as services:
        async with services.sessions() as session:
            tenant = await AdministrationService(session, actor=ACTOR).tenant(tenant_name)
        suppressions = Suppressions(
            services.sessions,
            settings,
            services.addresses,
            services.address_hashes,
            tenant.id,
            actor=ACTOR,
            on_logged=services.notifier.events_logged,
        )
        return await (_export(suppressions) if source is None else _import(suppressions, source))


async def _export(suppressions: Suppressions) -> int:
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(encoding="utf-8")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    erased = 0
    async for held in suppressions.all():
        if held.suppression.is_hashed:
            erased += 1
        else:
            writer.writerow(_cells(held))
    if erased:
        remark(f"Refusals of erased people are left out, since their addresses are not known any more: {erased}.")
    return 0


def _cells(held: Held) -> list[str]:
    refusal = held.suppression
    # On one line, and without sequences that control a terminal.
    detail = "".join(filter(str.isprintable, " ".join((held.entry.detail or "").split())))
    if detail.startswith(_FORMULA):
        detail = f"'{detail}"
    began = refusal.created_at.isoformat(timespec="seconds")
    return [refusal.address, refusal.scope, refusal.scope_value, refusal.source, detail, began]


async def _import(suppressions: Suppressions, source: BinaryIO) -> int:
    counts: Counter[LineStatus] = Counter()
    text = io.TextIOWrapper(source, encoding="utf-8-sig", errors="surrogateescape", newline="")
    is_whole = True
    try:
        async for results in suppressions.add_all(lines_of(text), patience_seconds=_PATIENCE_SECONDS):
            for result in results:
                counts[result.status] += 1
                if result.status is LineStatus.REFUSED:
                    remark(f"Line {result.line}: {result.sentence}")
                if counts.total() % _PROGRESS == 0:
                    remark(f"{counts.total()} lines so far.")
    except Exception as error:
        if not is_unavailable(error):
            raise
        is_whole = False
        remark("The database is away. Import the same file again: lines that are stored are not stored twice.")
    finally:
        text.detach()  # it would close the standard input
    added, held, refused = (counts[each] for each in LineStatus)
    remark(f"{added} added, {held} held already, {refused} refused.")
    return 0 if is_whole and not refused else 1


def lines_of(file: Iterable[str]) -> Iterator[Line]:
    """The refusals in a CSV file with a header, or in one with an address on each line.

    Each line is read by itself, so that a missing quote harms no other. Raises `InvalidRequest` for a header with
    other columns than those of an export.
    """
    columns: Sequence[str] = ()
    for number, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            [cells] = csv.reader([text], strict=True)
        except (csv.Error, ValueError):
            yield Line(number, "this is no line of CSV: a quoted field ends on its line")
            continue
        if not columns:
            columns = _header(cells)
            if columns:
                continue
            columns = ("address",)
        yield Line(number, _read(columns, cells))


def _header(cells: Sequence[str]) -> list[str]:
    """The columns that a first line names; none if it is an address."""
    names = [cell.strip().lower() for cell in cells]
    if "address" not in names:
        return []
    if len(set(names)) < len(names) or not set(names).issubset(_COLUMNS):
        raise InvalidRequest(f"The file has other columns than these, each once: {', '.join(_COLUMNS)}.")
    return names


def _read(columns: Sequence[str], cells: Sequence[str]) -> NewSuppression | str:
    if len(cells) > len(columns):
        return f"this line has {len(cells)} fields, and the file {len(columns)} columns"
    values = {name: cell.strip() for name, cell in zip(columns, cells, strict=False) if cell.strip()}
    origin = ", ".join(values.pop(name) for name in _ORIGIN if name in values)
    if origin:
        values["detail"] = ": ".join(filter(None, [origin, values.get("detail")]))[:LONGEST_DETAIL]
    try:
        return NewSuppression.model_validate(values)
    except ValidationError as error:
        return reason_of(invalid_request(error.errors(include_url=False, include_input=False)))
