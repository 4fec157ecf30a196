"""The tokens of an address header (RFC 5322, 3.2), in time that is linear in its length.

A quotation mark or bracket that is never closed is a character like others.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_PLAIN = re.compile(r'[^\s"(<>,;:=]++|\s++|.', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_BRACKET = re.compile(r"\\.|[()]", re.DOTALL)
_IN_ANGLE = re.compile(r'[<>",;]')
_ENCODED_START = re.compile(r"=\?[^?\s]{1,80}\?[bq]\?", re.IGNORECASE)


class Token(NamedTuple):
    """`kind` is plain, space, quoted, comment, encoded or angle; or the separator `,`, `;` or `:` itself.

    `text` has no marks around it and no escapes; `written` is unchanged.
    """

    kind: str
    text: str
    written: str


def tokens_of(value: str) -> Iterator[Token]:
    """The tokens in order. Everything between angle brackets is one token, and so is an encoded word (RFC 2047)."""
    comments, quotes = _ends_of_comments(value), _Quotes(value)
    place = 0
    while place < len(value):
        character = value[place]
        if character == '"' and (end := quotes.end(place)):
            yield Token("quoted", _ESCAPED.sub(r"\1", value[place + 1 : end - 1]), value[place:end])
        elif character == "(" and (end := comments.get(place, 0)):
            yield Token("comment", _ESCAPED.sub(r"\1", value[place + 1 : end - 1]), value[place:end])
        elif character == "=" and (end := _end_of_encoded(value, place)):
            yield Token("encoded", value[place:end], value[place:end])
        elif character == "<":
            end = _end_of_angle(value, place, quotes)
            yield Token("angle", value[place + 1 : end].removesuffix(">"), value[place:end])
        elif character in ",;:":
            end = place + 1
            yield Token(character, character, character)
        else:
            plain = _PLAIN.match(value, place)
            end = plain.end() if plain else place + 1
            is_blank = character.isspace() or character == ">"
            yield Token("space" if is_blank else "plain", " " if is_blank else value[place:end], value[place:end])
        place = end


class _Quotes:
    """The quoted strings of a text."""

    def __init__(self, value: str) -> None:
        self._value = value
        self._more = True

    def end(self, place: int) -> int:
        """The place behind the quoted string that begins here; 0 if it has no end, and then no later one has."""
        quoted = _QUOTED.match(self._value, place) if self._more else None
        self._more = quoted is not None
        return quoted.end() if quoted else 0


def _ends_of_comments(value: str) -> dict[int, int]:
    """The place of each `(` that is closed, and the place behind its `)`."""
    ends: dict[int, int] = {}
    opened: list[int] = []
    for bracket in _BRACKET.finditer(value):
        if bracket[0] == "(":
            opened.append(bracket.start())
        elif bracket[0] == ")" and opened:
            ends[opened.pop()] = bracket.end()
    return ends


def _end_of_angle(value: str, place: int, quotes: _Quotes) -> int:
    """The place behind `>`. Brackets without it end before a separator, before other brackets, or with the value."""
    separator, position = 0, place + 1
    while mark := _IN_ANGLE.search(value, position):
        position = mark.end()
        if mark[0] == ">":
            return position
        if mark[0] == "<":
            return separator or mark.start()
        if mark[0] == '"':
            position = quotes.end(mark.start()) or position
        else:
            separator = separator or mark.start()
    return separator or len(value)


def _end_of_encoded(value: str, place: int) -> int:
    """The place behind the encoded word that begins here, or 0. It may hold what RFC 2047 forbids, such as blanks."""
    start = _ENCODED_START.match(value, place)
    if start is None:
        return 0
    following = value.find("=?", start.end())
    end = value.find("?=", start.end(), following + 3 if following >= 0 else len(value))
    return end + 2 if end >= 0 else 0
