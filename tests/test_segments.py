"""The number of segments of a text: the edges, and the same count made in another way."""

from hypothesis import given, settings
from hypothesis import strategies as st

from app.segments import Segments, hints, segments_of, units_of
from tests.cases import each_case

EXTENSION = "\f^{}\\[~]|€"
BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)


def parts_of(text: str) -> int:
    return segments_of(text).count


@each_case(
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
    assert parts_of(text) == parts


def test_every_character_of_the_alphabet_is_one_septet() -> None:
    assert len(set(BASIC)) == 127  # and the escape is the 128th
    for character in BASIC:
        assert (parts_of(character * 160), parts_of(character * 161)) == (1, 2)


def test_every_character_of_the_extension_is_two() -> None:
    for character in EXTENSION:
        assert (parts_of(character * 80), parts_of(character * 81)) == (1, 2)


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
    assert parts_of(text) == expected


@settings(max_examples=50, deadline=None)
@given(texts, texts)
def test_a_longer_text_never_has_fewer_parts(text: str, more: str) -> None:
    assert parts_of(text) <= parts_of(text + more)


def test_it_names_what_forces_two_bytes_a_character() -> None:
    assert segments_of("Hello!") == Segments("gsm7", 1)
    assert segments_of("€" * 81) == Segments("gsm7", 2)
    assert segments_of("a\u201cb\u201d\u201cя") == Segments("ucs2", 1, ("\u201c", "\u201d", "я"))
    assert segments_of("".join(map(chr, range(0x400, 0x420)))).forcing == tuple(map(chr, range(0x400, 0x40A)))


def test_only_texts_count_by_their_segments() -> None:
    assert [units_of(channel, "a" * 161) for channel in ("sms", "email", "whatsapp")] == [2, 1, 1]


def test_a_hint_names_the_characters_and_what_plain_ones_would_save() -> None:
    assert hints("a" * 500) == []
    [named] = hints("\u201cHi\u201d")
    assert "left double quotation mark" in named
    _, saving = hints("\u201c" + "a" * 100 + "\u201d")
    assert saving == "With plain quotes, dashes and spaces it is 1 instead of 2 parts."
    assert len(hints("я" * 100)) == 1
    [_, partly] = hints("я" * 66 + "\u2026" + "\ufeff" * 4)
    assert "as far as possible it is 1 instead of 2 parts" in partly


@each_case("character", BASIC + EXTENSION)
def test_a_plain_text_is_never_called_odd(character: str) -> None:
    assert segments_of(character * 200).encoding == "gsm7"
