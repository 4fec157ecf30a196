"""Every error as problem+json (RFC 9457), rendered in one place."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from asyncpg import PostgresError
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from app.db.connectivity.outage import outage, sqlstate_of
from app.db.engine import is_unavailable
from app.errors import DatabaseUnavailable, FieldError, InvalidRequest, ServiceError
from app.http.access import methods_at
from app.http.browser.errors import as_page
from app.http.browser.requests import SAFE_METHODS
from app.log import Seldom, request_id

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

_refused = Seldom("request_refused")

Handler = Callable[[Request, Exception], Awaitable[Response]]

#: SQLSTATEs of a missing table, schema and column: tables were dropped while the service was running.
_SCHEMA_INCOMPLETE = {"42P01", "3F000", "42703"}

#: Sentences in place of pydantic's where those are not written for API clients.
_SENTENCES = {
    "missing": "this field is required",
    "json_invalid": "this is not JSON",
    "string_type": "this is a string",
    "model_attributes_type": "this is a JSON object",
    "model_type": "this is a JSON object",
    "string_unicode": "this text is not valid Unicode",
}


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    errors: Iterable[FieldError] = (),
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, str] | None = None,
) -> Response:
    """The answer for an error. `type` stays the same when the wording changes.

    `members` are further ones of the document. A server error names the request, so that it can be found in the log.
    """
    content: dict[str, Any] = {
        "type": "urn:problem-type:messaging:" + title.lower().replace(" ", "-"),
        "title": title,
        "status": status,
        "detail": detail,
    }
    if status >= 500:
        content["request_id"] = request_id()
    if listed := [{"location": error.location, "message": error.message} for error in errors]:
        content["errors"] = listed
    content |= members or {}
    return JSONResponse(content, status, headers=headers, media_type=MEDIA_TYPE)


def invalid_request(errors: Iterable[Mapping[str, Any]], *, within: str | None = None) -> InvalidRequest:
    """Pydantic's errors as ours: one for each field, in words for a person, without the input."""
    fields: dict[str, FieldError] = {}
    for error in errors:
        location = ".".join(str(part) for part in ([within] if within else []) + list(error["loc"]))
        message = _SENTENCES.get(error["type"]) or error["msg"].removeprefix("Value error, ")
        if error["type"] == "json_invalid":
            location = "body"
            message = f"{message}: {error.get('ctx', {}).get('error', '')}".rstrip(": ")
        fields.setdefault(location, FieldError(location[:200], message))
    found = list(fields.values())
    if len(found) == 1:
        detail = f"One field is not as it should be. {found[0].location}: {found[0].message}."
    else:
        detail = f"{len(found)} fields are not as they should be."
    return InvalidRequest(detail, errors=found)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route for OpenAPI. `app.http.reference.openapi` adds the schema that they refer to."""
    schema = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {str(status): {"description": HTTPStatus(status).phrase, "content": schema} for status in statuses}


def install(app: FastAPI) -> None:
    """Render all errors of an application as problems: ours, the framework's, and those of the database."""
    for kind in _HANDLERS:
        app.add_exception_handler(kind, answer_to)
    app.add_exception_handler(Exception, _pass_on)


def service_problem(error: ServiceError) -> Response:
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return problem(
        error.status, error.title, error.detail, errors=error.errors, headers=headers, members=error.members
    )


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    if error.status >= 500 and not isinstance(error, DatabaseUnavailable):  # `outage` tells of that
        _refused.note(method=request.method, path=request.url.path, reason=error.title)
    return service_problem(error)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _service_error(request, invalid_request(error.errors()))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    detail = {
        HTTPStatus.NOT_FOUND: "There is nothing at this address.",
        HTTPStatus.METHOD_NOT_ALLOWED: "This address does not take that method; see the Allow header.",
    }.get(status, error.detail)
    headers = dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        # The router names the methods of the one route it has found, not those of the address.
        headers["Allow"] = methods_at(request.scope["path"])
    return problem(status, status.phrase.capitalize(), detail, headers=headers)


async def _dependency_error(request: Request, error: Exception) -> Response:
    if isinstance(error, DBAPIError | PostgresError) and sqlstate_of(error) in _SCHEMA_INCOMPLETE:
        log.error("database_schema_incomplete", path=request.url.path, exc_info=error)
        return service_problem(
            DatabaseUnavailable("A table of the database is missing. Start the service again, or run `migrate`.")
        )
    if not is_unavailable(error):
        return await _bug(request, error)
    outage.note(error, path=request.url.path)
    if isinstance(error, TimeoutError) and request.method not in SAFE_METHODS:
        return service_problem(
            DatabaseUnavailable("The database did not confirm this in time, and may store it all the same.")
        )
    return service_problem(DatabaseUnavailable("The database can't be reached. Try again shortly."))


async def _bug(request: Request, error: Exception) -> Response:
    log.error("request_failed", method=request.method, path=request.url.path, exc_info=error)
    return problem(500, "Internal server error", "Something went wrong on our side. It has been logged.")


async def _pass_on(request: Request, error: Exception) -> Response:
    """Raise to the `Envelope`, past the framework, which would answer in its own words."""
    raise error


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)


_HANDLERS: dict[type[Exception], Handler] = {
    ServiceError: _service_error,
    RequestValidationError: _validation_error,
    HTTPException: _http_error,
    ClientDisconnect: _client_gone,
    SQLAlchemyError: _dependency_error,
    PostgresError: _dependency_error,
    OSError: _dependency_error,
    TimeoutError: _dependency_error,
}


async def answer_to(request: Request, error: Exception) -> Response:
    """The answer to an error: a problem, or a page where a browser shows one."""
    handler = next((_HANDLERS[kind] for kind in type(error).__mro__ if kind in _HANDLERS), _bug)
    return as_page(request.scope, await handler(request, error))
