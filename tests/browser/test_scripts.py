"""The scripts of the inbox as files: small, complete, and without code made of texts."""

import re
from pathlib import Path

import pytest

from app.web.inbox.assets import assets
from app.web.inbox.language import languages

LARGEST = 22_000  #: bytes of all scripts as they are sent, compressed
SCRIPTS = {name: asset.content.decode() for name, asset in assets().items() if re.fullmatch(r"[a-z-]+\.js", name)}
_MADE_OF_TEXT = re.compile(
    r"\beval\(|new Function|document\.write|insertAdjacentHTML|setTimeout\(['\"]|outerHTML =|on\w+="
)


def test_the_scripts_are_small() -> None:
    assert 0 < sum(len(assets()[name].compressed) for name in SCRIPTS) < LARGEST


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_import_is_there(name: str) -> None:
    imported = re.findall(r"(?:from |import |new URL\()'\./([^']+)'", SCRIPTS[name])
    assert [each for each in imported if each not in SCRIPTS] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_text_becomes_code(name: str) -> None:
    assert _MADE_OF_TEXT.findall(SCRIPTS[name]) == []
    assert SCRIPTS[name].count("innerHTML") == (1 if Path(name).stem == "page" else 0), "only `parsed` reads HTML"


def test_every_word_of_the_scripts_is_there() -> None:
    used = {(word, "n:" in call) for script in SCRIPTS.values() for word, call in _words(script)}
    assert len(used) > 10
    for language in languages().values():
        words = language.script_words
        assert [word for word, has_forms in used if (f"{word}_other" if has_forms else word) not in words] == []
        assert {re.sub("_(one|other)$", "", word) for word in words} - {word for word, _ in used} == set(), "not used"


def _words(script: str) -> list[tuple[str, str]]:
    """The keys of the words that a script uses, and what follows each in its call."""
    calls = re.findall(r"\bword\(([^)]*)\)", script)
    return [(word, call) for call in calls for word in re.findall(r"'(\w+)'", call) if word != "retry"]
