"""Reads of databases of several sizes: the hot ones under load, and lists by one connection."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from bench.database import OTHER_PROVIDER, Database
from bench.load import Plan
from bench.measurements import Measurement
from bench.processes import HOST, BenchError, Server, Site

READS: Mapping[str, str] = {
    "conversations": "/api/conversations?limit=50",
    "page": "/api/conversations/1/messages?limit=50",
    "message": "/api/messages/1",
}
_A_PAGE = 50
_LISTS: Mapping[str, str] = {
    "failed": "status=failed",
    "delivered": "status=delivered",
    "provider": "provider=sms",
    "other": f"provider={OTHER_PROVIDER}",
    "ago": f"until={datetime.now(UTC) - timedelta(days=330):%Y-%m-%dT%H:%M:%SZ}",
}
TITLES: Mapping[str, str] = {
    "conversations": "50 conversations",
    "page": "a page of 50 messages",
    "message": "one message",
    "failed": "list: failed",
    "delivered": "list: delivered",
    "provider": "list: of the usual provider",
    "other": "list: of a rare provider",
    "ago": "list: before 11 months ago",
}
#: Suffixes of a read's name for the same answer from memory, as a model and as ready bytes.
FROM_MEMORY, READY = "-memory", "-bytes"
#: The beginning of the paths at which the comparators answer with bytes.
AS_BYTES = "/bytes"


def sized(name: str, messages: int) -> str:
    """The name of a read from a database of so many messages."""
    return f"{name}@{messages}"


def title_of(name: str) -> str:
    """The title of a read or list by its name, such as `page@1000` or `page-memory`."""
    for suffix, kind in ((FROM_MEMORY, "from memory"), (READY, "ready bytes")):
        if name.endswith(suffix):
            return f"{TITLES[name.removesuffix(suffix)]}, {kind}"
    name, _, messages = name.partition("@")
    return f"{TITLES[name]}, of {int(messages):,}"


async def measure_reads(site: Site, database: Database, plan: Plan, sizes: Sequence[int]) -> dict[str, Measurement]:
    """Measure the reads of each size in one round, and between the sizes nothing but the same from memory."""
    measured: dict[str, Measurement] = {}
    for size in sizes:
        database.fill(size)
        async with site.service(worker_enabled=False) as server:
            answers = {path: await _answer(server, path, items=_A_PAGE) for path in READS.values()}
            for name, path in READS.items():
                measured[sized(name, size)] = await _measure(site, server, plan, path)
    async with site.comparators(answers) as server:
        for name, path in READS.items():
            measured[name + FROM_MEMORY] = await _measure(site, server, plan, path)
            measured[name + READY] = await _measure(site, server, plan, AS_BYTES + path)
    return measured


async def measure_lists(site: Site, database: Database, plan: Plan, messages: int) -> dict[str, Measurement]:
    """Measure lists of a database of so many messages, each by one connection."""
    database.fill(messages)
    failed = messages // 100
    measured: dict[str, Measurement] = {}
    async with site.service(worker_enabled=False) as server:
        for name, query in _LISTS.items():
            path = f"/api/messages?limit={_A_PAGE}&{query}"
            await _answer(server, path, items=min(_A_PAGE, failed) if name in {"failed", "other"} else _A_PAGE)
            alone = replace(plan, connections=1, pairs=_A_PAGE)
            measured[sized(name, messages)] = await _measure(site, server, alone, path)
    return measured


async def _measure(site: Site, server: Server, plan: Plan, path: str) -> Measurement:
    seen, cpu = await site.load(server, replace(plan, path=path))
    return Measurement(seen, cpu_microseconds=cpu)


async def _answer(server: Server, path: str, *, items: int) -> Any:
    """The answer to a read. Raises `BenchError` unless a list has so many items."""
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{server.port}", trust_env=False, timeout=60) as client:
        answer = await client.get(path)
    if not answer.is_success:
        raise BenchError(f"{path} answered {answer.status_code}: {answer.text}")
    shown = answer.json()
    if isinstance(shown, list) and len(shown) != items:
        raise BenchError(f"{path} answered {len(shown)} items instead of {items}")
    return shown
