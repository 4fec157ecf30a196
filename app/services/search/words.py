"""Texts as words that can be found, the same on every database server.

PostgreSQL's own parsers depend on the locale of the server, and know no words in Japanese, Chinese or Thai.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple
from zlib import crc32

#: Characters of a text that are indexed; a longer one is found by its beginning.
INDEXED_CHARACTERS = 8_000
#: Ids of one section of the index: a search reads one section after another, the newest first.
SECTION = 1 << 16
#: Stands for the number of the section in a query. White space, so it is in no word and in no part of an address.
ANY_SECTION = "\x1f"

_LONGEST_WORD = 40
#: Places of one word in a text, by which phrases are found.
_PLACES = 100
#: Different words for neighbours. So many that two common words next to each other are rare in a section, and so few
#: that most are shared by several messages.
_NEIGHBOURS = 1 << 16
#: Accents, and points of vowels that are usually left out.
_ACCENTS = re.compile("[\u0300-\u036f\u0591-\u05c7\u064b-\u0652\u0670]+")
#: Scripts that write no spaces between words.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUNS = re.compile(f"(?P<unspaced>[{_UNSPACED}]+)|[^{_UNSPACED}]+")


@functools.cache
def _word() -> re.Pattern[str]:
    """Letters, digits, and the marks of scripts that need them. Python's `re` counts marks as no part of a word."""
    marks = (each for each in map(chr, range(0x300, 0x10000)) if unicodedata.category(each).startswith("M"))
    return re.compile(rf"(?:[^\W_]|[{''.join(marks)}])+")


class Word(NamedTuple):
    """A word as it is compared, and where it stands in its text."""

    text: str
    begin: int
    end: int
    is_part: bool = False  #: of a text without spaces: two characters, or the last one


def folded(text: str) -> str:
    """A text as it is compared: without case, accents and variants of characters."""
    if text.isascii():
        return text.lower()
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    return unicodedata.normalize("NFC", plain.casefold())


def words_of(text: str) -> Iterator[Word]:
    """The words of a text in order. A text without spaces becomes pairs of characters that overlap."""
    for found in _word().finditer(text):
        begin, whole = found.start(), found[0]
        if whole.isascii():
            yield Word(whole.lower()[:_LONGEST_WORD], begin, found.end())
            continue
        for run in _RUNS.finditer(whole):
            if run["unspaced"]:
                yield from _pairs(run[0], begin + run.start())
            elif word := folded(run[0]):
                yield Word(word[:_LONGEST_WORD], begin + run.start(), begin + run.end())


def _pairs(run: str, begin: int) -> Iterator[Word]:
    """The pairs of neighbours in a run of characters, and its last character."""
    whole = folded(run)
    # Character by character takes twenty times as long. It is needed where one becomes several, or none.
    each_folded = whole if len(whole) == len(run) else map(folded, run)
    characters = [(each, begin + place) for place, each in enumerate(each_folded) if each]
    for (one, place), (other, following) in pairwise(characters):
        yield Word(one + other, place, following + 1, is_part=True)
    for one, place in characters[-1:]:
        yield Word(one, place, place + 1, is_part=True)


def grams_of(text: str) -> set[str]:
    """All sequences of three characters in the parts of a folded text that spaces separate."""
    return {part[place : place + 3] for part in text.split() for place in range(len(part) - 2)}


def neighbours(one: str, other: str) -> str:
    """A word for one word in front of another; a few other neighbours have the same.

    PostgreSQL compares phrases row by row. With this word, its index leaves few rows to compare.
    """
    return f"={crc32(f'{one} {other}'.encode()) % _NEIGHBOURS:x}"


def of_section(tenant_id: int, id: int | None) -> str:
    """The beginning of all words of a tenant in the section of an id; None stands for `ANY_SECTION`.

    So each word of the index belongs to one tenant and one section.
    """
    return f"{tenant_id}:{ANY_SECTION if id is None else id // SECTION}:"


def vector(beginning: str, words: Iterable[Word], grams: Iterable[str] = ()) -> str:
    """The text of a `tsvector` with these words, their places, and their `neighbours`.

    Grams have no place, and a `~` in front.
    """
    places: dict[str, list[int]] = {}
    texts = [word.text for word in words]
    for place, text in enumerate(texts, 1):
        found = places.setdefault(text, [])
        if len(found) < _PLACES:
            found.append(place)
    without_place = [*{neighbours(*pair) for pair in pairwise(texts)}, *(f"~{each}" for each in grams)]
    return " ".join([*_written(beginning, places), *(quoted(beginning + each) for each in without_place)])


def _written(beginning: str, places: Mapping[str, list[int]]) -> Iterator[str]:
    for word, found in places.items():
        yield f"{quoted(beginning + word)}:{','.join(map(str, found))}"


def quoted(lexeme: str) -> str:
    """A lexeme in the text of a `tsvector` or a `tsquery`."""
    escaped = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
