"""Snippets: the piece of a text that shows why it was found."""

import pytest

from app.services.search.query import read_query
from app.services.search.snippets import snippet_of


def marked(text: str, typed: str) -> str:
    """The snippet with brackets around its matches."""
    parts = snippet_of(text, read_query(typed).terms)
    return "".join(f"[{part.text}]" if part.match else part.text for part in parts)


@pytest.mark.parametrize(
    ("text", "typed", "expected"),
    [
        ("Your parcel is late.", "parcel", "Your [parcel] is late."),
        ("Your parcel is late.", "parc", "Your [parcel] is late."),
        ("Parcels and a parcel, PARCEL", "parcel", "[Parcels] and a [parcel], [PARCEL]"),
        ("parcels and a parcel", '"parcel"', "parcels and a [parcel]"),
        ("the late delivery of late things", '"late delivery"', "the [late delivery] of late things"),
        ("the late\n\n delivery", '"late delivery"', "the [late delivery]"),
        ("late deliveries, delivery late", '"late deliv', "[late deliveries], delivery late"),
        ("late parcel", "late parcel", "[late] [parcel]"),
        ("Café Müller", "cafe", "[Café] Müller"),
        ("mail to doe@example.com now", "doe@example.com", "mail to [doe@example.com] now"),
        ("明日東京都庁へ", "東京", "明日[東京]都庁へ"),
        ("明日東京都庁へ", "東京都", "明日[東京都]庁へ"),
        ("明日東京都庁へ", "庁", "明日東京都[庁]へ"),
        ("ไปกรุงเทพ", "กรุง", "ไป[กรุง]เทพ"),
        ("<b>parcel</b> & 'more'", "parcel", "<b>[parcel]</b> & 'more'"),
        ("nothing of it", "absent", "nothing of it"),
        ("", "absent", ""),
    ],
)
def test_a_snippet_marks_what_was_found(text: str, typed: str, expected: str) -> None:
    assert marked(text, typed) == expected


def test_a_snippet_of_a_long_text_begins_shortly_before_the_match() -> None:
    text = "lorem ipsum " * 100 + "the parcel arrived " + "dolor sit " * 100
    found = marked(text, "parcel")
    assert found.startswith("… ")
    assert found.endswith("…")
    assert "the [parcel] arrived" in found
    assert len(found) < 200


def test_a_snippet_shows_the_place_with_most_of_the_words() -> None:
    text = "late " + "lorem " * 100 + "a late parcel"
    assert "a [late] [parcel]" in marked(text, "late parcel")


def test_a_snippet_has_at_most_its_length_where_a_text_has_no_spaces() -> None:
    text = "x" * 3_000 + "-parcel-" + "y" * 3_000
    found = marked(text, "parcel")
    assert "[parcel]" in found
    assert len(found) < 200


def test_a_snippet_of_a_word_that_stands_everywhere_is_as_short() -> None:
    for typed in (
        "a",
        " ".join(["a"] * 32),
        f'"{" ".join(["a"] * 32)}"',
        " ".join(f"a{number}" for number in range(32)),
    ):
        parts = snippet_of("a " * 4_000, read_query(typed).terms)
        assert sum(len(part.text) for part in parts) < 200
