"""A mail in its raw form (RFC 5322, MIME), decoded into headers, text and files, however broken it is.

It uses the older of the library's policies. The newer one parses each header on access, and some real headers make it
raise or take seconds.
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

from app.db.sanitize import storable_text
from app.domain import is_possible_date
from app.providers.base import InboundFile

#: As for forms, more parts than any sender needs. Each costs at least a kilobyte.
MOST_PARTS = 5_000
MOST_HEADERS = 50_000
#: More than any header needs here. Some are costly to read.
_LONGEST_HEADER = 4_000
_FOLD = re.compile(r"\r?\n[ \t]*")
_COLON_IN_ZONE = re.compile(r"([+-]\d\d):(\d\d)$")  # as Postmark writes it
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
MESSAGE_ID = re.compile(r"<[!-;=?-~]+>")
#: Only these are looked up, because Python caches every failed look-up forever.
_CHARSETS = {*aliases, *aliases.values(), "utf_8_sig"}
#: Codecs that are no charsets of mail: they take quadratic time, or decode what was never text.
_NO_CHARSETS = {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"}
#: Declared charsets and the real ones (WHATWG Encoding).
_REALLY = {"iso8859-1": "cp1252", "ascii": "utf-8", "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932"}

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class MailParts:
    """A decoded mail. `headers` are unchanged and in order; `text` and `html` may be empty."""

    headers: Headers = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    files: list[InboundFile]


def read_mail(raw: bytes) -> MailParts:
    """Decode a raw mail. Raises `ValueError` for one with too many parts, headers or levels."""
    try:
        mail = BytesParser(_counting(), policy=_AS_IT_CAME).parsebytes(raw)
        leaves = list(_leaves(mail))
        texts = [_text(part) for part in leaves if _is_text(part, "plain")]
        htmls = [_text(part) for part in leaves if _is_text(part, "html")]
        others = (part for part in leaves if not _is_any_text(part))
        files = [_file(part, number) for number, part in enumerate(others, 1)]
    except RecursionError:
        raise ValueError("The mail is nested too deeply.") from None
    return MailParts(list(mail.raw_items()), "\n".join(texts), "\n".join(htmls), files)


def read_headers(raw: bytes) -> Headers:
    """The headers of a raw mail, unchanged."""
    return list(BytesParser(_counting(), policy=_AS_IT_CAME).parsebytes(raw, headersonly=True).raw_items())


def header(headers: Headers, name: str) -> str:
    """The first header of this name (in lower case), decoded and in one line; empty if there is none."""
    return next((decoded(value) for known, value in headers if known.lower() == name), "")


def decoded(value: str) -> str:
    """A header's value in one line, with encoded words (RFC 2047) and bare bytes decoded. Never raises."""
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
    """Bytes as text that can be stored, by their declared charset or else their likely one. Never raises."""
    for name in (charset or "utf-8", "utf-8"):
        if name.lower().replace("-", "_") not in _CHARSETS:
            continue
        try:
            known = codecs.lookup(name).name
            if known not in _NO_CHARSETS:
                return clean_text(content.decode(_REALLY.get(known, known)))
        except (LookupError, ValueError):
            continue
    return clean_text(content.decode("cp1252", "replace"))


def clean_text(text: str) -> str:
    """A text that PostgreSQL can store, with LF as line end."""
    return storable_text(text.replace("\r\n", "\n"))


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


class _AsItCame(Compat32):
    """A policy that leaves headers unchanged but for their length. Bytes beyond ASCII become surrogates."""

    def header_fetch_parse(self, name: str, value: str) -> str:
        return value[:_LONGEST_HEADER]


_AS_IT_CAME = _AsItCame()


def _counting() -> type[Message]:
    """A class of message that limits the number of its instances and of their headers."""
    parts = headers = 0

    class Part(Message):
        def __init__(self, *arguments: object, **options: object) -> None:
            nonlocal parts
            parts += 1
            if parts > MOST_PARTS:
                raise ValueError(f"The mail has more than {MOST_PARTS} parts.")
            super().__init__(*arguments, **options)  # type: ignore[arg-type]

        def set_raw(self, name: str, value: str) -> None:
            nonlocal headers
            headers += 1
            if headers > MOST_HEADERS:
                raise ValueError(f"The mail has more than {MOST_HEADERS} headers.")
            super().set_raw(name, value)

    return Part


def _leaves(part: Message) -> Iterator[Message]:
    """The parts without parts of their own, in order. Of alternatives: the best text, and the files of all."""
    if part.get_content_maintype() != "multipart" or not part.is_multipart():
        yield part
        return
    children = [list(_leaves(child)) for child in part.get_payload() if isinstance(child, Message)]
    chosen = _best(children) if part.get_content_subtype() == "alternative" else None
    for leaves in children:
        yield from (leaf for leaf in leaves if chosen is None or leaves is chosen or not _is_any_text(leaf))


def _best(alternatives: list[list[Message]]) -> list[Message] | None:
    """The first with plain text, or the last with any text, which is meant to be the richest (RFC 2046, 5.1.4)."""
    for leaves in alternatives:
        if any(_is_text(leaf, "plain") and _text(leaf).strip() for leaf in leaves):
            return leaves
    return next((leaves for leaves in reversed(alternatives) if any(map(_is_any_text, leaves))), None)


def _is_text(part: Message, subtype: str) -> bool:
    """Return True for the mail's own text, False for a file that happens to be a text."""
    return (
        part.get_content_type() == f"text/{subtype}"
        and part.get_content_disposition() != "attachment"
        and not _file_name(part)
    )


def _is_any_text(part: Message) -> bool:
    return _is_text(part, "plain") or _is_text(part, "html")


def _text(part: Message) -> str:
    return text_of(_content(part), _understood(part.get_content_charset))


def _file_name(part: Message) -> str:
    return _understood(part.get_filename) or ""


def _understood(read: Callable[[], str | None]) -> str | None:
    """A parameter as the library reads it; None if it fails on a charset's name in it (RFC 2231)."""
    try:
        return read()
    except (ValueError, LookupError):
        return None


def _content(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _file(part: Message, number: int) -> InboundFile:
    name, content_type = decoded(_file_name(part)), part.get_content_type()
    if part.is_multipart():  # a mail in a mail, or a mail server's report
        content = b"\n".join(_written(child) for child in part.get_payload() if isinstance(child, Message))
    else:
        content = _content(part)
    return InboundFile(name or f"file-{number}{mimetypes.guess_extension(content_type) or ''}", content_type, content)


def _written(mail: Message) -> bytes:
    """A mail in its raw form again."""
    try:
        return mail.as_bytes()
    except UnicodeEncodeError:  # the library decodes a part with unexpected bytes as text
        return mail.as_string().encode("utf-8", "surrogateescape")
