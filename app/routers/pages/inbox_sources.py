"""Events, files and mails for the pages of the inbox. They take the cookie of a session, as the pages do."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from starlette.responses import HTMLResponse, StreamingResponse

from app.dependencies import MessageId, ReadSession, TenantDep, services_of
from app.files import PICTURES
from app.http.browser.headers import mail_policy
from app.http.event_stream import Source
from app.providers.mail.html_source import well_formed
from app.routers.events import After, LastEventId, Wanted, stream_of, streamed
from app.routers.files import file_answer
from app.services.messages.mail_html import load_mail_html
from app.services.tenancy.sessions import Session
from app.web.mail_html import mail_page

router = APIRouter(prefix="/inbox", include_in_schema=False)


class _OfSession:
    """The source of a stream that ends with a session."""

    def __init__(self, request: Request, session: Session, source: Source) -> None:
        self._source = source
        self._forget = services_of(request).browser_sessions.watch(session, source.end)

    def end(self) -> None:
        self._forget()
        self._source.end()


@router.get("/events")
async def stream_events(
    request: Request, tenant: TenantDep, wanted: Wanted, after: After = None, last_event_id: LastEventId = None
) -> Response:
    """The stream of `/api/events/stream`. It ends within five seconds of its session."""
    subscription = await streamed(request, tenant, wanted, after, last_event_id)
    session: Session | None = request.scope["state"]["session"]
    source = subscription if session is None else _OfSession(request, session, subscription)
    return stream_of(request, subscription, source)


@router.get("/files/{file_id}/{name}")
async def get_file(
    file_id: Annotated[str, Path(pattern="^[0-9a-f]{64}$")], name: str, tenant: TenantDep, request: Request
) -> StreamingResponse:
    """A file of a message. A picture is shown, any other file is a download."""
    return await file_answer(request, tenant, file_id, shown=PICTURES)


@router.get("/messages/{message_id}/html")
async def get_html(message_id: MessageId, tenant: TenantDep, session: ReadSession, request: Request) -> HTMLResponse:
    """The HTML of a mail for a frame, without scripts. With `?images=1` pictures of other hosts are loaded."""
    html = await load_mail_html(session, tenant, message_id)
    with_images = request.query_params.get("images") == "1"
    page = await asyncio.to_thread(_mail_page, html, with_images=with_images)
    if with_images:
        headers = request.scope["answer_headers"]
        policy = mail_policy(images=True)
        headers[:] = [policy if name == policy[0] else (name, value) for name, value in headers]
    return HTMLResponse(page)


def _mail_page(html: str, *, with_images: bool) -> str:
    return mail_page(well_formed(html), images=with_images)
