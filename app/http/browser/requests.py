"""Requests of browsers: which are about pages, and where they come from."""

from urllib.parse import quote

from starlette.types import Scope

from app.errors import CrossSite, LoginNeeded
from app.http.browser.cookies import remove_cookie
from app.http.browser.headers import Shown, shown_at

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_INBOX = "/inbox"
_WITH_SESSION = frozenset({_INBOX, "/logout", "/status"})
_EVENTS = "/inbox/events"


def needs_session(path: str) -> bool:
    """True for the addresses that take a session's cookie, and no key."""
    return path in _WITH_SESSION or path.startswith("/inbox/")


def is_page(path: str) -> bool:
    """True for the addresses that a browser shows."""
    return needs_session(path) or path == "/login"


def takes_page(scope: Scope) -> bool:
    """True if the answer is shown as a page: the browser goes to the address, and no script asks for it."""
    return not _is_loaded(scope) and b"text/html" in scope["headers_by_name"].get(b"accept", b"")


def _is_loaded(scope: Scope) -> bool:
    """True for a part of a page, which can't lead to another page."""
    headers, path = scope["headers_by_name"], scope["path"]
    if b"hx-request" in headers or headers.get(b"sec-fetch-dest", b"document") != b"document":
        return True
    return path == _EVENTS or shown_at(path) is not Shown.PAGE


def login_needed(scope: Scope, *, is_refused: bool) -> LoginNeeded:
    """The answer without a session.

    `is_refused`: a cookie was shown. Only the answer to a page takes it away. So what an open page asks for later is
    refused as well; in development it would be let in without one.
    """
    headers, path = scope["headers_by_name"], scope["path"]
    if b"hx-request" in headers:
        return LoginNeeded(is_fragment=True)
    is_safe = scope["method"] in SAFE_METHODS
    accepts = headers.get(b"accept", b"*/*")
    if _is_loaded(scope) or not (b"text/html" in accepts or (is_safe and b"*/*" in accepts)):
        return LoginNeeded()
    cookie = remove_cookie(scope) if is_refused else None
    query = scope["query_string"].decode("latin-1")
    wanted = f"{path}?{query}" if query else path
    return LoginNeeded(at=f"/login?next={quote(wanted, safe='')}" if is_safe else "/login", cookie=cookie)


def must_be_of_our_pages(scope: Scope) -> None:
    """Raises `CrossSite` for a change that a page of another site asks for, or that names no page.

    Each browser names the origin of what is posted. `Sec-Fetch-Site` is there only with https and on this machine.
    """
    headers = scope["headers_by_name"]
    if not _is_of_this_site(scope, headers.get(b"sec-fetch-site"), headers.get(b"origin")):
        raise CrossSite("Only the pages of this service may change things with a session. Load the page again.")


def _is_of_this_site(scope: Scope, site: bytes | None, origin: bytes | None) -> bool:
    if site is not None:
        return site == b"same-origin"
    return origin is not None and origin.partition(b"://")[2] == scope["headers_by_name"].get(b"host")
