"""Searches as they are typed, read as terms for messages and as parts for contacts."""

import pytest

from app.services.search.query import Term, read_query
from app.services.search.words import words_of


def exact(*words: str) -> Term:
    return Term(words, (False,) * len(words))


def begun(*words: str) -> Term:
    return Term(words, (*(False,) * (len(words) - 1), True))


@pytest.mark.parametrize(
    ("typed", "terms"),
    [
        ("deliv", [begun("deliv")]),
        ("late deliv", [exact("late"), begun("deliv")]),
        ("  Late\tDELIV ", [exact("late"), begun("deliv")]),
        ('"late delivery"', [exact("late", "delivery")]),
        ('"late delivery" tod', [exact("late", "delivery"), begun("tod")]),
        ('tod "late delivery"', [exact("tod"), exact("late", "delivery")]),
        ('"late deliv', [begun("late", "deliv")]),
        ('late" deliv', [exact("late"), begun("deliv")]),
        ('late "', [begun("late")]),
        ('""" late', [begun("late")]),
        ("„late delivery“", [exact("late", "delivery")]),
        ("doe@example.com", [begun("doe", "example", "com")]),
        ("don't", [begun("don", "t")]),
        ("Müller café", [exact("muller"), begun("cafe")]),
        ("東京都", [Term(("東京", "京都"), (False, True))]),
        ("東", [begun("東")]),
        ("a東b", [begun("a", "東", "b")]),
        ('"東京tower x"', [exact("東京", "京", "tower", "x")]),
        ("'; DROP TABLE messages; --", [exact("drop"), exact("table"), begun("messages")]),
        ("foo:* & !bar | (baz)", [exact("foo"), exact("bar"), begun("baz")]),
        ("", []),
        ("   ", []),
        ("...!?", []),
        ('"', []),
        ('""""', []),
        ("\x00\ufffd", []),
        ("👍", []),
    ],
)
def test_a_search_is_read_as_terms(typed: str, terms: list[Term]) -> None:
    assert read_query(typed).terms == terms


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ("(201) 666-1234", ["2016661234"]),
        ("6661234", ["6661234"]),
        ("666 12 34", ["6661234"]),
        ("+1 201 666", ["1201666"]),
        ("0151 23456", ["15123456"]),
        ("+49 (0)151 23456", ["4915123456"]),
        ("0049.151", ["49151"]),
        ("000", ["000"]),
        ("6", ["6"]),
        ("doe@", ["doe@"]),
        ("<Doe@Example.com>,", ["doe@example.com"]),
        ("jane 666-1234", ["jane", "6661234"]),
        ('"Jane Doe"', ["jane", "doe"]),
        ("Núñez", ["nunez"]),
        ("slack:U024", ["slack:u024"]),
        ("", []),
        ("@ - ()", []),
    ],
)
def test_a_search_is_read_as_parts_of_addresses_and_names(typed: str, parts: list[str]) -> None:
    assert read_query(typed).parts == parts


def test_only_the_first_words_are_looked_for() -> None:
    terms = read_query("word " * 2_000).terms
    assert sum(len(term.words) for term in terms) == 32
    assert len(read_query("a.b" * 1_000).terms[0].words) == 32


def test_words_know_their_places() -> None:
    text = "Ünal said: 東京都!"
    assert [text[word.begin : word.end] for word in words_of(text)] == ["Ünal", "said", "東京", "京都", "都"]
