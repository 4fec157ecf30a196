"""Headers of a mail: their names and raw values, and the values as people read them (RFC 5322, RFC 2047)."""

import binascii
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from app.domain import is_possible_date
from app.providers.mail.mime.charsets import text_of

#: More than any header needs that people read.
_LONGEST_HEADER = 4_000
_FOLD = re.compile(r"\r?\n[ \t]*")
_WORD = re.compile(r"=\?([^?\s]{1,80})\?([bq])\?(.*?)\?=", re.IGNORECASE | re.DOTALL)
_LETTER = re.compile(r"[A-Za-z0-9]")
_HEX = re.compile(rb"=([0-9a-f]{2})", re.IGNORECASE)
_NOT_IN_BASE64 = re.compile(r"[^A-Za-z0-9+/]+")
_COLON_IN_ZONE = re.compile(r"([+-]\d\d):(\d\d)$")  # as Postmark writes it
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
MESSAGE_ID = re.compile(r"<[!-;=?-~]+>")

Headers = Sequence[tuple[str, str]]


def header(headers: Headers, name: str) -> str:
    """The first header of this name (in lower case), decoded and in one line; empty if there is none."""
    return decoded(raw_header(headers, name))


def raw_header(headers: Headers, name: str) -> str:
    """The first header of this name (in lower case), unchanged; empty if there is none."""
    return next((value for known, value in headers if known.lower() == name), "")


def decoded(value: str) -> str:
    """A header's value in one line, with encoded words (RFC 2047) and bare bytes decoded. Never raises."""
    value = _FOLD.sub(" ", readable(value[:_LONGEST_HEADER]))
    if "=?" in value:
        value = "".join(_pieces(value))
    return value.replace("\x00", "\ufffd").strip()


def readable(value: str, likely: str | None = None) -> str:
    """A raw value with its bare bytes, which are surrogates, and escapes decoded. Encoded words stay."""
    if value.isascii() and "\x1b" not in value:
        return value
    return text_of(value.encode("utf-8", "surrogateescape"), None, likely)


def one_line(text: str) -> str:
    """A text without control characters, which could end a header line."""
    return _CONTROL.sub(" ", text)


def time_of(value: str) -> datetime | None:
    """The time of a Date header, in UTC; None for an unreadable or impossible one."""
    try:
        moment = parsedate_to_datetime(_COLON_IN_ZONE.sub(r"\1\2", value))
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if is_possible_date(moment) else None


def _pieces(value: str) -> Iterator[str]:
    """The texts between encoded words, and those of the words. Neighbours in one charset are one text."""
    place = 0
    charset = ""
    words: list[re.Match[str]] = []
    for word in _WORD.finditer(value):
        between = value[place : word.start()]
        is_apart = place == 0 or between.strip() != ""
        name = word[1].partition("*")[0].lower()  # a language may follow (RFC 2231, 5)
        if is_apart or name != charset:
            yield _text_of_words(words, charset)
            words, charset = [], name
        if is_apart:
            yield between
        words.append(word)
        place = word.end()
    yield _text_of_words(words, charset)
    yield value[place:]


def _text_of_words(words: Sequence[re.Match[str]], charset: str) -> str:
    """The text of encoded words whose characters and base64 may continue from word to word."""
    content, rest = b"", ""
    for word in words:
        if word[2] in "bB":
            letters = rest + _NOT_IN_BASE64.sub("", word[3])
            is_open = "=" not in word[3] and word is not words[-1]
            whole = len(letters) - len(letters) % 4 if is_open else len(letters)
            content += _from_base64(letters[:whole])
            rest = letters[whole:]
        else:
            content += _from_base64(rest) + _from_quoted(word[3])
            rest = ""
    return text_of(content, charset) if content else "".join(word[0] for word in words if _LETTER.search(word[3]))


def _from_base64(letters: str) -> bytes:
    """The bytes of base64 letters. A single letter at the end says nothing."""
    letters = letters[:-1] if len(letters) % 4 == 1 else letters
    return binascii.a2b_base64(letters + "=" * (-len(letters) % 4))


def _from_quoted(written: str) -> bytes:
    return _HEX.sub(lambda found: bytes([int(found[1], 16)]), written.replace("_", " ").encode("utf-8", "replace"))
