"""The files that came with messages."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Path, Request
from starlette.responses import StreamingResponse

from app.dependencies import TenantDep, services_of
from app.http.problems import responses
from app.services.messages.files import ANY_TYPE

router = APIRouter(prefix="/api/files", tags=["messages"], responses=responses(422, 503))

#: Types in which no browser runs anything. Other files are served without their type.
_HARMLESS = {
    "application/pdf",
    "application/zip",
    "audio/aac",
    "audio/amr",
    "audio/mp4",
    "audio/mpeg",
    "audio/ogg",
    "audio/wav",
    "image/gif",
    "image/heic",
    "image/jpeg",
    "image/png",
    "image/webp",
    "text/calendar",
    "text/csv",
    "text/plain",
    "text/vcard",
    "video/3gpp",
    "video/mp4",
    "video/quicktime",
    "video/webm",
}


@router.get(
    "/{file_id}/{name}",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The file, as a download: a browser does not show it.",
            "content": {ANY_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        },
        **responses(404),
    },
)
async def get_file(
    file_id: Annotated[str, Path(pattern="^[0-9a-f]{64}$")],
    name: Annotated[str, Path(description="Any name: the file has the one that its sender gave it.")],
    tenant: TenantDep,
    request: Request,
) -> StreamingResponse:
    """A file that came with a message, at the address that stands among the message's `attachments`."""
    store = services_of(request).files
    file = await store.find(tenant, file_id)
    headers = {
        "Content-Type": file.content_type if file.content_type in _HARMLESS else ANY_TYPE,
        "Content-Length": str(file.size),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.name, safe='')}",
    }
    return StreamingResponse(store.pieces(file), headers=headers)
