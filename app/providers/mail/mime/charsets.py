"""Bytes of a mail as text: of bodies, headers, names of files, and the fields that vendors parsed.

A broken byte costs one character, and never the charset that was stated. Only bytes that can't be of that charset, or
of which none is known, are read as their likely one.
"""

import re

from app.db.statements.sanitize import storable_text
from app.providers.mail.mime.charset_names import codec_of
from app.providers.mail.mime.east_asian import DECODERS

_LOST = "\ufffd"
#: A text in ISO-2022-JP or -KR, by the escapes that begin it (RFC 1468, RFC 1557).
_ESCAPES = re.compile(rb"\x1b(?:\$[@B]|\$\([@BDOPQ]|\([IJ]|(\$\)C))")
_META = re.compile(
    rb"<(?:meta\b[^<>]{0,300}?\bcharset|\?xml\b[^<>]{0,100}?\bencoding)\s{0,9}=\s{0,9}[\"']?([\w.:-]{2,40})",
    re.IGNORECASE,
)
#: HTML states its charset near its beginning. Browsers look at fewer bytes, but mail programs put styles before it.
_HEAD = 8_192


def text_of(content: bytes, charset: str | None, likely: str | None = None) -> str:
    """Bytes as text that can be stored, by the charset that is stated for them. Never raises.

    `likely` is the charset of what is beside them. It counts where none is stated, and they are no UTF-8.
    """
    return clean_text(_decoded(content, codec_of(charset), codec_of(likely)).removeprefix("\ufeff"))


def html_of(content: bytes, charset: str | None, likely: str | None = None) -> str:
    """HTML as text that can be stored. The charset that it states for itself counts before that of its neighbours."""
    stated = _META.search(content, 0, _HEAD)
    return text_of(content, charset, stated[1].decode("ascii", "replace") if stated else likely)


def clean_text(text: str) -> str:
    """A text that PostgreSQL can store, with LF as line end."""
    return storable_text(text.replace("\r\n", "\n"))


def _decoded(content: bytes, codec: str | None, likely: str | None) -> str:
    if content.startswith(b"\xef\xbb\xbf"):
        return content.decode("utf-8", "replace")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) and codec in {None, "utf-8", "utf-16", "utf-16-be"}:
        return content.decode("utf-16", "replace")
    if codec in {None, "utf-8", "cp1252"} and (escape := _ESCAPES.search(content)):
        codec = "iso2022_kr" if escape[1] else "iso-2022-jp"
    if codec == "utf-16" and b"\0" not in content:
        codec = None  # no text in UTF-16 has a line without a zero
    if codec == "iso-2022-jp" and b"\x1b" not in content and not content.isascii():
        codec, likely = None, "cp932"  # this charset has neither
    if codec is None:
        return _likely(content, likely)
    if codec == "cp1252" and (text := _in_utf_8(content)) is not None:
        return text  # many programs state Latin-1 for everything, and no words in it are UTF-8 by chance
    text = _by(codec, content)
    if _LOST not in text:
        return text
    if codec == "utf-8":
        return text if _whole_characters(text) else _by(likely or "cp1252", content)
    return text if (other := _in_utf_8(content)) is None else other


def _by(codec: str, content: bytes) -> str:
    decode = DECODERS.get(codec)
    return decode(content) if decode else content.decode(codec, "replace")


def _likely(content: bytes, likely: str | None) -> str:
    text = _in_utf_8(content)
    if text is not None:
        return text
    if likely not in {None, "utf-8"}:
        return _by(likely, content)
    text = content.decode("utf-8", "replace")
    return text if _whole_characters(text) > text.count(_LOST) else _by("cp1252", content)


def _in_utf_8(content: bytes) -> str | None:
    try:
        return content.decode()
    except ValueError:
        return None


def _whole_characters(text: str) -> int:
    """The number of characters beyond ASCII that were decoded."""
    return len(text) - text.count(_LOST) - len(text.encode("ascii", "ignore"))
