"""The reference at /docs, which shows the OpenAPI document.

It is made of files of our own: it works offline and loads nothing from other hosts.
"""

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse, RedirectResponse
from starlette.staticfiles import StaticFiles

_REFERENCE = Path(__file__).parent.parent / "web" / "docs"


def install(app: FastAPI) -> None:
    app.mount("/docs/assets", StaticFiles(directory=_REFERENCE), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def reference() -> FileResponse:
        return FileResponse(_REFERENCE / "index.html")

    # The log prints this address when the service has started.
    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")
