"""The answers of the inbox: pages, fragments, and errors as sentences."""

import gzip
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlencode

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.responses import HTMLResponse, RedirectResponse

from app.errors import InvalidRequest, ServiceError
from app.http.problems import invalid_request
from app.web.inbox.language import Language, chosen, languages
from app.web.inbox.rendering import render

VIEWS = ("open", "mine", "unassigned", "snoozed", "closed", "all")
_LANGUAGE_COOKIE = "lang"
_LEVEL = 4  # of gzip: 50 kB take half a millisecond
_MOST_FIELDS = 50
_YEAR = 31_536_000  # seconds
_SHORT = re.compile(r"[^\x00-\x1f]{1,200}")


@dataclass(frozen=True, slots=True)
class ListQuery:
    """The query of a list: a view, filters, and a place."""

    view: str = "open"
    channel: str = ""
    tag: str = ""
    unread: str = ""
    cursor: str | None = None

    @classmethod
    def of(cls, request: Request) -> "ListQuery":
        """The query of a request. Values that make no sense are left out."""
        given = request.query_params
        view = given.get("view", "open")
        channel, tag = (
            value if _SHORT.fullmatch(value := given.get(name, "")) else "" for name in ("channel", "tag")
        )
        unread = "1" if given.get("unread") else ""
        return cls(view if view in VIEWS else "open", channel, tag, unread, given.get("cursor") or None)

    def written(self, **changes: str) -> str:
        """The query as text, without a cursor unless it is among the changes."""
        own = {"view": self.view, "channel": self.channel, "tag": self.tag, "unread": self.unread}
        return urlencode({name: value for name, value in (own | changes).items() if value})


def language_of(request: Request) -> Language:
    """The language of the query, the cookie or the browser."""
    accepted = request.headers.get("accept-language", "")
    return chosen(request.query_params.get("lang"), request.cookies.get(_LANGUAGE_COOKIE), accepted=accepted)


def is_fragment(request: Request) -> bool:
    """True for a request of the script, which takes a part of a page."""
    return "hx-request" in request.headers and "hx-history-restore-request" not in request.headers


def takes_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")


def csrf_of(request: Request) -> str:
    token: str = request.scope["state"].get("csrf", "")
    return token


def html(
    request: Request,
    template: str,
    values: Mapping[str, Any],
    *,
    status: int = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer of a template. A language of the query is remembered.

    It may be compressed although it holds a token: other sites can't ask for it, because the cookie is strict.
    """
    language = language_of(request)
    page = render(template, language, {"csrf": csrf_of(request), "languages": sorted(languages()), **values})
    if takes_gzip(request):
        answer = HTMLResponse(gzip.compress(page.encode(), _LEVEL, mtime=0), status, headers)
        answer.headers["Content-Encoding"] = "gzip"
    else:
        answer = HTMLResponse(page, status, headers)
    answer.headers["Vary"] = "Accept-Encoding, HX-Request, Accept-Language, Cookie"
    if request.query_params.get("lang") == language.code:
        answer.set_cookie(_LANGUAGE_COOKIE, language.code, max_age=_YEAR, path="/", httponly=True, samesite="strict")
    return answer


def back_to(address: str) -> Response:
    """The answer to a form that was sent without the script."""
    return RedirectResponse(address, HTTPStatus.SEE_OTHER)


async def fields_of(request: Request) -> dict[str, str]:
    """The fields of a form that a browser sends; the last one of a name. Raises `InvalidRequest`."""
    content = (await request.body()).decode("utf-8", "replace")
    try:
        fields = dict(parse_qsl(content, keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise InvalidRequest(f"A form has at most {_MOST_FIELDS} fields.") from None
    if any("\0" in value for value in fields.values()):
        raise InvalidRequest("A field of the form holds the character NUL, which no text has.")
    return fields


def sentences_of(error: ServiceError) -> list[str]:
    """An error in sentences: one for each field, or the error's own."""
    return [_sentence(each.message) for each in error.errors] or [error.detail]


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:].rstrip(".") + "."


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class InboxRoute(APIRoute):
    """A route whose errors are pages, or lists of sentences for the script."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return _error(request, invalid_request(error.errors()))
            except ServiceError as error:
                return _error(request, error)

        return handled


def _error(request: Request, error: ServiceError) -> Response:
    # An id that can't be one is the address of nothing.
    is_address = all(each.location.startswith("path.") for each in error.errors) and bool(error.errors)
    status = HTTPStatus.NOT_FOUND if is_address else error.status
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    sentences = sentences_of(error)
    if is_fragment(request):
        return html(request, "problems", {"sentences": sentences}, status=status, headers=headers)
    values = {"title": error.title, "sentences": sentences, "status": int(status)}
    return html(request, "error", values, status=status, headers=headers)
