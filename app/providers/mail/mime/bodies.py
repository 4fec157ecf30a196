"""The text of a mail that is made of several parts, or of parts that are no usual text."""

import re
from dataclasses import dataclass, field

from app.providers.base import InboundFile
from app.providers.mail.html_source import text_of_html

#: Characters of all parts together. Reading HTML takes some seconds for a megabyte.
_LONGEST_HTML = 250_000
_LONGEST_COMPARED = 100_000
_LONGEST_NOTICE = 400
#: "Your mail client does not support HTML": says that the text is in another form.
_NOTICE = re.compile(
    r"(?=.*\bhtml\b).*\b(?:support|view|display|client|reader|enable|capable|browser|unterstütz|anzeig|darstell|compatible|"
    r"afficher|formato|visuali[sz])",
    re.IGNORECASE | re.DOTALL,
)
_TAG = re.compile(r"<[^<>\s]{1,60}>")
_FOLDED = re.compile(r"\n[ \t]")
_PROPERTY = re.compile(r"(SUMMARY|DTSTART|DTEND|LOCATION|DESCRIPTION)((?:;[^\n:]{0,200})?):(.*)", re.IGNORECASE)
_MOMENT = re.compile(r"(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)\d\d(Z?))?$")
_ZONE = re.compile(r";TZID=\"?([^;:\"]{1,80})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Body:
    """A part that is text, plain or HTML, and the files that were written into it."""

    text: str
    html: str
    files: list[InboundFile] = field(default_factory=list)


def in_order(bodies: list[Body]) -> tuple[str, str, list[InboundFile]]:
    """The plain text and the HTML of all parts. Where some are plain and others HTML, all are one plain text.

    Of HTML that is too long to be read as text, the whole is a file.
    """
    shown = [body for body in bodies if (body.text or body.html).strip()]
    if not all(body.text for body in shown) and not all(body.html for body in shown):
        texts: list[str] = []
        files: list[InboundFile] = []
        room = _LONGEST_HTML
        for body in shown:
            texts.append(body.text or text_of_html(body.html[:room], mark_quotes=True))
            if len(body.html) > room:
                files.append(InboundFile("message.html", "text/html", body.html.encode()))
            room = max(0, room - len(body.html))
        is_repeated = len(texts) == 2 and _letters(texts[0]) == _letters(texts[1])
        return "\n".join(texts[:1] if is_repeated else texts), "", files
    text = "\n".join(body.text for body in shown if body.text)
    return text, "\n".join(body.html for body in shown if body.html), []


def is_about_html(text: str) -> bool:
    """Return True for a text that only says that the mail is in HTML."""
    return len(text) <= _LONGEST_NOTICE and _NOTICE.match(text) is not None


def text_of_other(content_type: str, text: str) -> str:
    """A text in another format, for a mail without a usual one; empty for formats that people can't read."""
    match content_type:
        case "text/markdown" | "text/x-markdown":
            return text
        case "text/enriched" | "text/richtext":
            return re.sub(r"\n(\n*)", r"\1", _TAG.sub("", text.replace("<<", "\0"))).replace("\0", "<")
        case "text/calendar":
            return _text_of_event(text)
    return ""


def _text_of_event(calendar: str) -> str:
    """The first event of an invitation (RFC 5545): its subject, time, place and description."""
    _, _, event = _FOLDED.sub("", calendar[:_LONGEST_COMPARED]).partition("BEGIN:VEVENT")
    found: dict[str, str] = {}
    for line in event.partition("END:VEVENT")[0].split("\n"):
        if written := _PROPERTY.match(line):
            name = written[1].upper()
            found.setdefault(
                name, _moment(written[3], written[2]) if name.startswith("DT") else _unescaped(written[3])
            )
    time = " – ".join(found[name] for name in ("DTSTART", "DTEND") if found.get(name))  # noqa: RUF001
    return "\n".join(filter(None, (found.get("SUMMARY"), time, found.get("LOCATION"), found.get("DESCRIPTION"))))


def _moment(written: str, parameters: str) -> str:
    moment = _MOMENT.match(written.strip())
    if moment is None:
        return written.strip()
    day = f"{moment[1]}-{moment[2]}-{moment[3]}"
    zone = _ZONE.search(parameters)
    return (
        f"{day} {moment[4]}:{moment[5]} {'UTC' if moment[6] else zone[1] if zone else ''}".strip()
        if moment[4]
        else day
    )


def _unescaped(written: str) -> str:
    return re.sub(r"\\([nN,;\\])", lambda found: "\n" if found[1] in "nN" else found[1], written).strip()


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text[:_LONGEST_COMPARED]))
