"""`python -m app events …`: prints events as they happen, or posts them to a local port (docs/events.md)."""

import argparse
import asyncio
import io
import json
import os
import signal
import sys
from contextlib import aclosing
from datetime import datetime
from typing import Any

from app.commands import refuse, remark, say
from app.commands.event_forwarding import Forwarder
from app.commands.event_stream import NOW, EventStream, StreamRefused, whole_url
from app.config import Settings
from app.domain import EventType
from app.services.webhooks.signatures import new_secret
from app.signing_keys import signing_keys

_KEY = "MESSAGING_KEY"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - hosts to listen at, and the address for each
_LONGEST_BODY = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    chosen = parser.add_subparsers(dest="action", required=True)
    tail = chosen.add_parser("tail", help="print events as they happen, one line each")
    tail.add_argument("--json", action="store_true", help="print them as JSON, as the service sends them")
    listen = chosen.add_parser("listen", help="post events to a local port as they happen, signed as webhooks")
    listen.add_argument("--forward-to", required=True, metavar="URL", help="such as http://localhost:3000/hook")
    listen.add_argument("--secret", help="the secret to sign with, whsec_...; a fresh one, if left out")
    for action in (tail, listen):
        types = [type_.value for type_ in EventType]
        action.add_argument("--types", nargs="+", choices=types, metavar="TYPE", help=f"only {', '.join(types)}")
        action.add_argument("--conversation", type=int, metavar="ID", help="only those of a conversation")
        action.add_argument(
            "--after", metavar="CURSOR", default=NOW, help="from an event on: its id; only new ones without"
        )
        action.add_argument("--url", help="the address of the service; this machine's, if left out")
        action.add_argument("--key", help=f"an API key; {_KEY} is better, since others can see a command line")


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    """Show or forward events until Ctrl-C; 1 if the service does not answer or refuses, 2 for a wrong option."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")  # Windows would write a file in a code page without most letters
    filters = {"types": chosen.types, "conversation_id": chosen.conversation}
    try:
        stream = EventStream(
            whole_url(chosen.url or _own_url(settings)),
            chosen.key or os.environ.get(_KEY),
            on_pause=remark,
            after=chosen.after,
            filters={name: value for name, value in filters.items() if value is not None},
        )
        forwarder = _forwarder(chosen) if chosen.action == "listen" else None
    except ValueError as error:
        return refuse(f"{error}.")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    try:
        asyncio.run(_forward(stream, forwarder) if forwarder else _tail(stream, as_json=chosen.json))
        return 0
    except StreamRefused as error:
        refuse(str(error))
        return 1


def _forwarder(chosen: argparse.Namespace) -> Forwarder:
    """The forwarder that the options ask for; prints its secret. Raises `ValueError` for a wrong option."""
    secret = chosen.secret or new_secret("hmac")
    if not secret.startswith("whsec_"):
        raise ValueError("a secret begins with whsec_; leave --secret out to get a fresh one")
    signing_keys(secret)
    forwarder = Forwarder(whole_url(chosen.forward_to), secret, say)
    say(f"Forwarding to {forwarder.url}. Ctrl-C ends it.", f"The signing secret is {secret}")
    return forwarder


def _own_url(settings: Settings) -> str:
    host = _EVERYWHERE.get(settings.host, f"[{settings.host}]" if ":" in settings.host else settings.host)
    return f"http://{host}:{settings.port}"


async def _tail(stream: EventStream, *, as_json: bool) -> None:
    async with aclosing(stream.events()) as events:
        async for event in events:
            say(escaped(event.content) if as_json else line_of(json.loads(event.content)))


async def _forward(stream: EventStream, forwarder: Forwarder) -> None:
    async with aclosing(forwarder), aclosing(stream.events()) as events:
        async for event in events:
            await forwarder.post(event)


def line_of(event: dict[str, Any]) -> str:
    """An event on one line: its time in UTC, its type, the ids, and the beginning of what it is about."""
    data = event["data"]
    time = f"{datetime.fromisoformat(event['timestamp']):%Y-%m-%d %H:%M:%S.%f}"[:-3]
    ids = [f"{name.removesuffix('_id')} {value}" for name, value in data.items() if name.endswith("_id")]
    return escaped("  ".join([time, event["type"], ", ".join(ids), *_about(data)]))


def _about(data: dict[str, Any]) -> list[str]:
    told = []
    if message := data.get("message"):
        body = message["body"]
        shown = body if len(body) <= _LONGEST_BODY else f"{body[:_LONGEST_BODY]}…"
        told = [f"{message['direction']} {message['from']} → {message['to']}", shown]
        told += [f"({message['status_reason']})"] if message["status_reason"] else []
    elif conversation := data.get("conversation"):
        told = [f"{conversation['customer_address']} ↔ {conversation['contact_address']}"]
    elif contact := data.get("contact"):
        told = [contact["address"]]
    elif "endpoint_id" not in data:
        told = ["(removed)"]
    return [*told, *([f"({data['reason']})"] if "reason" in data else [])]


def escaped(text: str) -> str:
    """The text with `\\n`, `\\u001b` and the like for what is not printable; within JSON it means the same."""
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)
