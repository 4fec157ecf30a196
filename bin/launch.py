"""Create `.venv`, keep it up to date, and run the service, its commands or its tests in it.

This file runs before anything is installed, so it needs the standard library only. Any Python since 3.6 can read it
and say which version is required. Messages go to standard error: standard output belongs to the command that is run.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

OLDEST_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
RUNTIME = ROOT / "requirements.lock"
DEVELOPMENT = ROOT / "requirements-dev.lock"  #: repeats everything in RUNTIME
TOOLS = ROOT / "requirements-tools.lock"
ENDED_BY_CTRL_C = 130
WRONG_USAGE = 2
USAGE = "usage: launch.py start | app [command] | setup [--dev | --tools] | test [all | e2e] [pytest arguments]"
TEST_HELP = """\
usage: bin/test.sh [all | e2e] [pytest arguments]      (Windows: bin\\test.ps1)

  bin/test.sh        the end-to-end check, then all tests but the slow ones: five minutes on two cores
  bin/test.sh all    the end-to-end check and every test: about twenty minutes
  bin/test.sh e2e    the end-to-end check alone: some seconds; BASE_URL=... asks a service that is running
  bin/test.sh ARGS   pytest alone with these arguments: a file, a folder, -k NAME, -x, ...

All of them first install what is missing into .venv. `make faults` and `make fuzz` go on for longer:
they break more, for longer, and make ten thousand requests of the OpenAPI document.
"""


def main(arguments: "list[str]") -> int:
    complaint = complaint_about(sys.version_info[:2])
    if complaint:
        sys.exit(complaint)
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command == "start":
        return app(["serve", *rest])
    if command == "app":
        return app(rest)
    if command == "setup" and rest == []:
        Venv(ROOT / ".venv").get_ready(RUNTIME)
        return 0
    if command == "setup" and rest == ["--dev"]:
        Venv(ROOT / ".venv").get_ready(DEVELOPMENT, RUNTIME)
        return 0
    if command == "setup" and rest == ["--tools"]:
        Venv(ROOT / "build" / "tools").get_ready(TOOLS)
        return 0
    if command == "test":
        return test(rest)
    sys.exit(USAGE)


def app(arguments: "list[str]") -> int:
    """Run a program of the environment, such as `python` or `uvicorn`, or else a command of `python -m app`."""
    python = Venv(ROOT / ".venv").get_ready(RUNTIME)
    program = shutil.which(arguments[0], path=str(python.parent)) if arguments else None
    command = [program, *arguments[1:]] if program else [str(python), "-m", "app", *arguments]
    os.environ["APP_COMMAND"] = "./bin/app"  # the name that usage messages show
    if os.name != "nt":  # Windows would return to the prompt while the service still runs
        os.chdir(ROOT)
        os.execv(command[0], command)  # noqa: S606 - signals then reach the program itself, not a parent
    return run(command)


def test(arguments: "list[str]") -> int:
    """Run the end-to-end check and pytest, the second also after the first has failed; gives the exit code."""
    kind = arguments[0] if arguments[:1] in (["all"], ["e2e"]) else ""
    given = arguments[1:] if kind else arguments
    if {"-h", "--help"} & set(given):
        print(TEST_HELP)
        return 0
    word = given[0] if given else ""
    if word and (kind == "e2e" or not (word.startswith("-") or (ROOT / word.split("::")[0]).exists())):
        print(f"{word!r} is neither a kind of test nor a file.\n\n{TEST_HELP}", file=sys.stderr)
        return WRONG_USAGE
    python = str(Venv(ROOT / ".venv").get_ready(DEVELOPMENT, RUNTIME))
    outcomes = {}
    if kind or not given:
        print("The end-to-end check takes some seconds.", flush=True)
        outcomes["end-to-end"] = run([python, "bin/e2e.py"])
    if kind != "e2e" and outcomes.get("end-to-end") != ENDED_BY_CTRL_C:
        print("\nEvery test takes about twenty minutes on two cores." if kind else "", flush=True)
        outcomes["pytest"] = run([python, "-m", "pytest", "-q", *(["-m", ""] if kind else []), *given])
    print()
    for name, code in outcomes.items():
        print(f"{name:<11} {'passed' if code == 0 else f'FAILED (exit code {code})'}")
    if kind == "all":
        print("Not among them are the long forms: `make faults` kills and loads for longer, `make fuzz` asks more.")
    return next((code for code in outcomes.values() if code), 0)


def run(command: "list[str]") -> int:
    """Run a command and return its exit code. On Ctrl-C the terminal signals the child too; wait for its cleanup."""
    child = subprocess.Popen(command, cwd=str(ROOT))
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def complaint_about(version: "tuple[int, ...]") -> "str | None":
    if version >= OLDEST_PYTHON:
        return None
    return "Python {}.{} or newer is needed; this one is {}.{}.".format(*OLDEST_PYTHON, *version)


class Venv:
    """The virtual environment, and the stamp files in it that record which requirements are installed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.python = path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.lock = path / "launch.lock"
        self.unfinished = path / "launch.unfinished"  #: exists during work that must not be left half done

    def get_ready(self, requirements: Path, *repeated: Path) -> Path:
        """Return its Python, with everything in `requirements` installed; change nothing if that is so already.

        Every line of the `repeated` files stands in `requirements` too, so they count as installed with it.
        Of several concurrent callers one does the work and the others wait. Interrupted work is done again.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with only_one_at_a_time(self.lock):
            if not self.is_current(requirements, self.version()):
                if not self.version() or self.unfinished.exists() or not self.has_pip():
                    self.make()
                self.install(requirements, *repeated)
        return self.python

    def version(self) -> str:
        """Its Python version, such as `3.13`; "" if it is missing, too old, or its base Python was removed."""
        question = "import sys; print(sys.prefix != sys.base_prefix, *sys.version_info[:2])"
        try:
            answer = subprocess.run(
                [str(self.python), "-I", "-c", question], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return ""
        is_venv, major, minor = answer.stdout.split()
        if is_venv != "True" or complaint_about((int(major), int(minor))):
            return ""
        return f"{major}.{minor}"

    def has_pip(self) -> bool:
        command = [str(self.python), "-m", "pip", "--version"]
        return subprocess.run(command, capture_output=True).returncode == 0

    def make(self) -> None:
        for module in ("venv", "ensurepip"):
            if importlib.util.find_spec(module) is None:
                version = "{}.{}".format(*sys.version_info[:2])
                sys.exit(
                    f"This Python {version} can't make virtual environments: it has no module {module}.\n"
                    f"On Debian and Ubuntu, install it with: sudo apt install python{version}-venv"
                )
        remains = [entry for entry in self.path.iterdir() if entry != self.lock]
        name = self.path.name
        say(f"Making {name} again, because the one here is broken..." if remains else f"Making {name}...")
        for entry in remains:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self.unfinished.touch()
        # sys.executable may be the Python that has just been removed.
        python = getattr(sys, "_base_executable", sys.executable)
        if subprocess.run([python, "-m", "venv", str(self.path)]).returncode != 0:
            sys.exit(f"Making {name} failed. Python's error message is above.")

    def install(self, requirements: Path, *repeated: Path) -> None:
        what = "the test packages" if requirements == DEVELOPMENT else "packages"
        if self.stamp(requirements).exists():
            reason = "the list of required packages has changed"
        else:
            reason = "first time only, about half a minute"
        say(f"Installing {what} into {self.path.name} ({reason})...")
        options = ["--quiet", "--disable-pip-version-check", "--no-input", "--require-hashes"]
        self.unfinished.touch()
        pip = subprocess.run(
            [str(self.python), "-m", "pip", "install", *options, "--requirement", str(requirements)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.unfinished.unlink()  # also after a failure: pip rolls back
        if pip.returncode != 0:
            sys.stderr.buffer.write(pip.stdout)
            sys.stderr.flush()
            sys.exit("Installing failed. The error message of pip is above.")
        for file in (requirements, *repeated):
            self.remember(file, self.version())

    def is_current(self, requirements: Path, version: str) -> bool:
        """True if these very requirements were installed completely, into this version of Python."""
        stamp = self.stamp(requirements)
        if not version or self.unfinished.exists() or not stamp.exists():
            return False
        return stamp.read_text() == fingerprint(requirements, version)

    def remember(self, requirements: Path, version: str) -> None:
        self.stamp(requirements).write_text(fingerprint(requirements, version))

    def stamp(self, requirements: Path) -> Path:
        return self.path / f"{requirements.name}.installed"


def fingerprint(requirements: Path, version: str) -> str:
    return hashlib.sha256(version.encode() + requirements.read_bytes()).hexdigest()


@contextlib.contextmanager
def only_one_at_a_time(lock: Path) -> "Iterator[None]":
    """Wait while another process holds the lock. The operating system releases it when its holder dies."""
    with lock.open("a") as file:
        told = False
        while not try_lock(file.fileno()):
            if not told:
                say(f"Another launch is preparing {lock.parent.name}; waiting until it is done...")
                told = True
            time.sleep(0.1)
        yield


def try_lock(descriptor: int) -> bool:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
    else:
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(ENDED_BY_CTRL_C)
