"""The HTML of mails as a page that runs nothing and loads nothing, except pictures where they are asked for.

Its sender may be an attacker. nh3 decides what stays. It takes time by the square of the depth, so what it gets is
balanced first, and bounded in depth and size. The Content-Security-Policy of the answer is a second line.
"""

import re
from collections import Counter
from html import escape
from html.parser import HTMLParser

import nh3

#: More than this is not shown. Most newsletters have less than 200,000 characters, and 5,000 tags.
_LONGEST, _MOST_TAGS, _DEEPEST = 500_000, 30_000, 80
_LONGEST_ATTRIBUTE = 4_000
_VOID = frozenset({"br", "col", "hr", "img", "wbr"})
_BOXES = "address article aside blockquote center div footer header main section"
_TABLES = frozenset({"table", "caption", "colgroup", "thead", "tbody", "tfoot", "tr", "td", "th"})
_TAGS = frozenset(
    f"a abbr b bdi bdo big cite code dd del dfn dl dt em figcaption figure font h1 h2 h3 h4 h5 h6 i ins kbd li mark "
    f"ol p pre q s samp small span strike strong sub sup tt u ul var {_BOXES}".split()
)
_ALLOWED = _TAGS | _VOID | _TABLES
_ATTRIBUTES = {
    "*": {"align", "dir", "lang", "style", "title"},
    "a": {"href"},
    "col": {"span", "width"},
    "font": {"color", "face", "size"},
    "hr": {"size", "width"},
    "img": {"alt", "height", "src", "width"},
    "ol": {"start", "type"},
    "table": {"bgcolor", "border", "cellpadding", "cellspacing", "width"},
    "td": {"bgcolor", "colspan", "height", "nowrap", "rowspan", "valign", "width"},
    "th": {"bgcolor", "colspan", "height", "nowrap", "rowspan", "valign", "width"},
    "tr": {"bgcolor", "valign"},
}
#: None of them moves a box out of its place, or fetches something.
_PROPERTIES = re.compile(
    r"background(-color)?|border(-(bottom|collapse|color|left|radius|right|spacing|style|top|width))?|color|direction"
    r"|display|font(-(family|size|style|weight))?|(max-|min-)?(height|width)|letter-spacing|line-height"
    r"|list-style-type|(margin|padding)(-(bottom|left|right|top))?|table-layout"
    r"|text-(align|decoration|indent|transform)|vertical-align|white-space"
)
_DECLARATION = re.compile(
    r"\s*([a-z-]+)\s*:((?:[^\\@{}<>();:]|\b(?:rgba?|hsla?)\([^()\\;:]{0,60}\)){1,300})", re.IGNORECASE
)
_LINK = re.compile(r"(?:https?://|mailto:|tel:)[^\s\\\x00-\x1f]+", re.IGNORECASE)
_PICTURE = re.compile(r"https://[^\s\\\x00-\x1f]+", re.IGNORECASE)
_PARAGRAPH = frozenset({"p"}), frozenset(f"li dd dt td th table ul ol {_BOXES}".split())
#: By tag, those that its beginning ends, and those that they are looked for inside of.
_ENDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    **dict.fromkeys(f"p h1 h2 h3 h4 h5 h6 ul ol dl pre hr table {_BOXES}".split(), _PARAGRAPH),
    "li": (frozenset({"li"}), frozenset({"ol", "ul", "table"})),
    "dd": (frozenset({"dd", "dt"}), frozenset({"dl", "table"})),
    "dt": (frozenset({"dd", "dt"}), frozenset({"dl", "table"})),
    "td": (frozenset({"td", "th"}), frozenset({"tr", "table"})),
    "th": (frozenset({"td", "th"}), frozenset({"tr", "table"})),
    "tr": (frozenset({"tr"}), frozenset({"table"})),
}
_PAGE = """<!doctype html>
<html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>:root{{color-scheme:light;background:#fff;color:#000}}body{{margin:8px;font:14px/1.5 system-ui,sans-serif;\
overflow-wrap:anywhere}}img{{max-width:100%;height:auto}}</style>
<body>{content}</body>
</html>
"""
_TOO_LARGE = "<p>The HTML of this mail is too large to be shown here. Its text is in the conversation.</p>"


def mail_page(html: str, *, images: bool) -> str:
    """The page of a mail whose HTML is well-formed: complete tags and text, no comments, no scripts.

    With `images` pictures of other hosts are loaded, by https. Without it each is its alternative text.
    """
    if len(html) > _LONGEST or html.count("<") > _MOST_TAGS:
        return _PAGE.format(content=_TOO_LARGE)
    balancing = _Balancing()
    balancing.feed(html)
    balancing.close()
    return _PAGE.format(content=_cleaned(balancing.balanced(), images=images))


def _cleaned(html: str, *, images: bool) -> str:
    def kept(tag: str, name: str, value: str) -> str | None:
        if name == "href":
            return value if _LINK.fullmatch(value) else None
        if name == "src":
            return value if images and _PICTURE.fullmatch(value) else None
        return _style(value) if name == "style" else value

    return nh3.clean(
        html,
        tags=set(_ALLOWED),
        attributes=_ATTRIBUTES,
        attribute_filter=kept,
        set_tag_attribute_values={"a": {"target": "_blank"}},
        link_rel="noopener noreferrer",
        url_schemes={"http", "https", "mailto", "tel"},
    )


def _style(written: str) -> str | None:
    """The declarations of a style that may stay; None if there is none."""
    found = [_DECLARATION.fullmatch(each) for each in written.split(";")]
    kept = [
        f"{each[1].lower()}:{each[2].strip()}" for each in found if each and _PROPERTIES.fullmatch(each[1].lower())
    ]
    return ";".join(kept) or None


class _Balancing(HTMLParser):
    """Writes the allowed tags again, so that each is ended in its place, in a bounded depth."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._pieces: list[str] = []
        self._open: list[str] = []
        #: Tags that would have been too deep, whose ends are still to come.
        self._skipped: Counter[str] = Counter()

    def balanced(self) -> str:
        self._end_down_to(0)
        return "".join(self._pieces)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _ALLOWED:
            return
        if tag in _ENDS:
            ended, within = _ENDS[tag]
            self._end_last(ended, within)
        if tag not in _VOID:
            if len(self._open) >= _DEEPEST:
                self._skipped[tag] += 1
                return
            self._open.append(tag)
        known = _ATTRIBUTES["*"] | _ATTRIBUTES.get(tag, set())
        given = {name: value or "" for name, value in reversed(attrs) if name in known}
        written = "".join(f' {name}="{escape(value[:_LONGEST_ATTRIBUTE])}"' for name, value in given.items())
        self._pieces.append(f"<{tag}{written}>")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)  # a browser ignores the slash

    def handle_endtag(self, tag: str) -> None:
        if self._skipped[tag]:
            self._skipped[tag] -= 1
        elif tag in _TABLES:
            self._end_last(frozenset({tag}), frozenset() if tag == "table" else frozenset({"table"}))
        elif tag in _TAGS:
            self._end_last(frozenset({tag}), _TABLES)

    def handle_data(self, data: str) -> None:
        self._pieces.append(escape(data))

    def _end_last(self, tags: frozenset[str], within: frozenset[str]) -> None:
        """End the innermost of these tags and all in it, if it is not outside of one of `within`."""
        for place in reversed(range(len(self._open))):
            if self._open[place] in tags:
                self._end_down_to(place)
                return
            if self._open[place] in within:
                return

    def _end_down_to(self, place: int) -> None:
        while len(self._open) > place:
            self._pieces.append(f"</{self._open.pop()}>")
