"""The words of the pages, by language. A further language is one more file in `words/`."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_DIRECTORY = Path(__file__).parent / "words"
_USUAL = "en"
_LANGUAGE = re.compile(r"([a-zA-Z]{2,3})(?:-[a-zA-Z0-9-]+)?(?:\s*;\s*q=([01](?:\.[0-9]{0,3})?))?")
#: Keys that begin like this are for scripts.
_FOR_SCRIPTS = "script."


@dataclass(frozen=True, slots=True)
class Language:
    """The words of one language; `code` is that of HTML's `lang`."""

    code: str
    words: Mapping[str, str]

    def say(self, key: str, **values: Any) -> str:
        """The word of a key, with `{name}` replaced by values. With `n` the plural's form. Raises `KeyError`."""
        if "n" in values:
            key = f"{key}_one" if values["n"] == 1 and f"{key}_one" in self.words else f"{key}_other"
        written = self.words[key]
        return written.format(**values) if values else written

    def may_say(self, key: str, default: str) -> str:
        """The word of a key, or the default if there is none."""
        return self.words.get(key, default)

    @property
    def script_words(self) -> dict[str, str]:
        """The words that scripts use, without the beginning of their keys."""
        return {
            key.removeprefix(_FOR_SCRIPTS): word for key, word in self.words.items() if key.startswith(_FOR_SCRIPTS)
        }


@cache
def languages() -> Mapping[str, Language]:
    """All languages by their codes. A word that one lacks is taken from English."""
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(_DIRECTORY.glob("*.json"))}
    return {code: Language(code, read[_USUAL] | words) for code, words in read.items()}


def chosen(*wanted: str | None, accepted: str = "") -> Language:
    """The first of the wanted languages that there is, or else the best of the header Accept-Language, or English."""
    known = languages()
    for code in wanted:
        if code is not None and code in known:
            return known[code]
    weighed = [(float(found[2] or 1), found[1].lower()) for found in _LANGUAGE.finditer(accepted[:500])]
    best = [code for weight, code in sorted(weighed, key=lambda pair: -pair[0]) if weight > 0 and code in known]
    return known[best[0] if best else _USUAL]
