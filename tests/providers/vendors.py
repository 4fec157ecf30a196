"""Callbacks of vendors, as their documents and their requests have them."""

import base64
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from app.providers.base import Callback
from app.testing.vendor import payload_in

PAYLOADS = Path(__file__).parent / "payloads"
NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def payload(vendor: str, name: str) -> bytes:
    """A body as the vendor documents it."""
    return payload_in(PAYLOADS / vendor / name)


def form(fields: Iterable[tuple[str, str]]) -> bytes:
    return urlencode(list(fields)).encode()


def basic(name: str, secret: str) -> str:
    return f"Basic {base64.b64encode(f'{name}:{secret}'.encode()).decode()}"


def call(url: str, body: bytes, headers: dict[str, str], *, method: str = "POST", at: datetime = NOW) -> Callback:
    return Callback(method, url, [(name.lower(), value) for name, value in headers.items()], body, at)
