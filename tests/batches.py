"""Batches as clients send them, for tests."""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import httpx

from tests.factories import email, sms

PATH = "/api/batches"
TYPE = {"Content-Type": "application/x-ndjson"}


def line(number: int = 0, **changes: object) -> dict[str, Any]:
    """A text to a contact of its own for each number."""
    return {"channel": "sms"} | sms(**{"to": f"+1804{5550000 + number}"} | changes)


def mail_line(**changes: object) -> dict[str, Any]:
    return {"channel": "email"} | email(**changes)


def body_of(lines: Iterable[dict[str, Any] | bytes]) -> bytes:
    return b"".join(each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n" for each in lines)


class Answer(NamedTuple):
    """The results of the lines, the summary, and the id of the batch."""

    lines: list[dict[str, Any]]
    summary: dict[str, Any]
    response: httpx.Response

    @property
    def batch_id(self) -> int:
        id_: int = self.summary["batch_id"]
        return id_

    @property
    def statuses(self) -> list[str]:
        return [each["status"] for each in self.lines]


async def send(
    client: httpx.AsyncClient, *lines: dict[str, Any] | bytes, key: str = "campaign", **query: str
) -> Answer:
    """Send a batch that is accepted as such; its lines may be refused."""
    headers = TYPE | {"Idempotency-Key": key}
    response = await client.post(PATH, content=body_of(lines), headers=headers, params=query)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    *results, summary = map(json.loads, response.text.splitlines())
    return Answer(results, summary, response)
