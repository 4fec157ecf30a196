"""The cost of PostgreSQL alone: its own pgbench stores one message in each transaction."""

import re
import statistics
from pathlib import Path
from typing import Any

from psycopg2.extensions import parse_dsn

from app.db.embedded.programs import EXE, find_programs
from bench.database import Database
from bench.load import PATIENCE, Plan, Seen, messages, percentile
from bench.processes import BenchError, answer_of

_TPS = re.compile(r"^tps = ([0-9.]+) \(without initial connection time\)", re.MULTILINE)
_PROCESSED = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)


def find_pgbench(data_dir: Path, bindir: Path | None) -> Path:
    """The pgbench that belongs to the embedded server. Raises `BenchError` with the reason if there is none."""
    program = find_programs(bindir, data_dir / "postgres").bindir / f"pgbench{EXE}"
    if not program.exists():
        raise BenchError(f"{program} is missing")
    return program


async def run_pgbench(program: Path, database: Database, plan: Plan, directory: Path) -> Seen:
    """Insert messages for the planned time, at least a second, into as many conversations as there are pairs.

    A busy machine may take that time to connect. Then pgbench says no speed, and gets twice as long.
    """
    script = directory / "insert.sql"
    script.write_text(_script(plan), encoding="utf-8")
    clients, threads = str(plan.connections), str(min(2, plan.connections))
    dsn: dict[str, Any] = parse_dsn(database.url)
    words = [str(program), "-n", "-M", "prepared", "-c", clients, "-j", threads]
    words += ["-l", "--log-prefix=transactions", "-f", script.name, "-h", dsn["host"], "-p", str(dsn["port"])]
    words += ["-U", dsn["user"], dsn["dbname"]]
    seconds = max(1, round(plan.seconds))
    while True:
        timed = [*words[:-1], "-T", str(seconds), words[-1]]
        said = await answer_of(timed, directory, within_seconds=seconds + PATIENCE, PGPASSWORD=dsn["password"])
        if (tps := _TPS.search(said)) and (processed := _PROCESSED.search(said)):
            break
        if seconds > PATIENCE:
            raise BenchError(f"pgbench said nothing of its speed:\n{said}")
        seconds *= 2
    latencies = _latencies(directory)
    return Seen(
        answered=int(processed[1]),
        per_second=float(tps[1]),
        p50_ms=percentile(latencies, 50),
        p99_ms=percentile(latencies, 99),
    )


def _latencies(directory: Path) -> list[float]:
    """The milliseconds of each transaction, sorted. The logs are removed."""
    lines: list[str] = []
    for log in directory.glob("transactions.*"):
        lines += log.read_text(encoding="ascii").splitlines()
        log.unlink()
    return sorted(int(line.split()[2]) / 1000 for line in lines)  # client, number, microseconds, ...


def _script(plan: Plan) -> str:
    """A message of median length, stored as the service does, but without finding its conversation."""
    length = statistics.median_high(len(message["body"] or "") for message in messages(plan.pairs))
    return (
        f"\\set pair random(1, {plan.pairs})\n"
        "INSERT INTO messages (tenant_id, conversation_id, direction, channel, type, from_address, to_address, body,"
        " attachments, status, due_at, sent_at)"
        " VALUES (1, :pair, 'outbound', 'sms', 'sms', '+12016660001', '+18045550001',"
        f" '{'x' * length}', '[]', 'queued', now(), '2024-11-01T14:00:00Z');\n"
    )
