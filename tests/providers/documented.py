"""The vendor of docs/adding-a-provider.md, whose files stand in there."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ACME = "acme"
_DOCUMENT = (Path(__file__).parents[2] / "docs" / "adding-a-provider.md").read_text(encoding="utf-8")
_FILES = re.compile(r"^```(?:python|sh|toml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def documented_files() -> dict[str, str]:
    """The files of the page by their paths, without the line that names them."""
    return dict(_FILES.findall(_DOCUMENT))


def load_the_documented_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its modules in this repository, as if they were there, for one test."""
    for path, source in documented_files().items():
        if path.startswith(("app/", "tests/providers/")) and path.endswith(".py"):
            module = ModuleType(path.removesuffix(".py").replace("/", "."))
            monkeypatch.setitem(sys.modules, module.__name__, module)
            exec(compile(source, f"docs/adding-a-provider.md: {path}", "exec"), vars(module))  # noqa: S102 - our own
