"""Run the tests of mail on another version of Python than that of `.venv`, in an environment of its own.

Mail is read by our own code because the library's differs between versions. This holds that it stays so.
OTHER_PYTHON names the interpreter; otherwise the newest one on the PATH or of pyenv is taken.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / "build" / "other-python"
UV = ROOT / "build" / "tools" / "bin" / "uv"
OLDEST_MINOR, NEWEST_MINOR = 11, 20
TESTS = ["tests/providers/mail"]
VERSION = "import sys; print(*sys.version_info[:2])"


def main() -> int:
    python = found()
    if python is None:
        own = f"{sys.version_info[0]}.{sys.version_info[1]}"
        sys.exit(
            f"No second Python was found beside {own}. Install another one from 3.{OLDEST_MINOR} on, "
            "or name it: OTHER_PYTHON=/path/to/python make test-other-python"
        )
    print(f"Tests of mail on {python}:", flush=True)
    subprocess.run([UV, "venv", "--quiet", "--clear", "--python", python, ENVIRONMENT], check=True)
    lock = str(ROOT / "requirements-dev.lock")
    options = ["--quiet", "--python", str(ENVIRONMENT), "--require-hashes", "--requirement", lock]
    subprocess.run([UV, "pip", "install", *options], check=True)
    return subprocess.run([ENVIRONMENT / "bin" / "python", "-m", "pytest", "-q", *TESTS], cwd=ROOT).returncode


def found() -> str | None:
    """The interpreter to use; None if there is none whose version is another one."""
    given = os.environ.get("OTHER_PYTHON")
    return next((python for python in ([given] if given else candidates()) if is_other(python)), None)


def candidates() -> Iterator[str]:
    """Interpreters by their names, the newest first. Not each of them has to work."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(NEWEST_MINOR, OLDEST_MINOR - 1, -1):
        yield from (str(path) for path in sorted(versions.glob(f"3.{minor}.*/bin/python"), reverse=True))
        on_path = shutil.which(f"python3.{minor}")
        if on_path:
            yield on_path


def is_other(python: str) -> bool:
    try:
        answer = subprocess.run([python, "-I", "-c", VERSION], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    major, minor = map(int, answer.stdout.split())
    return major == 3 and minor >= OLDEST_MINOR and (major, minor) != sys.version_info[:2]


if __name__ == "__main__":
    sys.exit(main())
