"""What a mail in its raw form (RFC 5322, MIME) holds: its headers, its text, its files, however broken it is.

Read with the older of the library's policies: the newer one parses each header when it is looked at, and some that
are on their way in the world make it raise, or think for seconds.
"""

import codecs
import mimetypes
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from email.parser import BytesParser
from email.policy import Compat32
from email.utils import parsedate_to_datetime
from encodings.aliases import aliases

from app.providers.base import InboundFile

#: As for forms, more parts than any sender has reason for; each costs a kilobyte, however little it holds.
MOST_PARTS = 5_000
MOST_HEADERS = 50_000
#: No header that is looked at here has reason to be longer; some are costly to read.
_LONGEST_HEADER = 4_000
_FOLD = re.compile(r"\r?\n[ \t]*")
_COLON_IN_ZONE = re.compile(r"([+-]\d\d):(\d\d)$")  # as Postmark writes it
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
#: Only these are looked up: Python remembers for ever what it was asked for in vain.
_CHARSETS = {*aliases, *aliases.values(), "utf_8_sig"}
#: Codecs that are no charsets of mail: they take quadratic time, or make of bytes what was never text.
_NO_CHARSETS = {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"}
#: What mail says that it is, and what it then really is (WHATWG Encoding).
_REALLY = {"iso8859-1": "cp1252", "ascii": "utf-8", "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932"}
_OLDEST, _NEWEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2101, 1, 1, tzinfo=UTC)

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class MailParts:
    """A mail, decoded. `headers` are as they came, in order; `text` and `html` are empty where there is none."""

    headers: Headers = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    files: list[InboundFile]


def read_mail(raw: bytes) -> MailParts:
    """A mail in its raw form. Raises `ValueError` for one with more parts, or more levels, than can be read."""
    try:
        mail = BytesParser(_counting(), policy=_AS_IT_CAME).parsebytes(raw)
        leaves = list(_leaves(mail))
        texts = [_text(part) for part in leaves if _is_text(part, "plain")]
        htmls = [_text(part) for part in leaves if _is_text(part, "html")]
        files = [_file(part, number) for number, part in enumerate(_files(leaves), 1)]
    except RecursionError:
        raise ValueError("The mail is nested too deeply.") from None
    return MailParts(list(mail.raw_items()), "\n".join(texts), "\n".join(htmls), files)


def read_headers(raw: bytes) -> Headers:
    """The headers of a mail, as they came."""
    return list(BytesParser(_counting(), policy=_AS_IT_CAME).parsebytes(raw, headersonly=True).raw_items())


def header(headers: Headers, name: str) -> str:
    """The first header of this name, in one line and decoded; empty where there is none."""
    return next((decoded(value) for known, value in headers if known.lower() == name), "")


def decoded(value: str) -> str:
    """A header's value in one line, its encoded words (RFC 2047) and bare bytes read, whatever they are."""
    value = _FOLD.sub(" ", value[:_LONGEST_HEADER]).replace("\x00", "\ufffd")
    if not value.isascii():
        value = text_of(value.encode("utf-8", "surrogateescape"), "utf-8")
    if "=?" not in value:
        return value.strip()
    try:
        pieces = decode_header(value)
    except (HeaderParseError, ValueError):
        return value.strip()
    return "".join(
        piece if isinstance(piece, str) else text_of(piece, charset or "utf-8") for piece, charset in pieces
    ).strip()


def text_of(content: bytes, charset: str | None) -> str:
    """Bytes as text that can be stored, in the charset that they say or the one that they are; nothing raises."""
    for name in (charset or "utf-8", "utf-8"):
        if name.lower().replace("-", "_") not in _CHARSETS:
            continue
        try:
            known = codecs.lookup(name).name
            if known not in _NO_CHARSETS:
                return storable(content.decode(_REALLY.get(known, known)))
        except (LookupError, ValueError):
            continue
    return storable(content.decode("cp1252", "replace"))


def storable(text: str) -> str:
    """A text with the sign for lost characters in place of those that PostgreSQL can't keep, and LF as line end."""
    return _UNSTORABLE.sub("\ufffd", text.replace("\r\n", "\n"))


def time_of(value: str) -> datetime | None:
    """The time of a Date header, in UTC; None for what isn't one, or is no time that can be kept."""
    try:
        moment = parsedate_to_datetime(_COLON_IN_ZONE.sub(r"\1\2", value))
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if _OLDEST <= moment < _NEWEST else None


class _AsItCame(Compat32):
    """Headers are given back as they are, bytes that are no ASCII as surrogates, none of them longer than needed."""

    def header_fetch_parse(self, name: str, value: str) -> str:
        return value[:_LONGEST_HEADER]


_AS_IT_CAME = _AsItCame()


def _counting() -> type[Message]:
    """A class of messages of which there can't be too many, nor too many headers in all."""
    made = said = 0

    class Part(Message):
        def __init__(self, *arguments: object, **options: object) -> None:
            nonlocal made
            made += 1
            if made > MOST_PARTS:
                raise ValueError(f"The mail has more than {MOST_PARTS} parts.")
            super().__init__(*arguments, **options)  # type: ignore[arg-type]

        def set_raw(self, name: str, value: str) -> None:
            nonlocal said
            said += 1
            if said > MOST_HEADERS:
                raise ValueError(f"The mail has more than {MOST_HEADERS} headers.")
            super().set_raw(name, value)

    return Part


def _leaves(part: Message) -> Iterator[Message]:
    """The parts that hold something, in order; of alternatives the text that is plain, with the files of all."""
    if part.get_content_maintype() != "multipart" or not part.is_multipart():
        yield part
        return
    children = [list(_leaves(child)) for child in part.get_payload() if isinstance(child, Message)]
    chosen = _best(children) if part.get_content_subtype() == "alternative" else None
    for leaves in children:
        yield from (leaf for leaf in leaves if chosen is None or leaves is chosen or not _is_any_text(leaf))


def _best(alternatives: list[list[Message]]) -> list[Message] | None:
    """The first with plain text in it, or the last with any: it is meant to be the richest (RFC 2046, 5.1.4)."""
    for leaves in alternatives:
        if any(_is_text(leaf, "plain") and _text(leaf).strip() for leaf in leaves):
            return leaves
    return next((leaves for leaves in reversed(alternatives) if any(map(_is_any_text, leaves))), None)


def _is_text(part: Message, subtype: str) -> bool:
    """Whether it is of the words of the mail, not a file that happens to be a text."""
    return (
        part.get_content_type() == f"text/{subtype}"
        and part.get_content_disposition() != "attachment"
        and not _file_name(part)
    )


def _is_any_text(part: Message) -> bool:
    return _is_text(part, "plain") or _is_text(part, "html")


def _files(leaves: list[Message]) -> Iterator[Message]:
    return (leaf for leaf in leaves if not _is_any_text(leaf))


def _text(part: Message) -> str:
    return text_of(_content(part), _understood(part.get_content_charset))


def _file_name(part: Message) -> str:
    return _understood(part.get_filename) or ""


def _understood(read: Callable[[], str | None]) -> str | None:
    """What the library reads of a parameter; None where it trips over the name of a charset in it (RFC 2231)."""
    try:
        return read()
    except (ValueError, LookupError):
        return None


def _content(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _file(part: Message, number: int) -> InboundFile:
    name, content_type = decoded(_file_name(part)), part.get_content_type()
    if part.is_multipart():  # a mail in a mail, or what a mail server reports
        content = b"\n".join(_written(child) for child in part.get_payload() if isinstance(child, Message))
    else:
        content = _content(part)
    return InboundFile(name or f"file-{number}{mimetypes.guess_extension(content_type) or ''}", content_type, content)


def _written(mail: Message) -> bytes:
    """A mail in its raw form again."""
    try:
        return mail.as_bytes()
    except UnicodeEncodeError:  # of a part that has bytes where there can't be any, the library makes a text
        return mail.as_string().encode("utf-8", "surrogateescape")
