"""Logging in and out, and the address of the service itself."""

import re
from http import HTTPStatus
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from app.dependencies import services_of
from app.errors import CrossSite, ScopeMissing, TooManyFailures, Unauthorized
from app.http.access import access_of, client_address, note_denied
from app.http.browser.cookies import remove_cookie, session_cookie, set_cookie
from app.http.browser.forms import form_fields
from app.http.browser.requests import must_be_of_our_pages
from app.installation import KeyScope
from app.log import bind
from app.services.tenancy.keys import Access
from app.services.tenancy.sessions import LASTS_SECONDS
from app.web.login import login_page

router = APIRouter(include_in_schema=False)

_INBOX = "/inbox"
_STYLE = Path(__file__).parents[2] / "web" / "static" / "login.css"
_OURS = re.compile(r"/inbox(?:[/?][!-\[\]-~]*)?|/status(?:\?refresh=off)?")
_LONGEST = 2000
_WRONG = "This key is not valid. Paste the whole of it, from msk_ on."


@router.get("/")
async def show_root(request: Request) -> Response:
    """The inbox for a browser; for a program the reference, where that is switched on."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(_INBOX, HTTPStatus.SEE_OTHER)
    if not request.app.state.settings.serves_docs:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return RedirectResponse("/docs")


@router.get("/login.css")
async def style() -> FileResponse:
    return FileResponse(_STYLE, headers={"Cache-Control": "no-cache"})


@router.get("/login")
async def show_form(request: Request) -> HTMLResponse:
    """The form for a key. A link of another site leads here also with a session, since its cookie is not sent."""
    return _form(request, next=request.query_params.get("next"))


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Begin a session with a key. A refusal is the page with a sentence."""
    fields = form_fields(await request.body())
    key, next = fields.get("key", ""), fields.get("next")
    try:
        access = await _access(request, key.strip())
    except (CrossSite, ScopeMissing, TooManyFailures, Unauthorized) as refusal:
        sentence = _WRONG if isinstance(refusal, Unauthorized) else refusal.detail
        headers = {"WWW-Authenticate": "Cookie"} if isinstance(refusal, Unauthorized) else {}
        if refusal.retry_after is not None:
            headers["Retry-After"] = str(refusal.retry_after)
        return _form(request, next=next, error=sentence, status=refusal.status, headers=headers)
    cookie = await services_of(request).browser_sessions.begin(access, client=client_address(request.scope))
    answer = RedirectResponse(_own_address(next), HTTPStatus.SEE_OTHER)
    answer.headers["Set-Cookie"] = set_cookie(request.scope, cookie, seconds=LASTS_SECONDS)
    return answer


async def _access(request: Request, key: str) -> Access:
    """The access of a key that may begin a session. Wrong keys count as failures, as those of the API do."""
    if "origin" in request.headers or "sec-fetch-site" in request.headers:
        must_be_of_our_pages(request.scope)
    access = await access_of(request.scope, [f"Bearer {key}".encode()])
    bind(tenant=access.tenant_id)
    if KeyScope.READ not in access.scopes:
        note_denied(request.scope, access, KeyScope.READ)
        raise ScopeMissing("This key lacks the scope read. The inbox needs one that has it.")
    return access


@router.post("/logout")
async def log_out(request: Request) -> Response:
    """End the session, and all that is open with it."""
    cookie, session = session_cookie(request.scope), request.scope["state"]["session"]
    if cookie is not None and session is not None:
        await services_of(request).browser_sessions.end(cookie, session, client=client_address(request.scope))
    answer = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
    answer.headers["Set-Cookie"] = remove_cookie(request.scope)
    return answer


def _form(
    request: Request,
    *,
    next: str | None,
    error: str | None = None,
    status: HTTPStatus = HTTPStatus.OK,
    headers: dict[str, str] | None = None,
) -> HTMLResponse:
    is_open = not request.app.state.settings.is_production
    is_from_elsewhere = request.headers.get("sec-fetch-site") in {"cross-site", "same-site"}
    page = login_page(
        next=_own_address(next), error=error, is_open=is_open, is_from_elsewhere=is_from_elsewhere and error is None
    )
    return HTMLResponse(page, status, headers=headers)


def _own_address(written: str | None) -> str:
    """The address to go to after the login, if it is one of the inbox or the status page; else the inbox."""
    if written is None or len(written) > _LONGEST or not _OURS.fullmatch(written):
        return _INBOX
    return written
