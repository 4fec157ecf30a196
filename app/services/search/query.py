"""The text that a person types into a search, read as terms and as parts of names and addresses."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from app.services.search.words import folded, grams_of, neighbours, of_section, quoted, words_of

#: Words that are looked for; further ones are ignored.
_MOST_WORDS = 32
_QUOTES = re.compile('["\u201c\u201d\u201e\u201f\u00ab\u00bb\u300c\u300d]')
#: A phone number in any spelling. `(0)` is left out of one with a country code.
_NUMBER = re.compile(r"[+0-9][+0-9\s()./-]*|\([0-9][+0-9\s()./-]*", re.ASCII)
_TRUNK_ZERO = "(0)"
_LEAST_PART = 3
_AROUND_A_PART = "\"'<>(),;:"


@dataclass(frozen=True, slots=True)
class Term:
    """Words that follow each other. Those that are `prefixes` only begin the words that are found."""

    words: tuple[str, ...]
    prefixes: tuple[bool, ...]

    def written(self, beginning: str) -> str:
        """The term as a part of a `tsquery`."""
        each = list(zip(self.words, self.prefixes, strict=True))
        phrase = " <-> ".join(quoted(beginning + word) + (":*" if prefix else "") for word, prefix in each)
        whole = [
            quoted(beginning + neighbours(one, other))
            for (one, is_begun), (other, may_go_on) in pairwise(each)
            if not is_begun and not may_go_on
        ]
        return f"({' & '.join([phrase, *whole])})"


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """The terms, of which a message has all, and the parts, of which an address or a name has all.

    `text` is the query as it was typed, without spaces around it.
    """

    text: str
    terms: Sequence[Term]
    parts: Sequence[str]

    def for_messages(self, tenant_id: int) -> str | None:
        """The text of a `tsquery` for messages; None if there is no word."""
        beginning = of_section(tenant_id, None)
        return " & ".join(term.written(beginning) for term in self.terms) or None

    def for_contacts(self, tenant_id: int) -> str | None:
        """The text of a `tsquery` for contacts; None if there is no part. What it finds has to contain each part."""
        beginning = of_section(tenant_id, None)
        conditions: list[str] = []
        for part in self.parts:
            if len(part) >= _LEAST_PART and not any(word.is_part for word in words_of(part)):
                conditions += [quoted(f"{beginning}~{gram}") for gram in sorted(grams_of(part))]
            else:
                conditions += [term.written(beginning) for term in _terms(part, is_last=True)]
        return " & ".join(conditions) or None


def read_query(typed: str) -> SearchQuery:
    """Read a search. Any text can be read; one without a letter or a digit has no terms."""
    typed = unicodedata.normalize("NFC", typed)
    terms: list[Term] = []
    pieces = _QUOTES.split(typed)
    for number, piece in enumerate(pieces):
        is_last = not any(list(words_of(each)) for each in pieces[number + 1 :])
        # A quotation that is not closed is still being typed.
        is_closed = number % 2 == 1 and number < len(pieces) - 1
        for words in [piece] if number % 2 else piece.split():
            terms += _terms(words, is_last=False)
        if is_last:
            if terms and not is_closed:
                terms[-1] = _unfinished(terms[-1])
            break
    return SearchQuery(typed.strip(), _first_words(terms), _parts(typed))


def _terms(text: str, *, is_last: bool) -> Iterator[Term]:
    """The words of a text as one term, if there are any."""
    found = list(words_of(text))
    if not found:
        return
    words, prefixes = [], []
    for number, word in enumerate(found):
        # The last character of a run has no pair. At the end of a term it may begin one.
        may_go_on = word.is_part and len(word.text) == 1 and number == len(found) - 1
        if may_go_on and number and found[number - 1].is_part and found[number - 1].end == word.end:
            continue
        words.append(word.text)
        prefixes.append(may_go_on)
    term = Term(tuple(words), tuple(prefixes))
    yield _unfinished(term) if is_last else term


def _unfinished(term: Term) -> Term:
    """The term, whose last word may go on."""
    return Term(term.words, (*term.prefixes[:-1], True))


def _first_words(terms: Sequence[Term]) -> list[Term]:
    chosen, left = [], _MOST_WORDS
    for term in terms:
        if left <= 0:
            break
        chosen.append(Term(term.words[:left], term.prefixes[:left]))
        left -= len(term.words)
    return chosen


def _parts(typed: str) -> list[str]:
    """The parts of names and addresses: a phone number in digits, or each word as it was typed."""
    plain = folded(_QUOTES.sub(" ", typed)).strip()
    if number := _digits(plain):
        return [number]
    parts = [_digits(part) or part.strip(_AROUND_A_PART) for part in plain.split()[:_MOST_WORDS]]
    return [part for part in parts if any(map(str.isalnum, part))]


def _digits(text: str) -> str | None:
    """The digits of a phone number in any spelling, without zeros in front; None for any other text."""
    if not _NUMBER.fullmatch(text):
        return None
    digits = "".join(filter(str.isdigit, text.replace(_TRUNK_ZERO, "")))
    significant = digits.lstrip("0")
    chosen = significant if len(significant) >= _LEAST_PART else digits
    return chosen if len(chosen) >= _LEAST_PART else None
