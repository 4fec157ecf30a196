"""The OpenAPI document at /openapi.json, and the reference at /docs that shows it.

The reference is made of files of our own: it works offline and loads nothing from other hosts.
"""

from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import FileResponse, JSONResponse
from starlette.staticfiles import StaticFiles

from app.http.reference.openapi import servers

_REFERENCE = Path(__file__).parents[2] / "web" / "docs"


def install(app: FastAPI) -> None:
    app.mount("/docs/assets", StaticFiles(directory=_REFERENCE), name="docs-assets")

    @app.get("/openapi.json", include_in_schema=False)
    async def document(request: Request) -> JSONResponse:
        origin = f"{request.url.scheme}://{request.url.netloc}"
        return JSONResponse(app.openapi() | {"servers": servers(app.state.settings, origin)})

    @app.get("/docs", include_in_schema=False)
    async def reference() -> FileResponse:
        return FileResponse(_REFERENCE / "index.html")
