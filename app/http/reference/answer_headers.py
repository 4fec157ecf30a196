"""The response headers of the OpenAPI document: each described once, and named by every answer that may carry it."""

from typing import Any

#: Problems found before a key is looked at, so that no tenant's quota can be told.
_BEFORE_THE_KEY = {"400", "401", "408", "414", "431"}
_WITH_RETRY_AFTER = {"429", "503"}


def _header(description: str, example: str, **schema: object) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", **schema}, "example": example}


#: The components of the document, by the name of the header.
COMPONENTS: dict[str, Any] = {
    "X-Request-Id": _header(
        "The id of the request, as in the log: the caller's own, if it has up to 64 letters, digits and `._-`.",
        "5f0c4b8e1d2a3b4c5d6e7f80",
    ),
    "RateLimit": _header(
        "The requests that are left, and the seconds until all are available again "
        "(draft-ietf-httpapi-ratelimit-headers). Absent without a limit.",
        '"requests";r=1999;t=1',
    ),
    "RateLimit-Policy": _header("The requests allowed at once, and in how many seconds.", '"requests";q=2000;w=2'),
    "Retry-After": {
        "description": "Seconds to wait before the request is repeated.",
        "schema": {"type": "integer", "minimum": 0},
        "example": 1,
    },
    "WWW-Authenticate": _header("How to show a key.", "Bearer"),
    "Link": _header(
        "The addresses of the next and the previous page (RFC 8288); absent where there is none.",
        '</api/messages?cursor=WzFd>; rel="next"',
    ),
    "Location": _header("The address of the message, where its status can be read.", "/api/messages/1"),
    "Idempotent-Replayed": _header(
        "`true` where the `Idempotency-Key` was used before, and this is the same message.", "true", enum=["true"]
    ),
    "Preference-Applied": _header("The wait that `Prefer` was granted (RFC 7240).", "wait=5"),
    "Content-Disposition": _header("The name under which the answer is saved (RFC 6266).", "attachment"),
}


def tell_headers(path: str, operation: dict[str, Any]) -> None:
    """Add to each answer of an operation the headers that it may carry."""
    has_key = bool(operation["security"])
    for status, answer in operation["responses"].items():
        names = ["X-Request-Id"]
        if has_key and status not in _BEFORE_THE_KEY:
            names += ["RateLimit", "RateLimit-Policy"]
        if has_key and status == "401":
            names += ["WWW-Authenticate"]
        if status in _WITH_RETRY_AFTER:
            names += ["Retry-After"]
        if status == "200":
            names += _of_success(path, operation)
        answer["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _of_success(path: str, operation: dict[str, Any]) -> list[str]:
    parameters = {parameter["name"] for parameter in operation.get("parameters", [])}
    names = ["Link"] if "cursor" in parameters else []
    if "Idempotency-Key" in parameters:
        names += ["Location", "Idempotent-Replayed", "Preference-Applied"]
    if path.endswith("/export") or path.startswith("/api/files/"):
        names += ["Content-Disposition"]
    return names
