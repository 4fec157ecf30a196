"""HTML made fit for the library's parser, which takes minutes for a megabyte of tags that begin and never end."""

import re

#: What is never shown: it ends with its own end tag, and everything before that is no markup.
_UNSEEN = re.compile(r"(?:script|style|title|template|textarea|noscript|xmp|iframe)$", re.IGNORECASE)
_MARKUP = re.compile(
    r"<(?:(?P<comment>!--)|(?P<other>[!?])|(?P<end>/?)(?P<name>[a-z][a-z0-9:-]{0,30})"
    r"""(?P<attributes>(?:[\s/](?:[^<>"']|"[^"<]{0,4000}"|'[^'<]{0,4000}')*+)?+)>)""",
    re.IGNORECASE,
)
_LONGEST_ATTRIBUTES = 5_000


def well_formed(html: str) -> str:
    """The tags that are whole, and the text between them; an opening bracket that begins none of them is text.

    Comments, declarations, scripts and styles are left out. Takes time in proportion to the length.
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
        elif _UNSEEN.match(markup["name"]):
            end = (
                None if markup["end"] else re.compile(f"</{markup['name']}", re.IGNORECASE).search(html, markup.end())
            )
            place = markup.end() if markup["end"] else _after(html, ">", end.end() if end else len(html))
        else:
            attributes = markup["attributes"] if len(markup["attributes"]) <= _LONGEST_ATTRIBUTES else ""
            pieces.append(f"<{markup['end']}{markup['name']}{attributes}>")
            place = markup.end()
    return "".join([*pieces, html[place:]])


def _after(html: str, what: str, place: int) -> int:
    """Behind the next occurrence, or at the end: nothing of what is begun there is shown."""
    found = html.find(what, place)
    return len(html) if found < 0 else found + len(what)
