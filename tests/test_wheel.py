"""The wheel: what is in it, and what it asks for."""

import subprocess
import sys
import tomllib
from email import message_from_string
from pathlib import Path
from zipfile import ZipFile

import pytest

from app import __version__

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [built] = place.glob("*.whl")
    assert built.name == f"messaging_service-{__version__}-py3-none-any.whl"
    return ZipFile(built)


def test_it_has_every_file_of_the_service_and_the_pages(wheel: ZipFile) -> None:
    listed = subprocess.run(["git", "ls-files", "app", "docs"], cwd=ROOT, capture_output=True, text=True, check=True)
    there = set(wheel.namelist())
    shared = f"messaging_service-{__version__}.data/data/share/doc/messaging-service"
    for name in filter(lambda name: (ROOT / name).exists(), listed.stdout.splitlines()):
        assert (f"{shared}{name.removeprefix('docs')}" if name.startswith("docs/") else name) in there
    tops = {name.partition("/")[0].partition("-")[0] for name in there}
    assert tops == {"app", "messaging_service"}


def test_it_asks_for_what_is_required_but_the_test_runner(wheel: ZipFile) -> None:
    metadata = message_from_string(wheel.read(f"messaging_service-{__version__}.dist-info/METADATA").decode())
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = {line.partition(";")[0] for line in lines if line and not line.startswith(("#", "pytest"))}
    asked = {line.partition(";")[0] for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert asked == wanted
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata["Requires-Python"] == project["requires-python"]


def test_it_installs_a_program(wheel: ZipFile) -> None:
    entries = wheel.read(f"messaging_service-{__version__}.dist-info/entry_points.txt").decode()
    assert "messaging-service = app.__main__:installed" in entries.splitlines()
