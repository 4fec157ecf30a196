"""Errors as pages, where a browser would show a problem document as text."""

import json
from http import HTTPStatus

from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from app.http.browser.requests import is_page, takes_page
from app.web.login import error_page

_LOWEST_ERROR = 400


def as_page(scope: Scope, answer: Response) -> Response:
    """The answer to an error, as a page where a browser goes to the address of a page."""
    if answer.status_code < _LOWEST_ERROR or not (is_page(scope["path"]) and takes_page(scope)):
        return answer
    problem = json.loads(bytes(answer.body))
    page = HTMLResponse(
        error_page(HTTPStatus(answer.status_code), problem["detail"], problem.get("request_id")), answer.status_code
    )
    page.raw_headers += [each for each in answer.raw_headers if each[0] not in {b"content-type", b"content-length"}]
    return page
