"""Rich text as Outlook sends it: compressed, often with the HTML that it was made of (MS-OXRTFCP, MS-OXRTFEX)."""

import re
from typing import NamedTuple

from compressed_rtf import decompress

from app.providers.mail.mime.charsets import clean_text, text_of

#: Bytes. Decompressing takes a second for a megabyte of them.
_LARGEST = 300_000
_TOKEN = re.compile(
    r"\\(?:(?P<word>[a-z]{1,32})(?P<number>-?\d{1,10})? ?|'(?P<hex>[0-9a-f]{2})|(?P<symbol>[^a-z]))"
    r"|(?P<brace>[{}])|[\r\n]+|(?P<text>[^\\{}\r\n]+)",
    re.IGNORECASE,
)
#: Groups that are no text. All others that can be ignored begin with `\*`.
_HIDDEN = {"fonttbl", "colortbl", "stylesheet", "info", "pict", "header", "footer", "object", "fldinst"}
_CHARACTERS = {
    "par": "\n",
    "line": "\n",
    "row": "\n",
    "cell": " ",
    "tab": "\t",
    "emdash": "\u2014",
    "endash": "\u2013",
    "bullet": "\u2022",
    "lquote": "\u2018",
    "rquote": "\u2019",
    "ldblquote": "\u201c",
    "rdblquote": "\u201d",
}
_SYMBOLS = {"~": "\xa0", "_": "-", "{": "{", "}": "}", "\\": "\\", "\n": "\n", "\r": "\n"}


class Rtf(NamedTuple):
    """The text of a document. It is HTML if the document was made of HTML."""

    text: str
    is_html: bool


def read_compressed_rtf(content: bytes) -> Rtf:
    """The text of compressed rich text; empty for what is broken or too large."""
    if len(content) > _LARGEST:
        return Rtf("", False)
    try:
        return read_rtf(decompress(content).decode("latin-1").replace("\0", ""))
    except Exception:  # the library raises it by that name
        return Rtf("", False)


def read_rtf(source: str) -> Rtf:
    """The text of rich text, whose characters are bytes. Never raises, and takes linear time."""
    is_html = "\\fromhtml1" in source[:500]
    return Rtf(_Reader(is_html).text(source), is_html)


class _Reader:
    def __init__(self, is_html: bool) -> None:
        self._is_html = is_html
        self._charset = "cp1252"
        self._hidden = self._is_rtf_only = False
        self._may_ignore = False
        self._skipped = 1  # characters that stand for a Unicode one in programs that know none
        self._to_skip = 0
        self._groups: list[tuple[bool, bool, int]] = []
        self._bytes = bytearray()
        self._pieces: list[str] = []

    def text(self, source: str) -> str:
        for token in _TOKEN.finditer(source):
            kind = token.lastgroup
            if kind == "brace":
                self._brace(token[0])
            elif token["word"]:
                self._word(token["word"], int(token["number"]) if token["number"] else None)
            elif kind == "hex":
                self._characters(bytes([int(token["hex"], 16)]))
            elif kind == "symbol":
                self._symbol(token["symbol"])
            elif kind == "text":
                self._characters(token["text"].encode("latin-1"))
        self._flush()
        halves = "".join(self._pieces).encode("utf-16-le", "surrogatepass")
        return clean_text(halves.decode("utf-16-le", "replace"))

    def _brace(self, brace: str) -> None:
        self._to_skip = 0
        if brace == "{":
            self._groups.append((self._hidden, self._is_rtf_only, self._skipped))
        elif self._groups:
            self._hidden, self._is_rtf_only, self._skipped = self._groups.pop()

    def _symbol(self, symbol: str) -> None:
        if symbol == "*":
            self._may_ignore = True
        elif symbol in _SYMBOLS:
            self._add(_SYMBOLS[symbol])

    def _word(self, word: str, number: int | None) -> None:
        may_ignore, self._may_ignore = self._may_ignore, False
        if word == "htmltag":
            self._hidden = not self._is_html
        elif word == "htmlrtf":
            self._is_rtf_only = self._is_html and number != 0
        elif may_ignore or word in _HIDDEN:
            self._hidden = True
        elif word == "ansicpg":
            self._charset = str(number)
        elif word == "uc":
            self._skipped = max(0, min(number or 0, 100))
        elif word == "u" and number is not None:
            self._add(chr(number % 0x10000))
            self._to_skip = self._skipped
        elif word in _CHARACTERS:
            self._add(_CHARACTERS[word])

    def _characters(self, content: bytes) -> None:
        skipped = min(self._to_skip, len(content))
        self._to_skip -= skipped
        if not self._hidden and not self._is_rtf_only:
            self._bytes += content[skipped:]

    def _add(self, text: str) -> None:
        if not self._hidden and not self._is_rtf_only:
            self._flush()
            self._pieces.append(text)

    def _flush(self) -> None:
        if self._bytes:
            self._pieces.append(text_of(bytes(self._bytes), self._charset))
            self._bytes.clear()
