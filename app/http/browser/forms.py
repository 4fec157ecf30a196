"""Forms of pages: their fields, and the token by which each change shows that one of our pages asks for it."""

import hmac
from urllib.parse import parse_qsl

from starlette.types import Message, Receive, Scope

from app.errors import FormRefused
from app.http.browser.requests import SAFE_METHODS, needs_session
from app.http.hot_route import whole_body

_FORM = b"application/x-www-form-urlencoded"
_TOKEN, _FIELD = b"x-csrf-token", "csrf"
_MOST_FIELDS = 200


def form_fields(content: bytes) -> dict[str, str]:
    """The fields of a form that a browser sends, the last of each name; none where there are too many."""
    try:
        return dict(parse_qsl(content.decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        return {}


def needs_token(scope: Scope) -> bool:
    """True for a request that changes something with a session."""
    return scope["method"] not in SAFE_METHODS and needs_session(scope["path"])


async def with_token_checked(scope: Scope, receive: Receive) -> Receive:
    """Check the token of a change: that of a header, or of a form's field `csrf`. Returns what to receive by.

    Raises `FormRefused`.
    """
    headers = scope["headers_by_name"]
    token = headers.get(_TOKEN)
    if token is None and headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == _FORM:
        content = await whole_body(receive)
        token = form_fields(content).get(_FIELD, "").encode()
        receive = _again(content, receive)
    if not hmac.compare_digest(token or b"", scope["state"]["csrf"].encode()):
        raise FormRefused("This page is out of date, or it is not one of this service. Load it again.")
    return receive


def _again(content: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body which was read already, and then goes on."""
    is_read = False

    async def receiving() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": content, "more_body": False}

    return receiving
