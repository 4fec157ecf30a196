"""The status page: the queue, the providers and the speed of the last hour, for the operator."""

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, HTMLResponse

from app.dependencies import services_of
from app.metrics.catalogue import ACCEPT_SECONDS, ATTEMPT_SECONDS, ATTEMPTS, RECEIPTS, REQUESTS, WEBHOOKS
from app.services.delivery.pacing.provider_states import WELL, ProviderHealth, health_of_providers
from app.services.figures.history import Hour, Span
from app.web.status.charts import Chart, Line
from app.web.status.page import ProviderRow, StatusPage, Tile

router = APIRouter(include_in_schema=False)

_STYLE = Path(__file__).parents[2] / "web" / "static" / "status.css"
#: Beyond these the page speaks of trouble.
_LATE_SECONDS, _LOW_SUCCESS, _FEW_ATTEMPTS = 60.0, 0.9, 5
#: Outcomes that say something about the provider.
_ANSWERED = ("accepted", "temporary", "permanent", "unknown")


@router.get("/status.css")
async def style() -> FileResponse:
    return FileResponse(_STYLE, headers={"Cache-Control": "no-cache"})


@router.get("/status")
async def show_status(request: Request) -> HTMLResponse:
    """The page, which loads itself again unless the query says `refresh=off`."""
    services = services_of(request)
    async with services.sessions() as session:
        connection = await session.connection()
        hour = await services.history.read(connection)
        health = await health_of_providers(connection)
    page = _page(hour, health, refreshes=request.query_params.get("refresh") != "off")
    return HTMLResponse(page.render())


def _page(hour: Hour, health: dict[str, ProviderHealth], *, refreshes: bool) -> StatusPage:
    queue = hour.recent.queue or {}
    oldest = max((age for _, age in queue.values()), default=0.0)
    named = {labels[0] for span in hour.minutes for labels in span.figures.counters.get(ATTEMPTS.name, {})}
    providers = sorted(named | {name for name, own in health.items() if own.trouble or own.probing})
    rows = [_provider(name, hour.recent, health.get(name, WELL)) for name in providers]
    troubles = [f"{row.name}: {row.state}, {row.success} accepted" for row in rows if row.is_bad]
    if oldest > _LATE_SECONDS:
        troubles.append(f"A message has been due for {_seconds(oldest)}.")
    if hour.processes and not queue:
        troubles.append("No process has looked at the queue within the last 30 seconds.")
    processes = ", ".join(f"{count} {role}" for role, count in sorted(hour.processes.items()))
    return StatusPage(
        until=hour.until,
        troubles=troubles,
        tiles=_tiles(hour.recent, due=sum(due for due, _ in queue.values()), oldest=oldest),
        providers=rows,
        charts=_charts(hour, providers),
        processes=f"Processes: {processes}." if processes else "",
        refreshes=refreshes,
    )


def _tiles(recent: Span, *, due: int, oldest: float) -> list[Tile]:
    late = recent.quantile(ACCEPT_SECONDS, 0.95)
    failing = recent.count(REQUESTS.name, "5xx") / recent.seconds
    return [
        Tile("Due messages", _count(due)),
        Tile("Oldest of them", _seconds(oldest), is_bad=oldest > _LATE_SECONDS),
        Tile("Accepted a second", _rate(_stored(recent))),
        Tile("Sent a second", _rate(_accepted(recent))),
        Tile("Accepting, p95", "-" if late is None else _seconds(late)),
        Tile("5xx a second", _rate(failing), is_bad=failing > 0),
    ]


def _provider(name: str, recent: Span, health: ProviderHealth) -> ProviderRow:
    attempts, success = sum(_attempts(recent, name)), _success(recent, name)
    slow = recent.quantile(ATTEMPT_SECONDS, 0.95, name)
    is_low = success is not None and success < _LOW_SUCCESS and attempts >= _FEW_ATTEMPTS
    state = "tries again" if health.probing else health.trouble or ("many fail" if is_low else "well")
    return ProviderRow(
        name,
        state,
        is_bad=state != "well",
        success="-" if success is None else _percent(success),
        attempts=_count(attempts * 60 / recent.seconds),
        slowest="-" if slow is None else _seconds(slow),
    )


def _charts(hour: Hour, providers: list[str]) -> list[Chart]:
    minutes = hour.minutes
    channels = sorted({channel for span in minutes for channel, (due, _) in (span.queue or {}).items() if due})
    channels = channels or sorted(hour.recent.queue or {})

    def each(name: str, *of: float | None) -> Line:
        return Line(name, of)

    return [
        Chart(
            "Success by provider",
            [each(name, *(_success(span, name) for span in minutes)) for name in providers],
            _percent,
            top=1.0,
        ),
        Chart(
            "Due messages by channel",
            [
                each(name, *(None if span.queue is None else span.queue.get(name, (0, 0))[0] for span in minutes))
                for name in channels
            ],
            _count,
            least=2,
        ),
        Chart(
            "Oldest due message",
            [
                each(
                    "age",
                    *(
                        None if span.queue is None else max((age for _, age in span.queue.values()), default=0.0)
                        for span in minutes
                    ),
                )
            ],
            _seconds,
        ),
        Chart(
            "Messages a second",
            [
                each("accepted", *map(_stored, minutes)),
                each("sent", *map(_accepted, minutes)),
                each("receipts", *(span.count(RECEIPTS.name) / span.seconds for span in minutes)),
            ],
            _rate,
        ),
        Chart(
            "Time to accept",
            [
                each(f"p{share:.0f}", *(span.quantile(ACCEPT_SECONDS, share / 100) for span in minutes))
                for share in (50, 95, 99)
            ],
            _seconds,
        ),
        Chart(
            "Failures a second",
            [
                each("5xx", *(span.count(REQUESTS.name, "5xx") / span.seconds for span in minutes)),
                each("sends", *(sum(_attempts(span)[1:]) / span.seconds for span in minutes)),
                each("webhooks", *(_webhooks(span) / span.seconds for span in minutes)),
            ],
            _rate,
        ),
    ]


def _attempts(span: Span, *providers: str) -> list[float]:
    """The attempts of a provider, or of all, by outcome; the accepted ones first."""
    numbers = span.figures.counters.get(ATTEMPTS.name, {})
    return [
        sum(
            number
            for (name, own), number in numbers.items()
            if own == outcome and (not providers or name in providers)
        )
        for outcome in _ANSWERED
    ]


def _success(span: Span, provider: str) -> float | None:
    accepted, *failed = _attempts(span, provider)
    total = accepted + sum(failed)
    return accepted / total if total else None


def _stored(span: Span) -> float:
    counts = span.figures.histograms.get(ACCEPT_SECONDS.name, {}).get(())
    return sum(counts[:-1]) / span.seconds if counts else 0.0


def _accepted(span: Span) -> float:
    return _attempts(span)[0] / span.seconds


def _webhooks(span: Span) -> float:
    return span.count(WEBHOOKS.name) - span.count(WEBHOOKS.name, "delivered")


def _count(number: float) -> str:
    return f"{number:,.0f}".replace(",", "\u202f")


def _rate(number: float) -> str:
    return _count(number) if number >= 10 or number == 0 else f"{number:.2g}"


def _percent(share: float) -> str:
    # Only a whole success is 100 %.
    return "100 %" if share >= 1 else f"{min(share * 100, 99.9):.3g} %"


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds else "0"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
