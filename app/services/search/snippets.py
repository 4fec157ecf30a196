"""The piece of a text that shows why it was found."""

import re
from collections.abc import Mapping, Sequence

from app.schemas.search import SnippetPart
from app.services.search.query import Term
from app.services.search.words import Word, words_of

#: Characters of a snippet, and of those before the first word that was found.
_LENGTH, _BEFORE = 160, 40
#: Terms that are marked, and places of each that are looked at.
_MOST_TERMS, _MOST_MATCHES = 16, 100
_SPACE = re.compile(r"\s+")
_OMITTED = "… "

_Span = tuple[int, int]


def snippet_of(text: str, terms: Sequence[Term]) -> list[SnippetPart]:
    """A part of a text around the first place with most of the terms, in pieces of which some are matches.

    A text without a match, such as one that was found by its subject, is shown from its beginning.
    """
    words = list(words_of(text))
    places: dict[str, list[int]] = {}
    for place, word in enumerate(words):
        places.setdefault(word.text, []).append(place)
    marked = list(dict.fromkeys(terms))[:_MOST_TERMS]
    spans = sorted(span for term in marked for span in _matches(words, places, term))
    begin, end = _window(text, spans)
    parts = [SnippetPart(text=_OMITTED, match=False)] if begin else []
    shown = begin
    for first, last in _joined(spans):
        if first >= shown and last <= end:
            parts += _parts(text[shown:first], text[first:last])
            shown = last
    parts += _parts(text[shown:end], "")
    if end < len(text.rstrip()):
        parts.append(SnippetPart(text=_OMITTED.rstrip(), match=False))
    return parts


def _parts(before: str, match: str) -> list[SnippetPart]:
    pieces = (_SPACE.sub(" ", before), False), (_SPACE.sub(" ", match), True)
    return [SnippetPart(text=text, match=is_match) for text, is_match in pieces if text]


def _matches(words: Sequence[Word], places: Mapping[str, Sequence[int]], term: Term) -> list[_Span]:
    """Places of a term in a text, from the beginning of its first word to the end of its last one."""
    each = list(zip(term.words, term.prefixes, strict=True))
    first, may_go_on = each[0]
    begun = [word for word in places if word.startswith(first)] if may_go_on else [first]
    found: list[_Span] = []
    for place in sorted(place for word in begun for place in places.get(word, ())):
        here = words[place : place + len(each)]
        if len(here) == len(each) and all(map(_is, here, each)):
            end = here[-1].end
            # A pair of characters that is found by the first one.
            if here[-1].is_part and len(each[-1][0]) < len(here[-1].text):
                end -= 1
            found.append((here[0].begin, end))
            if len(found) == _MOST_MATCHES:
                break
    return found


def _is(word: Word, wanted: tuple[str, bool]) -> bool:
    text, is_prefix = wanted
    return word.text.startswith(text) if is_prefix else word.text == text


def _window(text: str, spans: Sequence[_Span]) -> _Span:
    """The beginning and the end of the part to show, where possible between two words."""
    if not spans:
        return 0, _end_at_space(text, 0)
    most, chosen = 0, spans[0]
    for number, span in enumerate(spans):
        within = sum(1 for each in spans[number : number + 20] if each[1] <= span[0] - _BEFORE + _LENGTH)
        if within > most:
            most, chosen = within, span
    begin = max(0, chosen[0] - _BEFORE)
    if begin:
        space = _SPACE.search(text, begin, chosen[0])
        begin = space.end() if space else begin
    return begin, max(chosen[1], _end_at_space(text, begin))


def _end_at_space(text: str, begin: int) -> int:
    end = begin + _LENGTH
    if end >= len(text):
        return len(text.rstrip())
    space = text.rfind(" ", begin + _LENGTH // 2, end)
    return space if space > 0 else end


def _joined(spans: Sequence[_Span]) -> list[_Span]:
    """The spans, of which those that overlap or touch are one."""
    joined: list[_Span] = []
    for begin, end in spans:
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return joined
