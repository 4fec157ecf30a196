"""Count the segments of a text: the unit by which providers charge and limit.

GSM-7 has 160 septets in one part and 153 in each of several; a character of its extension takes two. One character
outside it turns the whole text into UCS-2: 70 units of UTF-16, or 67 in each of several (3GPP TS 23.038, 23.040).
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from app.domain import Channel

_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = "\f^{}\\[~]|€"
_SEPTETS = dict.fromkeys(_BASIC, 1) | dict.fromkeys(_EXTENSION, 2)
_IS_BASIC = re.compile(f"[{re.escape(_BASIC)}]*")
#: Septets in a single segment of GSM-7, which holds most texts.
_WHOLE = 160
#: Typographic characters of word processors and keyboards, with their equivalents in GSM-7.
_PLAIN = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032`\u00b4", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb\u2033", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2022", "-")
    | dict.fromkeys("\t\u00a0\u2002\u2003\u2009\u202f", " ")
    | dict.fromkeys("\u200b\ufeff", "")
    | {"\u2026": "..."}
)
_MOST_NAMED = 10
#: Counting a long text takes 30 µs or more, and happens when it is charged for, accepted and sent. The longest have
#: 1600 characters.
_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Segments:
    """The segments of a text as SMS: at least one, even for an empty text. `forcing` are the first ten distinct
    characters that GSM-7 doesn't have."""

    encoding: Literal["gsm7", "ucs2"]
    count: int
    forcing: tuple[str, ...] = ()


_ONE = Segments("gsm7", 1)


def segments_of(text: str) -> Segments:
    """The segments of a text. A character of two units is never split."""
    if len(text) <= _WHOLE and _IS_BASIC.fullmatch(text):
        return _ONE
    return _counted(text)


@lru_cache(maxsize=_REMEMBERED)
def _counted(text: str) -> Segments:
    forcing = dict.fromkeys(character for character in text if character not in _SEPTETS)
    if not forcing:
        return Segments("gsm7", _parts(map(_SEPTETS.__getitem__, text), whole=_WHOLE, each=153))
    count = _parts((2 if ord(character) > 0xFFFF else 1 for character in text), whole=70, each=67)
    return Segments("ucs2", count, tuple(forcing)[:_MOST_NAMED])


def units_of(channel: str, body: str) -> int:
    """The units that a message counts against rates and caps: the segments of a text, one for anything else."""
    return segments_of(body).count if channel == Channel.SMS else 1


def hints(text: str) -> list[str]:
    """Sentences on how a text could be sent in fewer segments, if it could."""
    found = segments_of(text)
    if found.encoding == "gsm7":
        return []
    named = ", ".join(
        f"{character!r} ({unicodedata.name(character, 'unnamed').lower()})" for character in found.forcing
    )
    said = [f"A part holds 70 characters instead of 160 because of {named}."]
    plain = segments_of(text.translate(_PLAIN))
    if plain.count < found.count:
        kept = " " if plain.encoding == "gsm7" else " as far as possible "
        said.append(f"With plain quotes, dashes and spaces{kept}it is {plain.count} instead of {found.count} parts.")
    return said


def _parts(sizes: Iterable[int], *, whole: int, each: int) -> int:
    listed = list(sizes)
    if sum(listed) <= whole:
        return 1
    parts, room = 1, each
    for size in listed:
        if size > room:
            parts, room = parts + 1, each
        room -= size
    return parts
