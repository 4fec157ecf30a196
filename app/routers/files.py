"""The files of messages: those that came with them, and those that clients upload."""

from collections.abc import AsyncIterator, Collection
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from app.dependencies import TenantDep, services_of
from app.errors import FieldError, InvalidRequest, UnsupportedMediaType
from app.http.problems import responses
from app.providers.toolbox.multipart import FileReader
from app.schemas.files import UploadedFileView
from app.services.files.names import ANY_TYPE, read_type, safe_type, unnamed
from app.services.files.uploads import UploadedFile

router = APIRouter(prefix="/api/files", tags=["messages"], responses=responses(422, 503))

_FORM, _QUERY = "multipart/form-data", "application/x-www-form-urlencoded"
_BINARY = {"type": "string", "format": "binary"}
_CONTENT = {**_BINARY, "minLength": 1}
_OFFICE = "application/vnd.openxmlformats-officedocument"
#: Types in which no browser runs anything. Other files are served without their type.
_HARMLESS = {
    "application/msword",
    "application/pdf",
    "application/vnd.apple.pkpass",
    "application/vnd.ms-excel",
    "application/vnd.ms-powerpoint",
    f"{_OFFICE}.presentationml.presentation",
    f"{_OFFICE}.spreadsheetml.sheet",
    f"{_OFFICE}.wordprocessingml.document",
    "application/zip",
    "audio/3gpp",
    "audio/aac",
    "audio/amr",
    "audio/mp4",
    "audio/mpeg",
    "audio/ogg",
    "audio/wav",
    "audio/webm",
    "image/bmp",
    "image/gif",
    "image/heic",
    "image/jpeg",
    "image/png",
    "image/tiff",
    "image/webp",
    "text/calendar",
    "text/csv",
    "text/plain",
    "text/vcard",
    "text/x-vcard",
    "video/3gpp",
    "video/mp4",
    "video/mpeg",
    "video/quicktime",
    "video/webm",
}


@router.post(
    "",
    response_model=UploadedFileView,
    responses=responses(413, 415),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                ANY_TYPE: {"schema": _CONTENT},
                _FORM: {"schema": {"type": "object", "properties": {"file": _CONTENT}, "required": ["file"]}},
            },
        }
    },
)
async def upload_file(
    request: Request,
    response: Response,
    tenant: TenantDep,
    name: Annotated[
        str | None, Query(max_length=255, description="Its name, such as `photo.jpg`. A form may have it instead.")
    ] = None,
) -> UploadedFile:
    """Upload a file, to be sent with messages: put its `path` among their `attachments`.

    The body is the file, with its type as the Content-Type, or a form with one file. A file that is not attached to a
    message within a day is removed. The same file under the same name and type has the same path.
    """
    uploaded = await received_file(request, tenant, name)
    prefix = (request.app.state.settings.public_url or "").rstrip("/")
    response.headers["Location"] = f"{prefix}{uploaded.path}"
    return uploaded


async def received_file(request: Request, tenant: int, name: str | None) -> UploadedFile:
    """The file that a request uploads, stored. Raises `UnsupportedMediaType` and `InvalidRequest`."""
    content_type = request.headers.get("content-type", "")
    kind = read_type(content_type)
    if kind is None or kind == _QUERY:
        raise UnsupportedMediaType("Name the type of the file in the header Content-Type, such as image/jpeg.")
    body = _Form(content_type, name) if kind == _FORM else _Raw(kind, name)
    return await services_of(request).uploads.receive(tenant, body.pieces(request), body.described)


class _Raw:
    """A body that is the file itself."""

    def __init__(self, kind: str, name: str | None) -> None:
        self._described = name or unnamed(kind), kind

    def described(self) -> tuple[str, str]:
        return self._described

    async def pieces(self, request: Request) -> AsyncIterator[bytes]:
        async for piece in request.stream():
            if piece:
                yield piece


class _Form:
    """A form with one file. Raises `InvalidRequest` for any other form."""

    def __init__(self, content_type: str, name: str | None) -> None:
        self._name = name
        try:
            self._reader = FileReader(content_type)
        except ValueError as error:
            raise _invalid("body", str(error)) from None

    def described(self) -> tuple[str, str]:
        reader = self._reader
        if reader.name is None or not reader.is_complete:
            raise _invalid("body", "the form holds no file, or breaks off before its end")
        kind = safe_type(reader.content_type)
        return self._name or reader.name or unnamed(kind), kind

    async def pieces(self, request: Request) -> AsyncIterator[bytes]:
        async for received in request.stream():
            try:
                pieces = self._reader.read(received)
            except ValueError as error:
                raise _invalid("body", f"this is no form with one file: {error}"[:200]) from None
            for piece in pieces:
                yield piece


def _invalid(location: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"The file can't be read. {location}: {message}.", errors=[FieldError(location, message)])


@router.get(
    "/{file_id}/{name}",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The file, as a download: a browser does not show it.",
            "content": {ANY_TYPE: {"schema": _BINARY}},
        },
        **responses(404, 410),
    },
)
async def get_file(
    file_id: Annotated[str, Path(pattern="^[0-9a-f]{64}$")],
    name: Annotated[str, Path(description="Any name: the file has the one that its sender gave it.")],
    tenant: TenantDep,
    request: Request,
) -> StreamingResponse:
    """A file of a message, at the address that stands among the message's `attachments`.

    A file that the vendor keeps is fetched soon after its message is stored. Until then the answer is 503.
    """
    return await file_answer(request, tenant, file_id)


async def file_answer(
    request: Request, tenant: int, file_id: str, *, shown: Collection[str] = ()
) -> StreamingResponse:
    """The answer with a file: a download, unless its type is among those that a browser has to show."""
    store = services_of(request).files
    file = await store.find(tenant, file_id)
    kind = "inline" if file.content_type in shown else "attachment"
    headers = {
        "Content-Type": file.content_type if file.content_type in _HARMLESS else ANY_TYPE,
        "Content-Length": str(file.size),
        "Content-Disposition": f"{kind}; filename*=UTF-8''{quote(file.name, safe='')}",
    }
    return StreamingResponse(store.pieces(file), headers=headers)
