"""Content-Type and Content-Disposition with their parameters (RFC 2045, RFC 2183, RFC 2231), as mails write them."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from app.providers.mail.mime.charsets import text_of
from app.providers.mail.mime.headers import decoded, one_line, readable
from app.providers.mail.mime.mailbox_tokens import tokens_of

#: More than a value needs. Mail programs state a file's name up to three times.
_LONGEST_VALUE = 20_000
_MAIN = re.compile(r"(?:\s*\([^()]*\))*\s*([^\s;,()\"]+)")
_NAME = re.compile(r"\s*([^\s=*;]+)(?:\*(\d{1,4}))?(\*)?\s*=(.*)", re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\])')  # others are parts of paths
_PERCENT = re.compile(rb"%([0-9a-fA-F]{2})")


class _Piece(NamedTuple):
    """A piece of a parameter: its place among the pieces, its text, and whether that is percent-encoded."""

    place: int
    text: str
    is_encoded: bool


class Parameters(NamedTuple):
    """The value itself, in lower case, and its parameters, whose names are in lower case."""

    main: str
    named: dict[str, str]


def parameters_of(value: str) -> Parameters:
    """The parameters of a raw value. A form of RFC 2231 counts before a plain one. Never raises."""
    value = readable(value[:_LONGEST_VALUE])
    main = _MAIN.match(value)
    plain: dict[str, str] = {}
    pieces: dict[str, list[_Piece]] = {}
    for written in _parts(value[main.end() :] if main else value):
        found = _NAME.match(written)
        if found is None:
            continue
        name, place, star = found[1].lower(), found[2], found[3]
        text = _unquoted(found[4])
        if place or star:
            pieces.setdefault(name, []).append(_Piece(int(place or 0), text, bool(star)))
        else:
            plain.setdefault(name, decoded(text))
    extended = {name: _joined(sorted(of_name)) for name, of_name in pieces.items()}
    named = plain | {name: text for name, text in extended.items() if text}
    return Parameters(main[1].lower() if main else "", {name: one_line(text).strip() for name, text in named.items()})


def _parts(value: str) -> Iterator[str]:
    """The texts between semicolons that are not quoted."""
    written: list[str] = []
    for token in tokens_of(value):
        if token.kind == ";":
            yield "".join(written)
            written = []
        else:
            written.append(token.written)
    yield "".join(written)


def _unquoted(written: str) -> str:
    """A value without its quotation marks. Others within it belong to it, as in `"the "big" plan.pdf"`."""
    written = written.strip()
    if not written.startswith('"'):
        return written
    if len(written) > 1 and written.endswith('"'):
        written = written[1:-1]
    else:  # a comment follows, or something that was folded into it
        first = next(tokens_of(written))
        written = first.written.strip('"') if first.kind == "quoted" else written.strip('"')
    return _ESCAPED.sub(r"\1", written)


def _joined(pieces: list[_Piece]) -> str:
    """The text of pieces in order. The first names the charset, often a wrong one (RFC 2231, 4)."""
    content, charset = b"", None
    for number, piece in enumerate(pieces):
        text = piece.text
        if piece.is_encoded and number == 0 and text.count("'") >= 2:
            charset, _, text = text.split("'", 2)
        written = text.encode("utf-8", "replace")
        content += _PERCENT.sub(_byte, written) if piece.is_encoded else written
    return decoded(text_of(content, charset))


def _byte(percent: re.Match[bytes]) -> bytes:
    return bytes([int(percent[1], 16)])
