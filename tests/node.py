"""Node and the programs of `tests/clients/package-lock.json`, for tests that need them."""

import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from filelock import FileLock

CLIENTS = Path(__file__).parent / "clients"
_BUILD = CLIENTS.parents[1] / "build"


def node() -> str:
    """Node. Skips the test without it."""
    return shutil.which("node") or unavailable("node is not installed")


def installed_packages() -> Path:
    """`node_modules` with the packages of the lock, installed once for each version of it. Skips without npm."""
    lock = CLIENTS / "package-lock.json"
    home = _BUILD / f"node-{sha256(lock.read_bytes()).hexdigest()[:16]}"
    node()
    npm = shutil.which("npm") or unavailable("npm is not installed")
    _BUILD.mkdir(exist_ok=True)
    with FileLock(f"{home}.lock"):
        if not (home / "complete").exists():
            home.mkdir(exist_ok=True)
            for file in ("package.json", "package-lock.json"):
                shutil.copy(CLIENTS / file, home)
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            ran = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
            if ran.returncode != 0:
                unavailable(f"npm can't install the packages: {ran.stderr[-500:]}")
            (home / "complete").touch()
    return home / "node_modules"


def unavailable(reason: str) -> str:
    """Skip the test, but fail it where `CLIENTS=required`, as in CI."""
    if os.environ.get("CLIENTS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def run(*command: str | Path, cwd: Path, input: str | None = None) -> str:
    """Run a program that has to succeed; its output."""
    environment = os.environ | {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "NO_COLOR": "1"}
    ran = subprocess.run(
        [*command], cwd=cwd, env=environment, input=input, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, f"{ran.stdout[-4000:]}{ran.stderr[-4000:]}"
    return ran.stdout
