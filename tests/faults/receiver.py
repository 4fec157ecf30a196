"""A receiver of webhooks as a program of a client: it notes what it got before it says so.

    python -m tests.faults.receiver FILE PORT

Each line of the file has the `webhook-id` of a request, and the id of the event in it.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """Answers 204 to each event."""

    protocol_version = "HTTP/1.1"
    path_of_notes: Path

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        line = json.dumps([[self.headers["webhook-id"]], event["id"]]).encode() + b"\n"
        with self.path_of_notes.open("ab", buffering=0) as file:
            file.write(line)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main(path: Path, port: int) -> None:
    Handler.path_of_notes = path
    ThreadingHTTPServer.request_queue_size = 100
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
