"""Every shell block of README and docs runs as written, page by page, in a clean copy of the tree.

A page's service runs from the first block to the last. Data of earlier blocks is there for later ones. A block that
can't run here stands below a comment `<!-- not run: reason -->`. PowerShell blocks must name files that exist.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.live import LOCAL, free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Windows has no sh"),
]

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>.+?) -->\n+)?```(?P<kind>sh|bash|powershell)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
#: What runs until Ctrl-C. The plain start is the page's service, which runs already.
_STAYS = re.compile(r"^(?:\w+=\S+ )*\./bin/(?:start\.sh|app (?:serve|worker|simulate|events))\b[^#\n]*", re.MULTILINE)
_START = "./bin/start.sh"
_SERVICE, _SIMULATOR = "8080", "9100"
#: An error status fails the block, unlike with plain curl.
_PRELUDE = 'curl() { command curl --silent --show-error --fail-with-body "$@"; }\n'
_SECONDS_TO_START = 90


class Block(NamedTuple):
    """A shell block of a page, and the reason why it is not run."""

    line: int
    kind: str
    text: str
    reason: str | None


def blocks_of(page: Path) -> list[Block]:
    written = page.read_text(encoding="utf-8")
    return [
        Block(written.count("\n", 0, found.start("text")), found["kind"], found["text"], found["reason"])
        for found in _BLOCK.finditer(written)
    ]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git would commit, with the environment of this run in place of `.venv`."""
    copy = tmp_path_factory.mktemp("documents") / "service"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        source = ROOT / name
        if source.is_file() and not source.is_symlink():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(source.read_bytes())
            (copy / name).chmod(source.stat().st_mode)
    (copy / ".venv").symlink_to(sys.prefix)
    return copy


@pytest.fixture(scope="module")
def read_before(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a service that has sent and received as the README says."""
    directory = tmp_path_factory.mktemp("read_before")
    with Reading(tree, directory) as reading:
        for block in blocks_of(README):
            if " -d '" in block.text:
                reading.run(README, block)
    return directory / "data"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_shell_block_of_a_page_runs_as_written(
    page: Path, tree: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    blocks = [block for block in blocks_of(page) if block.kind != "powershell"]
    for block in blocks:
        if block.reason is not None:
            print(f"not run: {page.name}:{block.line}: {block.reason}")
    run = [block for block in blocks if block.reason is None]
    if not run:
        return
    if page != README:
        data = request.getfixturevalue("read_before")
        subprocess.run(["cp", "-a", str(data), str(tmp_path / "data")], check=True)  # with the owners of its files
    with Reading(tree, tmp_path) as reading:
        for block in run:
            reading.run(page, block)


class Reading:
    """The processes of a page: blocks that end, and services that stay until the end of the page.

    They have their data in `data` below `directory`.
    """

    def __init__(self, tree: Path, directory: Path) -> None:
        self._tree = tree
        self._log = directory / "log"
        self._ports = {_SERVICE: str(free_port()), _SIMULATOR: str(free_port())}
        self._environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        self._environment |= {"PORT": self._ports[_SERVICE], "DATA_DIR": str(directory / "data")}
        self._staying: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Reading":
        try:
            self.start(_START, f"http://127.0.0.1:{self._ports[_SERVICE]}/readyz")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for process in reversed(self._staying):
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise

    def start(self, command: str, url: str | None = None) -> None:
        """Start a command that stays, and wait until it answers at `url`, or for a second if it has none."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {command}" if "=" not in command else f"exec env {command}"],
                cwd=self._tree,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._staying.append(process)
        deadline = time.monotonic() + _SECONDS_TO_START
        while url is not None and not _answers(url):
            assert process.poll() is None, f"`{command}` ended by itself:\n{self._log.read_text()}"
            assert time.monotonic() < deadline, f"`{command}` does not answer:\n{self._log.read_text()}"
            time.sleep(0.1)

    def run(self, page: Path, block: Block) -> None:
        text = block.text
        for documented, port in self._ports.items():
            text = re.sub(rf"(?<=127\.0\.0\.1:|localhost:){documented}\b|(?<=--port ){documented}\b", port, text)
        for command in (found[0].strip() for found in _STAYS.finditer(text)):
            if command != _START:
                given = re.search(r"--port (\d+)", command)
                self.start(command, f"http://127.0.0.1:{given[1]}/" if given else None)
        rest = _STAYS.sub("", text)
        done = subprocess.run(
            ["sh", "-e", "-c", _PRELUDE + rest],
            cwd=self._tree,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        said = f"{page.name}:{block.line} ended with {done.returncode}:\n{block.text}\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, f"{said}\nThe service said:\n{self._log.read_text()[-2000:]}"


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, verify=LOCAL).status_code < 500
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_powershell_block_names_files_that_exist(page: Path) -> None:
    for block in blocks_of(page):
        if block.kind == "powershell":
            named = re.findall(r"bin\\[\w.]+", block.text)
            for name in named:
                assert (ROOT / name.replace("\\", "/")).is_file(), f"{page.name}:{block.line}: there is no {name}"
