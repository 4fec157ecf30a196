"""The structure of a raw mail (RFC 5322, RFC 2046): its parts with their headers and content.

Parts are found in one pass over the lines, without recursion. The library's parser recurses into each part, differs
between versions of Python, and parses mails within mails that are kept as files here.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from app.providers.mail.mime.headers import raw_header
from app.providers.mail.mime.parameters import Parameters, parameters_of
from app.providers.mail.mime.transfer import without_transfer_encoding

#: As for forms, more parts than any sender needs. What follows belongs to the last one.
MOST_PARTS = 5_000
#: More than a mail needs. Further headers are left out.
MOST_HEADERS = 50_000
#: A part below is not opened, but kept whole as a file.
DEEPEST = 100
_LONGEST_DELIMITER = 1_000
_FIELD = re.compile(rb"(?!--)([!-9;-~]+)[ \t]*:")
_END_OF_FIELD = re.compile(rb"\n(?![ \t])")
_BLANK_LINE = re.compile(rb"(?:\r{0,2}\n)?")
_FIRST_DELIMITER = re.compile(rb"\s{0,100}--([^\r\n]{1,200}?)[ \t]*\r?\n")


@dataclass(eq=False)
class Part:
    """A part of a mail, or the mail itself. `headers` are raw: bytes beyond ASCII are surrogates.

    An opened multipart has `parts`, and its text before them as `raw`. All others have their content there.
    """

    headers: list[tuple[str, str]]
    parts: list["Part"] = field(default_factory=list)
    raw: bytes = field(default=b"", repr=False)
    is_opened: bool = False

    @cached_property
    def type(self) -> Parameters:
        return parameters_of(raw_header(self.headers, "content-type"))

    @cached_property
    def disposition(self) -> Parameters:
        return parameters_of(raw_header(self.headers, "content-disposition"))

    @cached_property
    def content_type(self) -> str:
        """The type and subtype; that of a plain text where none is readable (RFC 2045, 5.2), or without parts."""
        main = self.type.main
        if self.is_opened and not self.parts:
            return "text/plain"
        readable = "/" in main.strip("/")
        return main if readable else "application/octet-stream" if self.file_name else "text/plain"

    @cached_property
    def file_name(self) -> str:
        return self.disposition.named.get("filename") or self.type.named.get("name") or ""

    @cached_property
    def content(self) -> bytes:
        """The content without its transfer encoding."""
        return without_transfer_encoding(self.raw, raw_header(self.headers, "content-transfer-encoding"))


def parsed(raw: bytes) -> Part:
    """A mail as its parts. Never raises."""
    return _Reader(raw).mail()


class _Delimiter(NamedTuple):
    """A line between parts: the end of the content above it, the level of its multipart, and the place below it."""

    content_end: int
    level: int
    is_last: bool
    end: int


class _Reader:
    """Reads a mail line by line. It knows the boundaries of all multiparts that the current part is in."""

    def __init__(self, raw: bytes) -> None:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
        self._raw = raw if b"\n" in raw else raw.replace(b"\r", b"\n")
        self._place = len(self._raw) - len(self._raw.lstrip(b"\r\n"))
        self._open: list[tuple[Part, bytes]] = []  # from the outermost
        self._levels: dict[bytes, int] = {}
        self._parts = self._headers = 0

    def mail(self) -> Part:
        mail = self._part()
        part: Part | None = mail
        while True:
            start = self._place
            delimiter = self._delimiter()
            if part is not None:
                part.raw = self._raw[start : delimiter.content_end if delimiter else len(self._raw)]
            if delimiter is None:
                return mail
            self._place = delimiter.end
            self._close(delimiter.level if delimiter.is_last else delimiter.level + 1)
            parent = self._open[delimiter.level][0] if not delimiter.is_last else None
            part = self._part() if parent else None  # what follows the last part belongs to none
            if parent and part:
                parent.parts.append(part)

    def _part(self) -> Part:
        """The part that begins here, opened if it is a multipart."""
        part = Part(self._read_headers())
        self._parts += 1
        if self._parts >= MOST_PARTS:
            self._levels.clear()
        elif part.type.main.startswith("multipart/") and len(self._open) < DEEPEST:
            boundary, part.is_opened = self._boundary(part), True
            if boundary and boundary not in self._levels:
                self._levels[boundary] = len(self._open)
                self._open.append((part, boundary))
        return part

    def _boundary(self, part: Part) -> bytes:
        """The boundary as stated, or as its first delimiter has it."""
        stated = part.type.named.get("boundary", "").encode("utf-8", "replace")
        if stated and (self._open or self._raw.find(b"--" + stated, self._place) >= 0):
            return stated
        first = _FIRST_DELIMITER.match(self._raw, self._place)
        return first[1] if first else b""

    def _close(self, level: int) -> None:
        for _, boundary in self._open[level:]:
            self._levels.pop(boundary, None)
        del self._open[level:]

    def _delimiter(self) -> _Delimiter | None:
        """The next delimiter of any open multipart."""
        raw, at = self._raw, self._place - 1
        while self._levels and (at := raw.find(b"\n--", max(at, 0))) >= 0:
            end = raw.find(b"\n", at + 1, at + _LONGEST_DELIMITER)
            end = len(raw) if end < 0 else end
            line = raw[at + 3 : min(end, at + _LONGEST_DELIMITER)].rstrip(b" \t\r")
            level, is_last = self._levels.get(line), False
            if level is None and line.endswith(b"--"):
                level, is_last = self._levels.get(line[:-2]), True
            if level is not None:
                content_end = at - 1 if raw[at - 1 : at] == b"\r" else at
                return _Delimiter(max(content_end, self._place), level, is_last, min(end + 1, len(raw)))
            at += 1
        return None

    def _read_headers(self) -> list[tuple[str, str]]:
        """The headers that begin here, up to the blank line, or to a line that can be no header."""
        fields: list[tuple[str, str]] = []
        raw = self._raw
        while self._place < len(raw):
            name = _FIELD.match(raw, self._place)
            if name is None and (fields or not raw.startswith((b"From ", b">From "), self._place)):
                blank = _BLANK_LINE.match(raw, self._place)
                self._place = blank.end() if blank else self._place
                break
            end = _END_OF_FIELD.search(raw, self._place)
            after = end.end() if end else len(raw)
            self._headers += name is not None
            if name and self._headers <= MOST_HEADERS:
                fields.append((_text(name[1]), _text(raw[name.end() : after]).strip(" \t\r\n")))
            self._place = after
        return fields


def _text(raw: bytes) -> str:
    return raw.decode("ascii", "surrogateescape")
