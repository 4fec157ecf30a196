"""HTML of mails, read as plain text in time that is linear in its length.

The library's parser alone takes minutes for a megabyte of tags that begin and never end.
"""

import asyncio
import re
from html.parser import HTMLParser

#: The beginning of a document, or of a block element. A tag further on may be meant as it reads: `a <b> or <c>`.
_HTML = re.compile(
    r"(?:\s|\ufeff|<!--(?:[^-]|-(?!->))*-->|<\?xml[^<>]*>)*<(?:!doctype\s+html\b|"
    r"(?:html|head|body|address|article|aside|blockquote|center|div|dl|fieldset|figure|footer|form|h[1-6]|header|hr|main|"
    r"nav|ol|p|pre|section|table|ul)(?:\s[^<>]*)?/?>)",
    re.IGNORECASE,
)
#: Elements that are never shown. Each ends with its own end tag, and everything before that is no markup.
_HIDDEN = re.compile(r"(?:script|style|title|template|textarea|noscript|xmp|iframe)$", re.IGNORECASE)
_MARKUP = re.compile(
    r"<(?:(?P<comment>!--)|(?P<other>[!?])|(?P<end>/?)(?P<name>[a-z][a-z0-9:-]{0,30})"
    r"""(?P<attributes>(?:[\s/](?:[^<>"']|"[^"<]{0,4000}"|'[^'<]{0,4000}')*)?)>)""",
    re.IGNORECASE,
)
_LONGEST_ATTRIBUTES = 5_000
_BLOCKQUOTE = re.compile(r"<(/?)blockquote\b[^<>]*>", re.IGNORECASE)
#: Mark the beginning and the end of a quotation: private characters, which no mail needs.
_QUOTE_OPENS, _QUOTE_CLOSES = "\ue000", "\ue001"
_DEEPEST_QUOTE = 9
_LONG = 20_000  # characters


def looks_like_html(body: str) -> bool:
    """True for a text that is a document in HTML, or begins with a block element of it."""
    return _HTML.match(body) is not None


def text_of_html(html: str, *, mark_quotes: bool = False) -> str:
    """HTML as plain text. Paragraphs, lists and the addresses of links are kept.

    With `mark_quotes`, the lines of a `blockquote` begin with `>`, as quoted lines of a plain text do.
    """
    if not mark_quotes:
        return _read(well_formed(html))
    html = well_formed(html.replace(_QUOTE_OPENS, "").replace(_QUOTE_CLOSES, ""))
    marked = _BLOCKQUOTE.sub(lambda tag: f"<p>{_QUOTE_CLOSES if tag[1] else _QUOTE_OPENS}</p>", html)
    if _QUOTE_OPENS not in marked:
        return _read(html)
    lines, depth = [], 0
    for line in _read(marked).split("\n"):
        if line == _QUOTE_OPENS:
            depth += 1
        elif line == _QUOTE_CLOSES:
            depth = max(0, depth - 1)
        else:
            lines.append(f"{'>' * min(depth, _DEEPEST_QUOTE)} {line}".rstrip() if depth else line)
    return "\n".join(lines)


async def readable(html: str) -> str:
    """The same as `text_of_html`; a long text is read in a thread, so that it does not block the event loop."""
    return text_of_html(html) if len(html) <= _LONG else await asyncio.to_thread(text_of_html, html)


def well_formed(html: str) -> str:
    """The complete tags and the text between them. An opening bracket that begins no complete tag becomes text.

    Comments, declarations and hidden elements are left out.
    """
    pieces: list[str] = []
    place = 0
    while (start := html.find("<", place)) >= 0:
        pieces.append(html[place:start])
        markup = _MARKUP.match(html, start)
        if markup is None:
            pieces.append("&lt;")
            place = start + 1
        elif markup["comment"] or markup["other"]:
            place = _after(html, "-->" if markup["comment"] else ">", start + 2)
        elif _HIDDEN.match(markup["name"]):
            end = (
                None if markup["end"] else re.compile(f"</{markup['name']}", re.IGNORECASE).search(html, markup.end())
            )
            place = markup.end() if markup["end"] else _after(html, ">", end.end() if end else len(html))
        else:
            attributes = markup["attributes"] if len(markup["attributes"]) <= _LONGEST_ATTRIBUTES else ""
            pieces.append(f"<{markup['end']}{markup['name']}{attributes}>")
            place = markup.end()
    return "".join([*pieces, html[place:]])


def _after(html: str, text: str, place: int) -> int:
    """The place behind the next occurrence of the text, or the end: an unfinished element hides the rest."""
    found = html.find(text, place)
    return len(html) if found < 0 else found + len(text)


def _read(html: str) -> str:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.text()


class _Reader(HTMLParser):
    """Collects the text of well-formed HTML, whose tags may be nested in any order."""

    _PARAGRAPHS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table", "blockquote", "pre"})
    _LINES = frozenset({"div", "br", "tr", "li", "hr", "section", "article", "header", "footer", "center"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._pieces: list[str] = []
        self._in_head = False
        self._preformatted = 0
        self._link: tuple[str, int] | None = None  # its address, and the piece at which its text begins

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"head", "body"}:  # a body also ends a head that was never closed
            self._in_head = tag == "head"
        self._break(tag)
        if tag == "li":
            self._pieces.append("- ")
        elif tag == "pre":
            self._preformatted += 1
        elif tag == "img":
            self._pieces.append(dict(attrs).get("alt") or " ")
        elif tag == "a":
            self._link = (dict(attrs).get("href") or "").strip(), len(self._pieces)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"br", "hr", "img"}:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag == "head":
            self._in_head = False
        self._break(tag)
        if tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        elif tag in {"td", "th"}:
            self._pieces.append(" ")
        elif tag == "a" and self._link is not None:
            address, start = self._link
            self._link = None
            text = "".join(self._pieces[start:]).strip()
            if address.lower().startswith(("http://", "https://")) and address != text:
                self._pieces.append(f" ({address})")

    def handle_data(self, data: str) -> None:
        if self._in_head:
            return
        if not self._preformatted:
            data = re.sub(r"[ \t\r\n\f]+", " ", data)
            data = data.lstrip(" ") if self._at_start_of_line else data
        if data:
            self._pieces.append(data)

    def text(self) -> str:
        """The lines, without the blanks of the source's layout."""
        lines = [line.rstrip(" ") for line in "".join(self._pieces).split("\n")]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()

    def _break(self, tag: str) -> None:
        if tag in self._PARAGRAPHS:
            self._pieces.append("\n\n")
        elif tag == "br" or (tag in self._LINES and not self._at_start_of_line):
            self._pieces.append("\n")

    @property
    def _at_start_of_line(self) -> bool:
        return not self._pieces or self._pieces[-1].endswith("\n")
