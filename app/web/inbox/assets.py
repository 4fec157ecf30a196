"""The static files of the pages, read and compressed once."""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_DIRECTORY = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file, its type, and its content compressed with gzip."""

    content: bytes
    compressed: bytes
    content_type: str


@cache
def assets() -> Mapping[str, Asset]:
    """All files by their path below the folder."""
    found = {}
    for path in sorted(_DIRECTORY.rglob("*")):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            name = path.relative_to(_DIRECTORY).as_posix()
            found[name] = Asset(content, gzip.compress(content, 9, mtime=0), _TYPES[path.suffix])
    return found


@cache
def version() -> str:
    """A hash of all files. It stands in their addresses, so that browsers may keep them."""
    digest = hashlib.sha256()
    for name, asset in assets().items():
        digest.update(f"{name}\0{len(asset.content)}\0".encode())
        digest.update(asset.content)
    return digest.hexdigest()[:12]


def address(name: str) -> str:
    """The address of a file. Raises `KeyError` if there is no such file."""
    assert assets()[name]
    return f"/inbox/static/{version()}/{name}"
