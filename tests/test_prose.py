"""Plain English in docstrings, comments, names and documents: the rules of CONTRIBUTING.md that a machine can see."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
CODE = [
    file
    for folder in ("app", "bin", "bench", "tests")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if file.parent.name != "versions"  # migrations stay as they were released
]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md"), *(ROOT / "ops").glob("*.md")]
)
LONGEST_SENTENCE = 25  # words
LONGEST_AVERAGE = 15.0  # words a sentence, over a document
OPENERS = {"what", "who", "whom", "whose", "whether", "how", "whoever", "whatever"}
VAGUE = {"whoever", "whomever", "whatever", "somebody", "nobody", "everybody", "anybody"}
METAPHORS = {"bell", "doorbell", "hands", "company", "roll", "gate", "edge", "household", "careful", "laid", "ring"}

_CODE_BLOCK = re.compile(r"^( *)```[\s\S]*?^\1```|<!--[\s\S]*?-->|(?<=\n\n)(?: {4}.*(?:\n|\Z))+", re.MULTILINE)
_CODE_SPAN = re.compile(r"`[^`]*`")  # counts as one word
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_ABBREVIATION = re.compile(r"\b(e\.g|i\.e|etc|vs)\.", re.IGNORECASE)
#: A list item, a table row, a heading and an entry of `Raises:` each begin a sentence; so does a table cell.
_BLOCK = re.compile(r"\n\s*\n|\n\s*(?=[-*>#]+ |\||\d+\. |[A-Z]\w+: )")
_END = re.compile(r"(?<=[.!?])[)\"'*_]*\s+|:\n|\s\|\s")
_NAME_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


class Text(NamedTuple):
    """A piece of prose and the place where it stands."""

    place: str
    prose: str


def test_a_docstring_opens_with_a_noun_or_a_verb() -> None:
    assert [f"{text.place}: {text.prose[:70]}" for text in docstrings() if is_a_question(text.prose)] == []


def test_no_sentence_is_too_long() -> None:
    assert [f"{text.place}: {found}" for text in everything() for found in long_sentences(text.prose)] == []


def test_people_and_things_are_named() -> None:
    assert [f"{text.place}: {word}" for text in everything() for word in vague_words(text.prose)] == []


def test_no_name_is_a_metaphor() -> None:
    assert [f"{place}: {name}" for file in CODE for place, name in names(file) if is_a_metaphor(name)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_the_sentences_of_a_document_are_short_on_average(document: Path) -> None:
    lengths = [len(words) for text in paragraphs(document) for words in sentences(text.prose)]
    assert fmean([length for length in lengths if length > 3] or [0]) <= LONGEST_AVERAGE


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_link_of_a_document_leads_to_a_heading_or_a_file(document: Path) -> None:
    prose = without_code(document.read_text(encoding="utf-8"))
    for page, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", prose):
        target = (document.parent / page) if page else document
        assert target.exists(), page
        assert not anchor or anchor in headings(target), f"{page}#{anchor}"
    for file in re.findall(r"`((?:app|tests|bench|docs)/[\w./-]+\.\w+)`", prose):
        assert (ROOT / file).exists() or "acme" in file, file


def test_the_first_pages_are_short() -> None:
    architecture = (ROOT / "Architecture.md").read_bytes()
    assert len(architecture) <= 15_000
    assert len((ROOT / "README.md").read_bytes()) <= 9_000
    reading_order = re.findall(r"^\d\. `(app/.*)`", architecture.decode(), re.MULTILINE)
    assert len(reading_order) == 5
    assert sum(len((ROOT / file).read_bytes().splitlines()) for file in reading_order) < 1000


def test_a_question_is_found() -> None:
    assert all(map(is_a_question, ["Whether it is open.", "What was kept.", "whoever calls", '"Who" it is.']))
    assert not any(map(is_a_question, ["Tell who it is.", "Whatsoever", "The cause."]))


@pytest.mark.parametrize("joint", [" ", "\n", " `a.b c. d` ", ", ", " e.g. ", " [two words](there) "])
def test_a_long_sentence_is_found(joint: str) -> None:
    assert long_sentences(joint.join(["word"] * (LONGEST_SENTENCE + 1)))


@pytest.mark.parametrize(
    "joint", [". ", "?\n", "\n\n", "\n- ", "\n1. ", " | ", ":\n", '." ', "\n  KeyError: ", ".** "]
)
def test_short_sentences_are_told_apart(joint: str) -> None:
    assert long_sentences(joint.join(["only three words"] * LONGEST_SENTENCE)) == []


@pytest.mark.parametrize("block", ["```sh\n{}\n```", "  ```\n  {}\n  ```", "<!-- {} -->", "A.\n\n    {}\n\nMore."])
def test_a_block_of_code_is_no_prose(block: str) -> None:
    assert long_sentences(without_code(block.format("word " * 99))) == []
    assert long_sentences(without_code(block.format("code") + "\n\n" + "word " * 99))


def test_a_vague_word_and_a_metaphor_are_found() -> None:
    assert vague_words("Nobody knows `somebody`, whoever it is.") == ["Nobody", "whoever"]
    assert all(map(is_a_metaphor, ["doorbell", "_hands_for", "RollCall", "isEdge", "GATE_WIDTH"]))
    assert not any(map(is_a_metaphor, ["knowledge", "string", "rollback", "hand_over", "Aggregate", "KeyRing"]))


def is_a_question(prose: str) -> bool:
    return next((words[0].lower() in OPENERS for words in sentences(prose) if words), False)


def long_sentences(prose: str) -> list[str]:
    return [" ".join(words[:15]) for words in sentences(prose) if len(words) > LONGEST_SENTENCE]


def vague_words(prose: str) -> list[str]:
    return [word for words in sentences(prose) for word in words if word.lower() in VAGUE]


def is_a_metaphor(name: str) -> bool:
    """True if a part of the name is a metaphor. Names of tests are sentences, and a key ring is a usual term."""
    parts = _NAME_PART.findall(name.replace("KeyRing", ""))
    return not name.startswith("test_") and any(part.lower() in METAPHORS for part in parts)


def sentences(prose: str) -> list[list[str]]:
    """The sentences as words."""
    plain = _ABBREVIATION.sub(r"\1", _LINK.sub(r"\1", _CODE_SPAN.sub("code", prose)))
    found = (sentence for block in _BLOCK.split(plain) for sentence in _END.split(block))
    return [re.findall(r"[\w./-]*\w(?:[\w'./-]|,(?=\d))*", sentence) for sentence in found]


def without_code(text: str) -> str:
    """The text with empty lines in place of code and comments."""
    return _CODE_BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text)


def everything() -> list[Text]:
    return [*docstrings(), *comments(), *(text for file in DOCUMENTS for text in paragraphs(file))]


@cache
def docstrings() -> list[Text]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [(file, node) for file in CODE for node in nodes_of(file) if isinstance(node, documented)]
    return [
        Text(place(file, node.body[0].lineno), without_code(found))
        for file, node in nodes
        if (found := ast.get_docstring(node))
    ]


@cache
def comments() -> list[Text]:
    """The comments, those on consecutive lines in one piece."""
    found: list[Text] = []
    last = 0
    for file in CODE:
        for token in tokenize.generate_tokens(io.StringIO(file.read_text(encoding="utf-8")).readline):
            if token.type == tokenize.COMMENT:
                prose = token.string.lstrip("#: ")
                if token.start[0] == last + 1:
                    found[-1] = Text(found[-1].place, f"{found[-1].prose}\n{prose}")
                else:
                    found.append(Text(place(file, token.start[0]), prose))
                last = token.start[0]
        last = 0
    return found


def headings(document: Path) -> set[str]:
    """The anchors that GitHub gives to the headings."""
    found = re.findall(r"^#+ (.*)$", without_code(document.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def paragraphs(document: Path) -> Iterator[Text]:
    line = 1
    for paragraph in without_code(document.read_text(encoding="utf-8")).split("\n\n"):
        yield Text(place(document, line), paragraph)
        line += paragraph.count("\n") + 2


def names(file: Path) -> Iterator[tuple[str, str]]:
    """The names of a file and of everything in it, each with its place."""
    yield place(file, 1), file.stem
    for node in nodes_of(file):
        if isinstance(node, ast.expr | ast.stmt | ast.arg | ast.keyword):
            found = (getattr(node, field, None) for field in ("name", "id", "attr", "arg"))
            yield from ((place(file, node.lineno), name) for name in found if isinstance(name, str))


@cache
def nodes_of(file: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


def place(file: Path, line: int) -> str:
    return f"{file.relative_to(ROOT).as_posix()}:{line}"
