"""A reader of the event log as a program of a client: it notes what it got, and goes on there when started again.

    python -m tests.faults.reader page|stream FILE PORT

Each line of the file has the ids of some events, and the cursor behind them. The last line may be torn by a kill.
"""

import http.client
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

#: What a page waits for events, and the silence after which a connection is given up.
_WAIT, _SILENCE = 10, 30
_PAUSE_SECONDS = 0.1
_MOST, _LONGEST_LINE = 200, 50_000

Noted = tuple[list[str], str]  #: ids and the cursor behind them


def noted(path: Path) -> list[Noted]:
    """Everything that a reader has noted in a file so far."""
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return [tuple(json.loads(line)) for line in lines if line.endswith(b"\n")]


def last_cursor(path: Path) -> str:
    """The cursor behind the last events that it has noted; empty before the first."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(-min(_LONGEST_LINE, path.stat().st_size), os.SEEK_END)
        *lines, _ = file.read().split(b"\n")
    return json.loads(lines[-1])[1] if lines else ""


def main(kind: str, path: Path, port: int) -> None:
    lines = noted(path)
    whole = sum(len(_line(*each)) for each in lines)
    with path.open("ab", buffering=0) as file:
        os.truncate(file.fileno(), whole)
        cursor = lines[-1][1] if lines else ""
        while True:
            try:
                for ids, behind in {"page": _page, "stream": _stream}[kind](port, cursor):
                    file.write(_line(ids, behind))
                    cursor = behind
            except (OSError, http.client.HTTPException):
                time.sleep(_PAUSE_SECONDS)  # as a client does, until the service is there again


def _line(ids: list[str], cursor: str) -> bytes:
    return json.dumps([ids, cursor]).encode() + b"\n"


def _ask(port: int, path: str, cursor: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SILENCE)
    connection.request("GET", path + (f"after={quote(cursor)}" if cursor else ""))
    answer = connection.getresponse()
    if answer.status == http.HTTPStatus.OK:
        return answer
    if answer.status in (http.HTTPStatus.SERVICE_UNAVAILABLE, http.HTTPStatus.TOO_MANY_REQUESTS):
        raise http.client.HTTPException
    sys.exit(f"{path} after {cursor} gave {answer.status}: {answer.read().decode()}")


def _page(port: int, cursor: str) -> Iterator[Noted]:
    page = json.load(_ask(port, f"/api/events?limit={_MOST}&wait={_WAIT}&", cursor))
    if page["events"]:
        yield [event["id"] for event in page["events"]], page["cursor"]
    elif not page["more"]:
        time.sleep(_PAUSE_SECONDS)


def _stream(port: int, cursor: str) -> Iterator[Noted]:
    event: dict[str, str] = {}
    for line in _ask(port, "/api/events/stream?", cursor):
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            event[name] = value
        else:
            if "data" in event and event.get("id"):
                yield [json.loads(event["data"])["id"]], event["id"]
            event = {}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
