"""Check the wire contract from outside over HTTP: the eight requests and their effects.

With BASE_URL it checks the service there, on its existing data. Without, it starts a service of its own on an empty
database, runs all checks twice, and removes everything. SERVICE_PROGRAM names an installed program to start in place
of the code here. The exit code is 1 if any check failed.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
SECONDS_TO_START = 90  # the very first start on a slow disk builds a whole database
SECONDS_TO_STOP = 30
PROBLEM = "application/problem+json"

OUR_PHONE, THEIR_PHONE = "+12016661234", "+18045551234"
OUR_EMAIL, THEIR_EMAIL = "support@example.com", "jane@example.org"

SMS = {
    "from": OUR_PHONE,
    "to": THEIR_PHONE,
    "type": "sms",
    "body": "Hello!",
    "attachments": None,
    "timestamp": "2024-11-01T14:00:00Z",
}
# Sent after the SMS but dated before it, so that the order of the answer shows by what it is sorted.
MMS = SMS | {
    "type": "mms",
    "body": "Hello, with a picture!",
    "attachments": ["https://example.com/picture.jpg"],
    "timestamp": "2024-11-01T13:00:00Z",
}
EMAIL = {
    "from": OUR_EMAIL,
    "to": THEIR_EMAIL,
    "body": "<p>Hello, this is <b>HTML</b>.</p>",
    "attachments": ["https://example.com/terms.pdf", "https://example.com/plan.pdf"],
    "timestamp": "2024-11-01T14:30:00Z",
}
INBOUND_SMS = SMS | {
    "from": THEIR_PHONE,
    "to": OUR_PHONE,
    "messaging_provider_id": "message-1",
    "body": "Hello back!",
    "timestamp": "2024-11-01T15:00:00Z",
}
INBOUND_MMS = INBOUND_SMS | {
    "type": "mms",
    "messaging_provider_id": "message-2",
    "body": "A picture for you.",
    "attachments": ["https://example.com/answer.jpg"],
    "timestamp": "2024-11-01T18:00:00+02:00",  # 16:00 in UTC
}
INBOUND_EMAIL = {
    "from": THEIR_EMAIL,
    "to": OUR_EMAIL,
    "xillio_id": "message-3",
    "body": "<p>Thank you!</p>",
    "attachments": [],
    "timestamp": "2024-11-01T17:00:00Z",
}


class Mismatch(Exception):
    """Something is not as the contract says; the text names what was expected and what came."""


def equal(got: object, expected: object) -> None:
    if got != expected:
        raise Mismatch(f"expected {expected!r:.400} got {got!r:.400}")


def holds(condition: bool, expected: str, got: object) -> None:
    if not condition:
        raise Mismatch(f"expected {expected} got {got!r:.400}")


def is_integer(value: object) -> bool:
    return type(value) is int  # a bool is an int as well, and no id


def moment(written: str) -> datetime:
    return datetime.fromisoformat(written)


class CannotGoOn(Exception):
    """The rest asks about something that was not stored."""


class Run:
    """One pass over the contract; prints a line for every check and counts them."""

    def __init__(self, service: httpx.Client, *, own: bool) -> None:
        self.service = service
        self.own = own  #: True if no other client has ever written into this database
        self.passed = 0
        self.failed = 0

    @contextmanager
    def check(self, sentence: str) -> Iterator[None]:
        try:
            yield
        except (Mismatch, httpx.HTTPError) as error:
            self.fail(f"{sentence}: {error or type(error).__name__}")
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            self.fail(f"{sentence}: expected an answer as in the contract got {error!r}")
        else:
            self.passed += 1
            print(f"ok    {sentence}", flush=True)

    def fail(self, line: str) -> None:
        self.failed += 1
        print(f"FAIL  {line}", flush=True)

    def everything(self, *, first: bool) -> None:
        """`first`: the service may see the webhooks for the first time; its own one certainly does."""
        try:
            texts, emails = self.sends(first=first)
            self.receives(texts, emails, first=first)
            self.lists_conversations(texts, emails)
            self.lists_messages(texts, emails)
            self.refuses()
        except (CannotGoOn, httpx.HTTPError) as error:
            self.fail(f"what comes after this can't be asked: {error or type(error).__name__}")

    # Send

    def sends(self, *, first: bool) -> tuple[int, int]:
        """The conversations of the two phone numbers and of the two email addresses."""
        sms = self.send("/api/messages/sms", SMS)
        mms = self.send("/api/messages/sms", MMS, " with an MMS and its attachment")
        email = self.send("/api/messages/email", EMAIL, " with HTML and attachments")
        texts, emails = sms["conversation_id"], email["conversation_id"]
        if self.own and first:
            with self.check("the first conversation and message of an empty database have id 1"):
                equal((texts, sms["message_id"]), (1, "1"))
        with self.check("the SMS and the MMS of one pair of numbers share a conversation"):
            equal(mms["conversation_id"], texts)
        with self.check("another pair of addresses has another conversation"):
            holds(emails != texts, f"one that is not {texts}", emails)
        with self.check("POST /api/messages/sms/ with Prefer: wait=5 answers with a provider_message_id"):
            waiting = self.service.post("/api/messages/sms/", json=SMS, headers={"Prefer": "wait=5"})
            equal(waiting.status_code, 200)
            provider_message_id = waiting.json()["provider_message_id"]
            is_id = isinstance(provider_message_id, str) and provider_message_id != ""
            holds(is_id, "an id", provider_message_id)
        with self.check("what was sent is in its conversation, with the body and the time it was sent with"):
            for answer, payload in ((sms, SMS), (mms, MMS), (email, EMAIL)):
                messages = self.messages(answer["conversation_id"])
                [stored] = [m for m in messages if str(m["id"]) == answer["message_id"]]
                equal((stored["direction"], stored["body"]), ("outbound", payload["body"]))
                equal(moment(stored["sent_at"]), moment(str(payload["timestamp"])))
        return texts, emails

    def send(self, path: str, payload: dict[str, Any], what: str = "") -> dict[str, Any]:
        with self.check(f"POST {path}{what} answers 200, accepted, with a message id"):
            answer = self.service.post(path, json=payload)
            equal(answer.status_code, 200)
            accepted: dict[str, Any] = answer.json()
            equal(accepted["status"], "accepted")
            message_id, conversation_id = accepted["message_id"], accepted["conversation_id"]
            holds(isinstance(message_id, str) and message_id != "", "a string as message_id", message_id)
            holds(is_integer(conversation_id), "an integer as conversation_id", conversation_id)
            holds("provider_message_id" in accepted, "a provider_message_id, even if null", accepted)
            return accepted
        raise CannotGoOn("nothing was stored")

    # Receive

    def receives(self, texts: int, emails: int, *, first: bool) -> None:
        webhooks = (
            ("an SMS", "/api/webhooks/sms", INBOUND_SMS, texts),
            ("an MMS", "/api/webhooks/sms", INBOUND_MMS, texts),
            ("an email", "/api/webhooks/email", INBOUND_EMAIL, emails),
        )
        for what, path, payload, conversation in webhooks:
            before = self.messages(conversation)
            with self.check(f"POST {path} with {what} answers 200, ok"):
                self.deliver(path, payload)
            after = self.messages(conversation)
            with self.check(f"{what} is in the conversation it answers, once, with its time in UTC"):
                stored = [m for m in after if (m["direction"], m["body"]) == ("inbound", payload["body"])]
                # In a foreign database the id may have been used before, for another text or between other addresses.
                elsewhere = not self.own and len(after) == len(before)
                holds(len(stored) == 1 or elsewhere, "one such message", stored)
                for message in stored:
                    equal(moment(message["sent_at"]), moment(str(payload["timestamp"])))
            if self.own:
                with self.check(f"{what} adds {'one row' if first else 'no row, since it has come before'}"):
                    equal(len(after) - len(before), 1 if first else 0)
        rows = self.rows(texts, emails)
        with self.check("the same webhooks again, now with a slash at the end, answer 200, ok"):
            for _, path, payload, _ in webhooks:
                self.deliver(f"{path}/", payload)
        with self.check("they have added no conversation and no message"):
            equal(self.rows(texts, emails), rows)

    def deliver(self, path: str, payload: dict[str, Any]) -> None:
        answer = self.service.post(path, json=payload)
        equal((answer.status_code, answer.json()), (200, {"status": "ok"}))

    def rows(self, *conversations: int) -> tuple[int, int]:
        count = sum(len(self.messages(conversation)) for conversation in conversations)
        return len(self.every("/api/conversations")), count

    # Read

    def lists_conversations(self, texts: int, emails: int) -> None:
        listed = self.every("/api/conversations")
        with self.check("GET /api/conversations lists both conversations, once each"):
            ids = [conversation["id"] for conversation in listed]
            holds(all(is_integer(id) for id in ids), "integers as ids", ids)
            equal([ids.count(texts), ids.count(emails)], [1, 1])
        self.check_times("conversations", [conversation["last_updated"] for conversation in listed])
        with self.check("the most recently active conversation comes first"):
            times = [moment(conversation["last_updated"]) for conversation in listed]
            equal(times, sorted(times, reverse=True))
        self.check_pages("/api/conversations", "/api/conversations", listed)

    def lists_messages(self, texts: int, emails: int) -> None:
        shape = "/api/conversations/{id}/messages"
        listed = self.messages(texts)
        with self.check(f"GET {shape} tells id, direction and channel of each"):
            for message in listed:
                holds(is_integer(message["id"]), "an integer as id", message["id"])
                holds(message["direction"] in ("inbound", "outbound"), "a direction", message["direction"])
                equal(message["channel"], "sms")
            equal({message["channel"] for message in self.messages(emails)}, {"email"})
        self.check_times("messages", [message["sent_at"] for message in listed])
        with self.check("the oldest message comes first, by sent_at"):
            times = [moment(message["sent_at"]) for message in listed]
            equal(times, sorted(times))
        self.check_pages(shape, shape.format(id=texts), listed)

    def check_times(self, of_what: str, times: list[str]) -> None:
        with self.check(f"the times of {of_what} are in UTC and end with Z"):
            for written in times:
                holds(written.endswith("Z"), "a time ending with Z", written)
                moment(written)

    def check_pages(self, shape: str, path: str, listed: list[dict[str, Any]]) -> None:
        """`listed` holds two rows at least, so that there is a second page of one row."""
        with self.check(f"GET {shape}/ answers the same, without a redirect"):
            answer = self.service.get(f"{path}/", params={"limit": 1000})
            ids = [row["id"] for row in answer.json()]  # the rest may change, for messages are being delivered
            equal((answer.status_code, ids), (200, [row["id"] for row in listed[:1000]]))
        with self.check(f"GET {shape}?limit=1 answers one row, and Link leads to the next"):
            page = self.service.get(path, params={"limit": 1})
            following = self.service.get(page.links["next"]["url"])
            equal([row["id"] for row in page.json() + following.json()], [row["id"] for row in listed[:2]])

    def messages(self, conversation: int) -> list[dict[str, Any]]:
        return self.every(f"/api/conversations/{conversation}/messages")

    def every(self, path: str) -> list[dict[str, Any]]:
        """All rows behind a path, over as many pages as there are."""
        rows: list[dict[str, Any]] = []
        answer = self.service.get(path, params={"limit": 1000})
        while True:
            if answer.status_code != 200 or not isinstance(answer.json(), list):
                raise CannotGoOn(f"GET {answer.url}: expected 200 and an array got {answer.status_code}")
            rows += answer.json()
            if "next" not in answer.links:
                return rows
            answer = self.service.get(answer.links["next"]["url"])

    # Refuse

    def refuses(self) -> None:
        with self.check("GET /api/conversations/{id}/messages answers 404 for an unknown conversation"):
            self.expect_problem(self.service.get("/api/conversations/999999999999/messages"), 404)
        malformed: list[tuple[str, str, dict[str, Any]]] = [
            ("without to", "/api/messages/sms", {key: SMS[key] for key in SMS if key != "to"}),
            ("of type fax", "/api/messages/sms", SMS | {"type": "fax"}),
            ("with a phone number for an address", "/api/messages/email/", EMAIL | {"to": THEIR_PHONE}),
            ("with a time that is none", "/api/webhooks/sms", INBOUND_SMS | {"timestamp": "yesterday"}),
            ("without xillio_id", "/api/webhooks/email", EMAIL),
        ]
        for what, path, payload in malformed:
            with self.check(f"POST {path} {what} answers 422 and says what is wrong"):
                problem = self.expect_problem(self.service.post(path, json=payload), 422)
                holds(len(problem["errors"]) > 0, "an entry per field in errors", problem)
        with self.check("POST /api/messages/sms with broken JSON answers 422"):
            headers = {"Content-Type": "application/json"}
            self.expect_problem(self.service.post("/api/messages/sms", content=b'{"from": ', headers=headers), 422)
        with self.check("GET /api/conversations?limit=1001 answers 422"):
            self.expect_problem(self.service.get("/api/conversations", params={"limit": 1001}), 422)

    def expect_problem(self, answer: httpx.Response, status: int) -> dict[str, Any]:
        """The body of a refusal, which RFC 9457 gives its form."""
        equal(answer.status_code, status)
        equal(answer.headers["Content-Type"].partition(";")[0], PROBLEM)
        problem: dict[str, Any] = answer.json()
        equal(problem["status"], status)
        for key in ("type", "title", "detail"):
            holds(isinstance(problem[key], str), f"a text as {key}", problem[key])
        return problem


@contextmanager
def own_service() -> Iterator[tuple[str, Path]]:
    """Base URL and log of a service on an empty database. Everything is removed afterwards, even after an error."""
    with tempfile.TemporaryDirectory(prefix="messaging-e2e-", ignore_cleanup_errors=True) as directory:
        port = free_port()
        environment = {
            **os.environ,
            "ENV": "development",
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "DATA_DIR": str(Path(directory, "data")),
        }
        environment.pop("DATABASE_URL", None)
        command = [sys.executable, "-m", "app"]
        if program := os.environ.get("SERVICE_PROGRAM"):
            command = [program]
        else:
            environment["PYTHONPATH"] = str(ROOT)
        log = Path(directory, "service.log")
        with log.open("wb") as output:
            service = subprocess.Popen(
                [*command, "serve"],
                cwd=directory,  # not where an .env could name a database
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Windows: a group of its own, so that stop() can break into it alone.
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
            try:
                base_url = f"http://127.0.0.1:{port}"
                if not is_ready(service, base_url):
                    print(end_of(log), flush=True)
                    sys.exit("FAIL  the service did not start; what it said stands above.")
                yield base_url, log
            finally:
                stop(service)


def end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-5000:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_ready(service: "subprocess.Popen[bytes]", base_url: str) -> bool:
    deadline = time.monotonic() + SECONDS_TO_START
    while service.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{base_url}/healthz", trust_env=False).status_code == 200:
                return True
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.05)
    return False


def stop(service: "subprocess.Popen[bytes]") -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave it running
    if sys.platform == "win32":
        service.send_signal(signal.CTRL_BREAK_EVENT)  # terminate() would not let it stop its database
    else:
        service.terminate()
    try:
        service.wait(SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        service.kill()
        service.wait()


def main() -> int:
    given = os.environ.get("BASE_URL")
    if given:
        with httpx.Client(base_url=given, timeout=30) as client:
            run = Run(client, own=False)
            run.everything(first=True)
    else:
        with own_service() as (base_url, log):
            # Proxies are for what is far away.
            with httpx.Client(base_url=base_url, timeout=30, trust_env=False) as client:
                run = Run(client, own=True)
                run.everything(first=True)
                print("\nOnce more, on the same database:")
                run.everything(first=False)
            if run.failed:
                print(f"\nWhat the service said last:\n{end_of(log)}")
    print(f"\n{run.passed} passed, {run.failed} failed")
    return 1 if run.failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the service is stopped then as well
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
