"""The simulated carrier's ledger: a file of all requests, and counts that survive a restart."""

from collections import Counter
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel


class Entry(BaseModel):
    """One request, as a line of the ledger: accepted if `accepted_at` is set. `reply` is the carrier's answer.

    `idempotency_key` is None in formats without keys, where each accepted request counts.
    """

    reply: str
    reference: str
    idempotency_key: str | None
    body_sha256: str
    to: str
    received_at: datetime
    accepted_at: datetime | None = None
    duplicate: bool = False
    provider_message_id: str | None = None


class Ledger:
    """Every request as one line of JSON, written before the answer and read again at the next start.

    It survives a crash of the process, but not of the machine. Only one process at a time may write it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._requests: Counter[str] = Counter()
        self._by_key: dict[str, Entry] = {}
        self._by_reference: dict[str, list[Entry]] = {}
        self._accepted = self._duplicates = 0
        self._file = path.open("a+b")
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if line.endswith(b"\n"):
                whole += len(line)
                self._note(Entry.model_validate_json(line))
        self._file.truncate(whole)  # an unfinished last line was never answered

    def write(self, entry: Entry) -> None:
        self._file.write(entry.model_dump_json().encode() + b"\n")
        self._file.flush()
        self._note(entry)

    def requests(self, reference: str) -> int:
        """The number of requests for this message, accepted or not."""
        return self._requests[reference]

    def first(self, key: str) -> Entry | None:
        """The first accepted request with this key, if there is one."""
        return self._by_key.get(key)

    def accepted(self, reference: str) -> list[Entry]:
        """The accepted requests for this message, without recognised repeats."""
        return self._by_reference.get(reference, [])

    def summary(self) -> dict[str, int]:
        distinct = len(self._by_reference)
        return {"accepted": self._accepted, "distinct": distinct, "duplicates_refused": self._duplicates}

    def close(self) -> None:
        self._file.close()

    def _note(self, entry: Entry) -> None:
        self._requests[entry.reference] += 1
        if entry.duplicate:
            self._duplicates += 1
        elif entry.accepted_at is not None:
            self._accepted += 1
            if entry.idempotency_key is not None:
                self._by_key.setdefault(entry.idempotency_key, entry)
            self._by_reference.setdefault(entry.reference, []).append(entry)
