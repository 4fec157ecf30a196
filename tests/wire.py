"""Tools for tests of the wire contract: problems, row counts, and the document."""

import re
from typing import Any

import httpx
import psycopg2

from app.main import create_app

#: What the service says of itself, and every route that it names: method, path, description.
DOCUMENT: dict[str, Any] = create_app().openapi()
OPERATIONS: list[tuple[str, str, dict[str, Any]]] = [
    (method.upper(), path, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
]
#: A name of its own for each kind of problem.
_TYPE = re.compile(r"urn:problem-type:messaging:[a-z]+(-[a-z]+)*")
#: How many rows each table holds.
COUNT_ROWS = " UNION ALL ".join(
    f"SELECT '{table}', count(*) FROM {table}"
    for table in ("contacts", "conversations", "conversation_participants", "messages")
)


def problem_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem (RFC 9457) that a response must be; fails where it is anything less."""
    asked = f"{response.request.method} {response.request.url!s:.200} gave {response.status_code}"
    assert response.status_code == status, f"{asked}, not {status}: {response.text[:500]}"
    assert response.headers["content-type"] == "application/problem+json", f"{asked}: {response.text[:500]}"
    problem: dict[str, Any] = response.json()
    assert set(problem) - {"errors", "request_id", "oldest"} == {"type", "title", "status", "detail"}, problem
    assert ("request_id" in problem) == (status >= 500), problem
    assert problem["status"] == status, problem
    assert _TYPE.fullmatch(problem["type"]), problem
    assert problem["title"], problem
    assert problem["detail"], problem
    for error in problem.get("errors", []):
        assert set(error) == {"location", "message"}, error
        assert error["location"].split(".")[0] in {"body", "path", "query", "header"}, error
        assert error["message"], error
    return problem


def locations_of(response: httpx.Response) -> list[str]:
    """Which parts of a request are named by the 422 that a response must be."""
    return [error["location"] for error in problem_of(response, 422)["errors"]]


def rows_of(database_url: str, question: str) -> list[tuple[Any, ...]]:
    """Committed rows, read past the service."""
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(question)
        rows = cursor.fetchall()
    connection.close()
    return rows


def row_counts(database_url: str) -> dict[str, int]:
    """The number of rows of each table."""
    return dict(rows_of(database_url, COUNT_ROWS))


async def stored(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """Every message of every conversation, as the service shows it, by conversation and then by time."""
    conversations = (await client.get("/api/conversations", params={"limit": 1000})).json()
    messages: list[dict[str, Any]] = []
    for conversation in sorted(conversations, key=lambda one: int(one["id"])):
        page = await client.get(f"/api/conversations/{conversation['id']}/messages", params={"limit": 1000})
        messages += page.json()
    return messages
