"""How many parts a text has: the edges, and the same count made in another way."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.segments import segment_count

EXTENSION = "\f^{}\\[~]|€"
BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", 1),
        ("a", 1),
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),  # twice 153
        ("a" * 307, 3),
        ("a" * 459, 3),
        ("a" * 460, 4),
        ("a" * 1600, 11),
        ("€" * 80, 1),  # two septets each
        ("€" * 81, 2),
        ("a" * 158 + "€", 1),
        ("a" * 159 + "€", 2),
        ("€" * 152, 2),  # 76 in a part of 153: the odd septet stays free
        ("€" * 153, 3),
        ("a" * 152 + "€" + "a" * 151, 2),  # the pair moves to the second part whole
        ("a" * 152 + "€" + "a" * 152, 3),  # so that 306 septets no longer fit into two
        ("a" * 151 + "€" + "a" * 153, 2),  # here it ends the first part exactly
        ("я" * 70, 1),
        ("я" * 71, 2),
        ("я" * 134, 2),  # twice 67
        ("я" * 135, 3),
        ("a" * 69 + "я", 1),  # one character turns the whole text
        ("a" * 70 + "я", 2),
        ("😀" * 35, 1),  # two units each
        ("😀" * 36, 2),
        ("😀" * 66, 2),  # 33 in a part of 67
        ("😀" * 67, 3),
        ("я" * 66 + "😀" + "я" * 65, 2),  # the pair is not split
        ("я" * 66 + "😀" + "я" * 66, 3),
        ("я" * 65 + "😀" + "я" * 67, 2),
        ("€" * 35 + "я" * 35, 1),  # in UCS-2 the euro is one unit
        ("\n\r", 1),
        ("`" * 71, 2),  # not of GSM-7, although it is ASCII
        ("ç" * 71, 2),  # only the capital is
        ("Ç" * 160, 1),
        ("\t" * 71, 2),
    ],
)
def test_the_edges(text: str, parts: int) -> None:
    assert segment_count(text) == parts


def test_every_character_of_the_alphabet_is_one_septet() -> None:
    assert len(set(BASIC)) == 127  # and the escape is the 128th
    for character in BASIC:
        assert (segment_count(character * 160), segment_count(character * 161)) == (1, 2)


def test_every_character_of_the_extension_is_two() -> None:
    for character in EXTENSION:
        assert (segment_count(character * 80), segment_count(character * 81)) == (1, 2)


def cut(units: list[bytes], size: int) -> int:
    """The parts as a phone would cut them: as many whole characters as fit, again and again."""
    parts = 0
    while units:
        taken = length = 0
        while taken < len(units) and length + len(units[taken]) <= size:
            length += len(units[taken])
            taken += 1
        units = units[taken:]
        parts += 1
    return parts


texts = st.one_of(
    st.text(st.sampled_from("aé€[Δ"), min_size=140, max_size=480),
    st.text(st.sampled_from("aя😀€"), min_size=60, max_size=220),
    st.text(max_size=330),
)


@settings(max_examples=150, deadline=None)
@given(texts)
def test_a_text_has_as_many_parts_as_it_is_cut_into(text: str) -> None:
    if set(text) <= set(BASIC + EXTENSION):
        units = [b"\x1bx" if character in EXTENSION else b"x" for character in text]
        whole, each = 160, 153
    else:
        units = [character.encode("utf-16-le", "surrogatepass")[::2] for character in text]
        whole, each = 70, 67
    expected = 1 if sum(map(len, units)) <= whole else cut(units, each)
    assert segment_count(text) == expected


@settings(max_examples=50, deadline=None)
@given(texts, texts)
def test_a_longer_text_never_has_fewer_parts(text: str, more: str) -> None:
    assert segment_count(text) <= segment_count(text + more)
