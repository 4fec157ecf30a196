"""A mail in its raw form (RFC 5322, MIME), decoded into headers, text and files, however broken it is."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.providers.base import InboundFile
from app.providers.mail.mime.bodies import Body, in_order, is_about_html, text_of_other
from app.providers.mail.mime.charset_names import codec_of
from app.providers.mail.mime.charsets import html_of, text_of
from app.providers.mail.mime.file_endings import ENDINGS
from app.providers.mail.mime.flowed import unflowed
from app.providers.mail.mime.headers import Headers, readable
from app.providers.mail.mime.structure import Part, parsed
from app.providers.mail.mime.tnef import is_tnef, unpacked
from app.providers.mail.mime.transfer import uu_files

#: Forms of a text that are no files: AMP for Email and Apple Watch, whose content another form has as well.
_OTHER_FORMS = {"text/x-amp-html", "text/watch-html"}
#: Parts that are looked at for a text if there is no other.
_MOST_OTHERS = 5
_LONGEST_LOOKED_AT = 4_000
#: Characters. More of a text are not shown.
_LONGEST_FLOWED = 500_000
#: Bytes of a text that show if it has words.
_MOST_TO_JUDGE = 50_000
_CHARSET_IN_WORD = re.compile(r"=\?([^?\s]{1,80})\?[bq]\?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class MailParts:
    """A decoded mail. `headers` are in order, with encoded words and folds; `text` and `html` may be empty."""

    headers: Headers = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    files: list[InboundFile]


def read_mail(raw: bytes) -> MailParts:
    """Decode a raw mail. Never raises: a part that can't be read costs no other part.

    Parts beyond `MOST_PARTS` belong to the last one, and a part deeper than `DEEPEST` stays one file.
    """
    mail = parsed(raw)
    leaves = list(_leaves(mail))
    likely = _stated_charset(mail, leaves)
    bodies = [_body(leaf, likely) for leaf in leaves if _is_body(leaf)]
    files = [file for body in bodies for file in body.files]
    others = [leaf for leaf in leaves if not _is_body(leaf)]
    if not bodies:
        bodies = [Body(text_of_other(leaf.content_type, _text(leaf, likely)), "") for leaf in others[:_MOST_OTHERS]]
    files += [_file(leaf, number) for number, leaf in enumerate(others, len(files) + 1)]
    headers = [(name, readable(value, likely)) for name, value in mail.headers]
    text, html, too_long = in_order(bodies)
    return MailParts(headers, text, html, files + too_long)


def read_headers(raw: bytes) -> Headers:
    """The headers of a raw mail, with bare bytes decoded and otherwise unchanged."""
    return [(name, readable(value)) for name, value in parsed(raw).headers]


def without_containers(mail: MailParts) -> MailParts:
    """The mail with the files in each winmail.dat in its place, and its text if the mail has no other."""
    text, html = mail.text, mail.html
    files: list[InboundFile] = []
    for file in mail.files:
        inner = unpacked(file.content) if is_tnef(file.content) else None
        files += [file] if inner is None else inner.files
        if inner and not text.strip() and not html.strip():
            text, html = inner.text, inner.html
    return MailParts(mail.headers, text, html, files)


def _leaves(part: Part) -> Iterator[Part]:
    """The parts without parts of their own, in order. Of alternatives: the best text, and the files of all."""
    if not part.parts:
        yield part
        return
    children = [list(_leaves(child)) for child in part.parts]
    chosen = _best(children) if part.content_type == "multipart/alternative" else None
    for leaves in children:
        yield from (leaf for leaf in leaves if chosen is None or leaves is chosen or not _is_form_of_text(leaf))


def _best(alternatives: list[list[Part]]) -> list[Part] | None:
    """The first with plain text, or the last with any text, which is meant to be the richest (RFC 2046, 5.1.4)."""
    richest = next((leaves for leaves in reversed(alternatives) if any(map(_is_body, leaves))), None)
    for leaves in alternatives:
        plain = "".join(_text(leaf, None, _MOST_TO_JUDGE) for leaf in leaves if _is_body(leaf, "text/plain")).strip()
        if plain and not (leaves is not richest and is_about_html(plain)):
            return leaves
    return richest


def _is_body(part: Part, *types: str) -> bool:
    """Return True for the mail's own text, False for a file that happens to be a text."""
    is_text = part.content_type in (types or ("text/plain", "text/html"))
    return is_text and part.disposition.main != "attachment" and not part.file_name


def _is_form_of_text(part: Part) -> bool:
    return _is_body(part, "text/plain", "text/html", *_OTHER_FORMS)


def _stated_charset(mail: Part, leaves: list[Part]) -> str | None:
    """The first charset that a text or an encoded word of the mail states; None without one."""
    stated = (leaf.type.named.get("charset") for leaf in leaves if _is_body(leaf))
    words = (found[1] for _, value in mail.headers if (found := _CHARSET_IN_WORD.search(value[:_LONGEST_LOOKED_AT])))
    return next((charset for charset in (*stated, *words) if codec_of(charset)), None)


def _body(part: Part, likely: str | None) -> Body:
    if part.content_type == "text/html":
        return Body("", _text(part, likely))
    content = part.content
    files: list[InboundFile] = []
    for file in reversed(uu_files(content)):
        content = content[: file.start] + content[file.end :]
        name = text_of(file.name, part.type.named.get("charset"), likely)
        files.insert(0, InboundFile(name, "application/octet-stream", file.content))
    text = text_of(content, part.type.named.get("charset"), likely)
    if part.type.named.get("format", "").lower() == "flowed":
        delete_space = part.type.named.get("delsp", "").lower() == "yes"
        text = unflowed(text[:_LONGEST_FLOWED], delete_space=delete_space) + text[_LONGEST_FLOWED:]
    return Body(text, "", files)


def _text(part: Part, likely: str | None, most: int | None = None) -> str:
    read = html_of if part.content_type == "text/html" else text_of
    return read(part.content[:most], part.type.named.get("charset"), likely)


def _file(part: Part, number: int) -> InboundFile:
    name = part.file_name or f"file-{number}{ENDINGS.get(part.content_type, '')}"
    return InboundFile(name, part.content_type, part.content)
