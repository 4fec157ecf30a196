"""Pages and fragments from templates. Every value is escaped."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from app.web.inbox.assets import address
from app.web.inbox.language import Language

_TEMPLATES = Path(__file__).parent / "templates"
#: Characters that could end a `<script>` element or begin a comment in it.
_IN_SCRIPTS = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_UNITS = ("B", "kB", "MB", "GB")


def render(name: str, language: Language, values: Mapping[str, Any]) -> str:
    """A template of the folder `templates`, without its ending."""
    template = _environment().get_template(f"{name}.html")
    return template.render({**values, "lang": language.code, "t": language.say, "word": language.may_say})


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals["asset"] = address
    environment.filters |= {"moment": _moment, "iso": _iso, "size": _size, "json": _json}
    return environment


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moment(moment: datetime, form: str = "date") -> Markup:
    """A `<time>` with the text in UTC, which a script writes anew for the reader's time zone."""
    utc = moment.astimezone(UTC)
    text = {"time": f"{utc:%H:%M}", "day": f"{utc:%Y-%m-%d}"}.get(form, f"{utc:%Y-%m-%d %H:%M} UTC")
    return Markup('<time datetime="{}" data-format="{}">{}</time>').format(_iso(moment), form, text)


def _size(count: int) -> str:
    """Bytes for people, such as `1.4 MB`."""
    value, unit = float(count), _UNITS[0]
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


def _json(value: Any) -> Markup:
    """JSON that may stand in a `<script>` element."""
    written = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character, escape in _IN_SCRIPTS.items():
        written = written.replace(character, escape)
    return Markup(written)  # noqa: S704 - it has none of the characters that end an element
