"""The files and the text in `winmail.dat` (Transport Neutral Encapsulation Format), as Outlook and Exchange send it.

The library tnefparse would not do: it trusts every count in the file, so that a few bytes keep it busy for hours.
It also cuts zeros off the ends of files. Sources: MS-OXTNEF, MS-OXCDATA.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from app.providers.base import InboundFile
from app.providers.mail.mime.charsets import clean_text, html_of, text_of
from app.providers.mail.mime.rtf import read_compressed_rtf

_SIGNATURE = b"\x78\x9f\x3e\x22"
_LARGEST = 40_000_000  # bytes
_MOST_ATTRIBUTES = 20_000
_MOST_FILES = 500
_DEEPEST = 3  # mails in mails

_OEM_CODEPAGE, _MESSAGE_PROPERTIES, _BODY = 0x9007, 0x9003, 0x800C
_NEW_FILE, _FILE_TITLE, _FILE_DATA, _FILE_PROPERTIES = 0x9002, 0x8010, 0x800F, 0x9005

_TEXT, _HTML, _RTF = 0x1000, 0x1013, 0x1009
_INTERNET_CODEPAGE = 0x3FDE
_LONG_NAME, _SHORT_NAME, _DISPLAY_NAME, _MEDIA_TYPE, _DATA = 0x3707, 0x3704, 0x3001, 0x370E, 0x3701

_FIXED = {0x01: 0, 0x02: 2, 0x03: 4, 0x04: 4, 0x05: 8, 0x06: 8, 0x07: 8, 0x0A: 4, 0x0B: 2, 0x14: 8, 0x40: 8, 0x48: 16}
_STRING, _UNICODE = 0x1E, 0x1F
_SEVERAL = 0x1000
_NAMED = 0x8000
_MAIL_INTERFACE = bytes.fromhex("0703020000000000c000000000000046")


class Unpacked(NamedTuple):
    """The plain text and HTML in a file, of which either or both may be empty, and its files."""

    text: str
    html: str
    files: list[InboundFile]


@dataclass(slots=True)
class _File:
    title: str = ""
    data: bytes = field(default=b"", repr=False)
    properties: dict[int, bytes | str] = field(default_factory=dict, repr=False)


def is_tnef(content: bytes) -> bool:
    """Return True for a file of this format, however it is named."""
    return content.startswith(_SIGNATURE)


def unpacked(content: bytes, *, depth: int = 0) -> Unpacked | None:
    """The content of the file; None for a broken, empty or too large one, which is better kept as it is."""
    if len(content) > _LARGEST or depth > _DEEPEST:
        return None
    try:
        message = _read(content)
    except (struct.error, ValueError):
        return None
    if len(message.files) > _MOST_FILES:
        return None
    files = [file for number, each in enumerate(message.files, 1) for file in _files(each, number, depth)]
    text, html = message.texts()
    return Unpacked(text, html, files) if text or html or files else None


@dataclass(slots=True)
class _Message:
    codepage: str = ""
    body: bytes = field(default=b"", repr=False)
    properties: dict[int, bytes | str] = field(default_factory=dict, repr=False)
    files: list[_File] = field(default_factory=list)

    def texts(self) -> tuple[str, str]:
        """The plain text and the HTML; the rich text as one of them if there is no other."""
        charset = _as_text(self.properties.get(_INTERNET_CODEPAGE, "")) or self.codepage
        text = self.properties.get(_TEXT, b"") or self.body
        text = text if isinstance(text, str) else text_of(text.rstrip(b"\0"), charset)
        html = self.properties.get(_HTML, b"")
        html = html if isinstance(html, str) else html_of(html.rstrip(b"\0"), charset)
        compressed = self.properties.get(_RTF, b"")
        if not text.strip() and not html.strip() and isinstance(compressed, bytes):
            rtf = read_compressed_rtf(compressed)
            text, html = ("", rtf.text) if rtf.is_html else (rtf.text, "")
        return text, html


def _read(content: bytes) -> _Message:
    message = _Message()
    for name, value in _attributes(content):
        file = message.files[-1] if message.files else _File()
        if name == _OEM_CODEPAGE:
            message.codepage = str(struct.unpack_from("<I", value)[0])
        elif name == _BODY:
            message.body = value
        elif name == _MESSAGE_PROPERTIES:
            message.properties |= _properties(value, message.codepage)
        elif name == _NEW_FILE:
            message.files.append(_File())
        elif name == _FILE_TITLE:
            file.title = text_of(value.rstrip(b"\0"), message.codepage)
        elif name == _FILE_DATA:
            file.data = value
        elif name == _FILE_PROPERTIES:
            file.properties |= _properties(value, message.codepage)
    return message


def _attributes(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes with their values, as far as they are whole. Raises `ValueError` for too many."""
    place, number = 6, 0
    while place + 11 <= len(content):
        _, name, _, length = struct.unpack_from("<BHHI", content, place)
        if place + 9 + length > len(content):
            break
        number += 1
        if number > _MOST_ATTRIBUTES:
            raise ValueError("This file has too many attributes.")
        yield name, content[place + 9 : place + 9 + length]
        place += 9 + length + 2


def _properties(content: bytes, codepage: str) -> dict[int, bytes | str]:
    """The properties by their numbers, those of one value only. Raises `struct.error` where they break off."""
    (count,) = struct.unpack_from("<I", content)
    place = 4
    found: dict[int, bytes | str] = {}
    for _ in range(min(count, len(content) // 4)):
        if place >= len(content):
            break
        kind, name = struct.unpack_from("<HH", content, place)
        place += 4
        if name >= _NAMED:
            place = _after_name(content, place)
        is_fixed = kind & ~_SEVERAL in _FIXED
        values = 1
        if kind & _SEVERAL or not is_fixed:
            (values,) = struct.unpack_from("<I", content, place)
            place += 4
        if is_fixed:
            length = _FIXED[kind & ~_SEVERAL] * values
            found[name] = content[place : place + length]
            place += length + -length % 4
            continue
        for _ in range(values):  # each takes bytes, so that the file's end ends this
            (length,) = struct.unpack_from("<I", content, place)
            found[name] = _value(kind & ~_SEVERAL, content[place + 4 : place + 4 + length], codepage)
            place += 4 + length + -length % 4
    return found


def _after_name(content: bytes, place: int) -> int:
    """The place behind a property's name: its set, and its number or text there."""
    kind, length = struct.unpack_from("<II", content, place + 16)
    return place + 24 if kind == 0 else place + 24 + length + -length % 4


def _value(kind: int, value: bytes, codepage: str) -> bytes | str:
    if kind == _UNICODE:
        return clean_text(value.decode("utf-16-le", "replace").rstrip("\0"))
    if kind == _STRING:
        return text_of(value.rstrip(b"\0"), codepage)
    return value


def _files(file: _File, number: int, depth: int) -> Iterator[InboundFile]:
    """The file; of a mail its text and its files."""
    named = (_as_text(file.properties.get(name, "")) for name in (_LONG_NAME, _SHORT_NAME, _DISPLAY_NAME))
    name = next(filter(None, named), "") or file.title
    data = file.properties.get(_DATA, b"")
    data = file.data or (data if isinstance(data, bytes) else b"")
    if data.startswith(_MAIL_INTERFACE) and (mail := unpacked(data[16:], depth=depth + 1)):
        text, ending = (mail.text, ".txt") if mail.text else (mail.html, ".html")
        if text:
            yield InboundFile(
                f"{name or f'mail-{number}'}{ending}", f"text/{'plain' if mail.text else 'html'}", text.encode()
            )
        yield from mail.files
        return
    media_type = _as_text(file.properties.get(_MEDIA_TYPE, "")) or "application/octet-stream"
    yield InboundFile(name or f"file-{number}", media_type, data)


def _as_text(value: bytes | str) -> str:
    """A property that is a text or a number, as text; empty for other bytes."""
    if isinstance(value, str):
        return value
    return str(int.from_bytes(value, "little")) if len(value) == 4 else ""
