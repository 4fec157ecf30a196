"""The mailboxes of an address header (RFC 5322, 3.4), read from its structure alone.

The library's readers differ between versions of Python, and some decode before they split. Then an encoded word such
as `=?utf-8?Q?victim=40bank.example=2C?=` names another sender. This one splits first and decodes only names.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from app.providers.mail.mime.headers import decoded, one_line, readable
from app.providers.mail.mime.mailbox_tokens import Token, tokens_of

#: More than a header with thousands of recipients has. A longer one is not read, because its cut end could decide.
_LONGEST_VALUE = 100_000
_LONGEST_NAME = 1_000
_SCHEME = re.compile(r"(?:mailto|smtp):(?://)?", re.IGNORECASE)
_ROUTE = re.compile(r"@[^:\"]*+:")  # RFC 5322, 4.4
_NO_ATEXT = r"""\s"@<>(),;\\\x00-\x1f\x7f-\x9f\ufffd"""
_ADDRESS = re.compile(
    rf"""(?:"(?:[^"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*"|[^{_NO_ATEXT}])+@"""
    rf"""(?:\[[^\[\]{_NO_ATEXT}]+\]|[^:=?\[\]{_NO_ATEXT}]+)"""
)


class Mailbox(NamedTuple):
    """A name, decoded and in one line, or empty; and an address as it is spelled, which is never decoded."""

    name: str
    address: str


def mailboxes(value: str) -> list[Mailbox]:
    """The mailboxes of a raw header's value, in order. Entries without a readable address are left out. Never raises.

    The last angle brackets of an entry that hold an address decide. An encoded word yields neither an address nor a
    separator. The time is linear in the length.
    """
    return [mailbox for mailbox, _ in _found(value)]


def authors_of(value: str) -> list[Mailbox]:
    """The mailboxes of a From, those in angle brackets first.

    In `victim@bank.example, <jane@example.com>` the bare address is a name that lacks its quotes.
    """
    return [mailbox for mailbox, _ in sorted(_found(value), key=lambda found: not found[1])]


def _found(value: str) -> list[tuple[Mailbox, bool]]:
    """The mailboxes of a value, each with True if its address is in brackets."""
    if len(value) > _LONGEST_VALUE:
        return []
    found: list[tuple[Mailbox, bool]] = []
    before = ""
    for entry, separator in _entries([*tokens_of(readable(value))]):
        is_bracketed = any(token.kind == "angle" for token in entry)
        name, address = _bracketed(entry) if is_bracketed else _bare(entry)
        if address:
            found.append((Mailbox(_shown(before + name), address), is_bracketed))
        # The comma in `Roe, Jane <jane@example.com>` belongs to the name.
        is_name = separator == "," and name and not address and len(before) < _LONGEST_NAME
        before = f"{before}{name}, " if is_name else ""
    return found


def _entries(tokens: list[Token]) -> Iterator[tuple[list[Token], str]]:
    """The tokens of each entry, and the separator behind it. The name of a group is left out."""
    last_semicolon = max((place for place, token in enumerate(tokens) if token.kind == ";"), default=-1)
    entry: list[Token] = []
    for place, token in enumerate(tokens):
        if token.kind in {",", ";"}:
            yield entry, token.kind
            entry = []
        elif token.kind == ":" and place < last_semicolon and not _is_scheme(entry):
            entry = []
        else:
            entry.append(token)
    yield entry, ""


def _is_scheme(entry: list[Token]) -> bool:
    return bool(entry) and _SCHEME.fullmatch(f"{entry[-1].written}:") is not None


def _bracketed(entry: list[Token]) -> tuple[str, str]:
    """The name and address of `Jane Roe <jane@example.com>`. Without an address in brackets, both may be empty."""
    for place in reversed(range(len(entry))):
        if entry[place].kind == "angle" and (address := _readable(_joined(tokens_of(entry[place].text)))):
            return _name(entry[:place]) or _name(entry[place + 1 :]) or _comments(entry), address
    return _name(entry), ""


def _bare(entry: list[Token]) -> tuple[str, str]:
    """The name and address of `jane@example.com (Jane Roe)`. Several addresses without separators are none."""
    runs: list[list[Token]] = [[]]
    for token in entry:
        if token.kind in {"space", "encoded"}:
            runs += [[token], []]
        else:
            runs[-1].append(token)
    addresses = [_readable(_joined(run)) for run in runs]
    if len(different := {*filter(None, addresses)}) == 1:
        others = [token for run, address in zip(runs, addresses, strict=True) if not address for token in run]
        return _name(others) or _comments(entry), different.pop()
    spaced = "" if different else _readable(_joined(entry))
    if "." in spaced.rpartition("@")[2]:  # `jane @ example.com`, but not `Info @ Shop`
        return _comments(entry), spaced
    return _name(entry), ""


def _joined(tokens: Iterable[Token]) -> str:
    """An address as one word without comments; empty with an encoded word, or with blanks where none may be."""
    pieces = [""]
    is_after_blank = False
    for token in tokens:
        if token.kind == "encoded":
            return ""
        if token.kind == "space":
            is_after_blank = True
        elif token.kind != "comment":
            if is_after_blank and pieces[-1] and pieces[-1][-1] not in "@.:," and token.written[0] not in "@.":
                return ""
            pieces.append(token.written)
            is_after_blank = False
    return "".join(pieces)


def _readable(written: str) -> str:
    """The address in a word, without what is often put around it; empty if there is none."""
    written = _ROUTE.sub("", written, count=1) if written.startswith("@") else written
    if written[:1] + written[-1:] in {"''", "[]"}:
        written = written[1:-1]
    scheme = _SCHEME.match(written)
    written = written[scheme.end() :] if scheme else written
    written = written.rstrip(".,;")
    return written if _ADDRESS.fullmatch(written) else ""


def _name(tokens: Sequence[Token]) -> str:
    shown = (token for token in tokens if token.kind != "comment" and token.text)
    return "".join(token.written if token.kind == "angle" else token.text for token in shown).strip()


def _comments(tokens: Sequence[Token]) -> str:
    return " ".join(token.text for token in tokens if token.kind == "comment")


def _shown(name: str) -> str:
    """A name as people read it."""
    name = " ".join(one_line(decoded(name)).split())
    name = name.replace('"', "") if name.count('"') == 1 else name
    return name[1:-1].strip() if len(name) > 2 and name[0] == name[-1] == "'" else name
