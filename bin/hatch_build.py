"""The dependencies of the wheel: what requirements.txt lists, without the test runner.

requirements.txt has pytest, so that one list sets up a machine on which the tests run. A server needs no tests.
"""

from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_ONLY_TESTS = ("pytest==",)


class Requirements(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        """Set the dependencies. Each line keeps its version and its marker."""
        lines = (Path(self.root) / "requirements.txt").read_text(encoding="utf-8").splitlines()
        metadata["dependencies"] = [line for line in lines if line and not line.startswith(("#", *_ONLY_TESTS))]
