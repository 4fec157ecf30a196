"""How many parts a text is sent in: what providers count, charge and limit by.

GSM-7 has 160 septets in one part and 153 in each of several; a character of its extension takes two. One character
outside it turns the whole text into UCS-2: 70 units of UTF-16, or 67 in each of several (3GPP TS 23.038, 23.040).
"""

from collections.abc import Iterable

_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = frozenset("\f^{}\\[~]|€")


def segment_count(text: str) -> int:
    """The parts of a text as SMS. A character of two units is never cut in half; an empty text is one part."""
    if all(character in _BASIC or character in _EXTENSION for character in text):
        return _parts((2 if character in _EXTENSION else 1 for character in text), whole=160, each=153)
    return _parts((2 if ord(character) > 0xFFFF else 1 for character in text), whole=70, each=67)


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
