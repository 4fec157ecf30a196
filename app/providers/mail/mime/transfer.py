"""Content of a part without its transfer encoding (RFC 2045, 6), however broken it is. Nothing here raises."""

import binascii
import re
from typing import NamedTuple

_ENCODING = re.compile(r"(?:\s*\([^()]*\))*[\s\"']*([\w-]+)")  # a comment may come first
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NOT_BASE64 = bytes(sorted({*range(256)} - {*_BASE64, ord("=")}))
_PADDING = re.compile(rb"=+")
_SOFT_BREAK = re.compile(rb"=[ \t]+(?=\r?\n)")
_UU_BEGIN = re.compile(rb"^begin(?:-base64)? [0-7]{3,4} ([^\r\n]{1,255})\r?\n", re.MULTILINE)
_UU_END = re.compile(rb"^end[ \t]*\r?(?:\n|\Z)", re.MULTILINE)
_MOST_PADDING = 20_000  #: more are no ends of blocks
_MOST_UU_FILES = 100


class UuFile(NamedTuple):
    """A file in a text, and the place of its lines there."""

    name: bytes
    content: bytes
    start: int
    end: int


def without_transfer_encoding(content: bytes, encoding: str) -> bytes:
    """The content by the raw value of Content-Transfer-Encoding. An unknown encoding is none."""
    name = _ENCODING.match(encoding.lower())
    match re.sub("[-_]", "", name[1]).removeprefix("x") if name else "":
        case "base64" | "b64":
            return _from_base64(content)
        case "quotedprintable":
            return binascii.a2b_qp(_SOFT_BREAK.sub(b"=", content))
        case "uuencode" | "uue":
            files = uu_files(content)
            return files[0].content if files else content
    return content


def uu_files(content: bytes) -> list[UuFile]:
    """The files that a text holds between lines `begin` and `end`."""
    found: list[UuFile] = []
    place = 0
    while len(found) < _MOST_UU_FILES and (begin := _UU_BEGIN.search(content, place)):
        end = _UU_END.search(content, begin.end())
        if end is None:
            break
        place = begin.end()
        decoded = _from_uu(content[begin.end() : end.start()])
        if decoded is not None:
            found.append(UuFile(begin[1].strip(), decoded, begin.start(), end.end()))
            place = end.end()
    return found


def _from_base64(content: bytes) -> bytes:
    """All blocks, each up to its padding. A list's footer below a blank line is no base64."""
    lines = content.strip().translate(None, b" \t\r")
    if lines.translate(None, _BASE64 + b"\n="):
        lines = _without_footer(lines)
    letters = lines.translate(None, _NOT_BASE64)
    has_few = letters.count(b"=") <= _MOST_PADDING
    blocks = _PADDING.split(letters) if has_few else [letters.replace(b"=", b"")]
    return b"".join(map(_block, blocks))


def _without_footer(lines: bytes) -> bytes:
    """The lines up to a blank one that anything else follows than base64."""
    kept: list[bytes] = []
    is_after_blank = False
    for line in lines.split(b"\n"):
        if is_after_blank and line.translate(None, _BASE64 + b"="):
            break
        is_after_blank = is_after_blank or not line
        kept.append(line)
    return b"\n".join(kept)


def _block(letters: bytes) -> bytes:
    """The bytes of letters without padding. A single letter at the end says nothing."""
    letters = letters[:-1] if len(letters) % 4 == 1 else letters
    return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))


def _from_uu(lines: bytes) -> bytes | None:
    """The bytes of uuencoded lines; None if a line is something else, or none has any."""
    pieces: list[bytes] = []
    for line in lines.splitlines():
        line = line.rstrip(b"\r\n")
        length = (line[0] - 32) & 63 if line else 0
        if length == 0:
            continue
        if not 32 < line[0] <= 96:
            return None
        needed = (length + 2) // 3 * 4 + 1
        if len(line) < needed - 4:
            return None
        try:
            pieces.append(binascii.a2b_uu(line[:needed].ljust(needed)))
        except ValueError:
            return None
    return b"".join(pieces) or None
