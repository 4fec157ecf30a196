"""The status page from its values."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.web.status.charts import Chart

REFRESH_SECONDS = 4


@dataclass(frozen=True, slots=True)
class Tile:
    """A number of this moment."""

    name: str
    value: str
    is_bad: bool = False


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """A provider now: its state in words, and its last half minute."""

    name: str
    state: str
    is_bad: bool
    success: str
    attempts: str
    slowest: str


@dataclass(frozen=True, slots=True)
class StatusPage:
    """Everything that the page shows. `troubles` are sentences, the worst first."""

    until: datetime
    troubles: Sequence[str]
    tiles: Sequence[Tile]
    providers: Sequence[ProviderRow]
    charts: Sequence[Chart]
    processes: str
    refreshes: bool

    def render(self) -> str:
        return _environment().get_template("status.html").render(page=self, seconds=REFRESH_SECONDS)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
