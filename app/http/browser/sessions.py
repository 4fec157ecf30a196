"""The session of a request, by its cookie."""

from starlette.types import Scope

from app.errors import TooManyFailures, Unauthorized
from app.http.browser.cookies import session_cookie
from app.http.browser.requests import SAFE_METHODS, login_needed, must_be_of_our_pages
from app.services.tenancy.sessions import Session, SessionEnded, csrf_token


async def session_of(scope: Scope) -> Session | None:
    """The session of a request to a page; None in development, where no cookie is needed.

    The scope's state gets it as `session`, and the token of its forms as `csrf`. Made-up cookies count as failures.

    Raises:
        LoginNeeded: There is no valid session.
        TooManyFailures: The client has shown too many wrong keys or cookies.
        CrossSite: A page of another site asks for a change.
    """
    app, headers = scope["app"].state, scope["headers_by_name"]
    cookie = session_cookie(scope)
    is_change = scope["method"] not in SAFE_METHODS
    state = scope.setdefault("state", {})
    if cookie is None:
        if app.settings.is_production:
            raise login_needed(scope, is_refused=False)
        if is_change and (b"origin" in headers or b"sec-fetch-site" in headers):
            must_be_of_our_pages(scope)
        state["session"] = None
        state["csrf"] = csrf_token(app.settings.consent_secrets[0].encode())
        return None
    session = app.services.browser_sessions.remembered(cookie) or await _looked_up(scope, cookie)
    if is_change:
        must_be_of_our_pages(scope)
    state["session"] = session
    state["csrf"] = csrf_token(cookie)
    return session


async def _looked_up(scope: Scope, cookie: bytes) -> Session:
    services, client = scope["app"].state.services, scope["client"][0] if scope.get("client") else None
    seconds = services.failures.seconds_left(client)
    if seconds and not services.browser_sessions.has_let_in(cookie):
        raise TooManyFailures("Too many wrong keys came from this address.", retry_after=seconds)
    try:
        session: Session = await services.browser_sessions.find(cookie)
    except SessionEnded:
        raise login_needed(scope, is_refused=True) from None
    except Unauthorized as refusal:
        services.failures.note(client)
        services.refusals.refused("authentication_failed", client=client, reason=refusal.reason)
        raise login_needed(scope, is_refused=True) from None
    return session
