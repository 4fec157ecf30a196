"""The API reference at /docs, from files of our own: it works offline and asks no other host for anything."""

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

_FILES = Path(__file__).parent.parent / "web" / "docs"


def install(app: FastAPI) -> None:
    app.mount("/docs/assets", StaticFiles(directory=_FILES), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def reference() -> FileResponse:
        return FileResponse(_FILES / "index.html")
