"""Keywords of consent: texts in five languages, each in several spellings, and words of a setting."""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import Keyword
from app.keywords import LONGEST, NO_EXTRA, extra_words, keyword_in
from tests.cases import each_case

with (Path(__file__).parent / "keywords.csv").open(encoding="utf-8", newline="") as _table:
    ROWS = [*csv.DictReader(_table)]

TEXTS = [(row["text"], None if row["verdict"] == "none" else Keyword(row["verdict"])) for row in ROWS]

FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)} | {ord(" "): 0x3000}
#: Skin tone, ZWJ with a variation selector, flag, keycap, and signs that Unicode relates to letters.
EMOJI = ["😀", "👍🏽", "👩‍❤️‍👨", "🇫🇷", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "1️⃣", "#️⃣", "ℹ️", "™️", "Ⓜ️", "🆘", "㊗️", "🈁", "❗"]  # noqa: RUF001
INVISIBLE = ["\u200b", "\u200d", "\u200e", "\u202e", "\u2066", "\ufeff", "\u00ad"]
FORMS: dict[str, Callable[[str], str]] = {
    "upper": str.upper,
    "lower": str.lower,
    "title": str.title,
    "full width": lambda text: text.translate(FULL_WIDTH),
    "spaces": lambda text: f"\t {text} \u00a0\r\n",
    "quotes": lambda text: f"“{text}”",
    "German quotes": lambda text: f"„{text}“",
    "French quotes": lambda text: f"«\u202f{text}\u202f»",
    "bold": lambda text: f"*{text}*",
    "exclamation": lambda text: f"¡{text}!!!",
    **{f"emoji {emoji!a}": f"{emoji} {{}}{emoji}".format for emoji in EMOJI},
    **{f"invisible {mark!a}": mark.join for mark in INVISIBLE},
}


@each_case(("text", "verdict"), TEXTS)
def test_a_text_has_its_verdict(text: str, verdict: Keyword | None) -> None:
    assert keyword_in(text) is verdict


@each_case(("text", "verdict"), TEXTS)
@each_case("form", FORMS)
def test_another_form_of_a_text_has_the_same_verdict(text: str, verdict: Keyword | None, form: str) -> None:
    changed = FORMS[form](text)
    assert keyword_in(changed) is verdict or len(changed.strip()) > LONGEST


def test_the_table_has_as_many_other_texts_as_keywords_in_each_language() -> None:
    languages = Counter((row["language"], row["verdict"] == "none") for row in ROWS)
    assert {language for language, _ in languages} == {"en", "fr", "es", "de", "pt"}
    assert min(languages.values()) >= 30
    assert len({(row["language"], row["text"]) for row in ROWS}) == len(ROWS)


def test_a_text_is_read_up_to_64_characters() -> None:
    assert keyword_in("stop" + "!" * (LONGEST - 4)) is Keyword.STOP
    assert keyword_in("  stop" + "!" * (LONGEST - 4) + "\n") is Keyword.STOP
    assert keyword_in("stop" + "!" * (LONGEST - 3)) is None


@each_case("text", ["", " ", "\n", "!", "😀", "\u200b", "please", "please thanks", "12345", "\x00", "\ud800"])
def test_a_text_without_a_word_is_no_keyword(text: str) -> None:
    assert keyword_in(text) is None


@each_case("text", ["please cancel", "end now", "please start", "help please", "yes ok", "quit quit"])
def test_a_word_with_other_meanings_counts_only_alone(text: str) -> None:
    assert keyword_in(text) is None


@given(st.text(max_size=2 * LONGEST))
def test_any_text_can_be_read(text: str) -> None:
    assert keyword_in(text) is keyword_in(f" {text}\n")


def test_a_setting_adds_words_of_each_kind() -> None:
    extra = extra_words("STOP=NIE WIEDER|Стоп; start=weiter ;HELP=Zurück;YES=Jawohl|да")
    assert keyword_in("nie wieder!", extra) is Keyword.STOP
    assert keyword_in("СТОП 🛑", extra) is Keyword.STOP
    assert keyword_in("Weiter", extra) is Keyword.START
    assert keyword_in("ZURUCK", extra) is Keyword.HELP
    assert keyword_in("да", extra) is Keyword.YES
    assert keyword_in("stop", extra) is Keyword.STOP
    assert keyword_in("nie wieder Krieg", extra) is None
    assert keyword_in("nie wieder", NO_EXTRA) is None


@each_case("setting", ["", "  "])
def test_an_empty_setting_adds_nothing(setting: str) -> None:
    assert extra_words(setting) == NO_EXTRA


def test_a_word_may_be_named_again_under_its_kind() -> None:
    extra = extra_words("STOP=STOP|please stop;STOP=enough|Enough!")
    assert keyword_in("enough", extra) is Keyword.STOP


@each_case(
    ("setting", "problem"),
    [
        ("GENUG", "write it as STOP="),
        ("STOP:GENUG", "write it as STOP="),
        ("HALT=GENUG", "write it as STOP="),
        ("STOP=GENUG;", "write it as STOP="),
        ("STOP=", "each word of STOP"),
        ("STOP=GENUG||NIE", "each word of STOP"),
        ("STOP=😀", "each word of STOP"),
        ("HELP=" + "a" * 65, "each word of HELP"),
        ("START=stop", "a word of START already means STOP"),
        ("HELP=please stop", "a word of HELP already means STOP"),
        ("STOP=genug;HELP=GENUG", "a word of HELP already means STOP"),
    ],
)
def test_a_setting_that_is_wrong_is_refused(setting: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        extra_words(setting)
