"""A newcomer's first steps before the service runs: scripts, requirements, containers, the menu."""

import ast
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import venv
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import make_url

from tests.cases import each_case

ROOT = Path(__file__).resolve().parent.parent
SHELL_SCRIPTS = [
    ROOT / "bin" / "app",
    *sorted((ROOT / "bin").glob("*.sh")),
    *sorted((ROOT / "ops").glob("*.sh")),
    ROOT / ".ci" / "run",
]
REQUIREMENTS = ["requirements", "requirements-dev", "requirements-tools"]
#: name[extras]==version; marker
PINNED = re.compile(r"([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;]+)(?:;.*)?")
#: name==version ; marker, and a hash of each file of that version on lines of their own
LOCKED = re.compile(r"([a-z0-9-]+)==(\S+)(?: ; [^\\]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")

on_posix = pytest.mark.skipif(os.name == "nt", reason="Windows has neither sh nor mode bits")


@pytest.fixture(scope="module")
def launch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("launch", ROOT / "bin" / "launch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    file = tmp_path / "requirements.lock"
    file.write_text("alpha==1.0\nbeta==2.0\n")
    return file


@each_case(
    ("schema", "file"),
    [
        ("compose-spec", "docker-compose.yml"),
        ("compose-spec", "ops/compose.production.yml"),
        ("github-workflows", ".github/workflows/ci.yml"),
    ],
)
def test_a_file_of_another_program_follows_its_schema(schema: str, file: str) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*check, ROOT / file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_url_in_the_compose_file_has_the_credentials_of_its_database() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    set_up = dict(re.findall(r"POSTGRES_(\w+): (\S+)", text))
    assert set_up == {"USER": "messaging_user", "PASSWORD": "messaging_password", "DB": "messaging_service"}
    urls = [make_url(url) for url in re.findall(r"postgresql://\S+", text)]
    assert {(url.host, url.port) for url in urls} == {("postgres", 5432), ("127.0.0.1", 5432)}
    for url in urls:
        assert (url.username, url.password, url.database) == tuple(set_up.values())


@on_posix
@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda script: script.name)
def test_a_shell_script_parses_and_can_be_run(script: Path) -> None:
    interpreter = "bash" if "bash" in script.read_text(encoding="utf-8").splitlines()[0] else "sh"
    if shutil.which(interpreter) is None:
        pytest.skip(f"{interpreter} is not installed")
    parsed = subprocess.run([interpreter, "-n", script], capture_output=True, text=True)
    assert parsed.returncode == 0, parsed.stderr
    assert script.stat().st_mode & 0o111 == 0o111


@pytest.mark.parametrize("script", ["app", "start.sh", "test.sh"])
def test_the_powershell_twin_gives_launch_py_the_same_command(script: str) -> None:
    name = script.removesuffix(".sh")
    shell = (ROOT / "bin" / script).read_text(encoding="utf-8")
    powershell = (ROOT / "bin" / f"{name}.ps1").read_text(encoding="ascii")
    assert re.findall(r"launch\.sh\" (.*)", shell) == [f'{name} "$@"']
    assert re.findall(r"\$launch (\w.*)", powershell) == [f"{name} @args"] * 2
    assert powershell.endswith("exit $LASTEXITCODE\n")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_menu_of_make_lists_every_target() -> None:
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    menu = subprocess.run(["make", "--silent"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.findall(r"^  make ([a-z0-9-]+) ", menu.stdout, re.MULTILINE) == targets


def test_every_requirement_is_pinned() -> None:
    for name in REQUIREMENTS:
        for line in (ROOT / f"{name}.txt").read_text(encoding="utf-8").splitlines():
            assert not line or line.startswith(("#", "-r ")) or PINNED.fullmatch(line), f"{name}: {line}"


@each_case("name", REQUIREMENTS)
def test_a_lock_has_the_hashes_of_every_package_and_nothing_else(name: str) -> None:
    text = (ROOT / f"{name}.lock").read_text(encoding="utf-8")
    assert locked(name)
    assert LOCKED.sub("", text) == ""


@each_case("name", REQUIREMENTS)
def test_a_lock_has_what_is_required_in_the_version_that_is_required(name: str) -> None:
    """After a change of what is required: `make lock`."""
    lines = (ROOT / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    required = {(match[1].lower(), match[2]) for line in lines if (match := PINNED.fullmatch(line))}
    assert required
    assert required <= {(entry[1], entry[2]) for entry in locked(name)}


def test_the_development_lock_repeats_the_runtime_lock() -> None:
    runtime, development = ({entry[0] for entry in locked(name)} for name in ("requirements", "requirements-dev"))
    assert runtime < development


def locked(name: str) -> list[re.Match[str]]:
    """An entry for each version of a package: there are several where not every system has the newest."""
    return list(LOCKED.finditer((ROOT / f"{name}.lock").read_text(encoding="utf-8")))


def audit(directory: Path, *options: str, known: str, audits: str) -> subprocess.CompletedProcess[str]:
    """Run the audit where a source answers `known`, or nothing, and pip-audit is the Python in `audits`."""
    answer = f"io.BytesIO({known.encode()!r})" if known else "exec('raise OSError')"
    (directory / "sitecustomize.py").write_text(
        f"import io, urllib.request\nurllib.request.urlopen = lambda request, timeout: {answer}\n"
    )
    (directory / "pip_audit.py").write_text(audits)
    return subprocess.run(
        [sys.executable, ROOT / "bin" / "audit.py", *options],
        env={**os.environ, "PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
    )


#: what a source says of the package that is known to be vulnerable, pip-audit's exit code, and the outcome
SOURCES = {
    "a source that is away": ("", 1, 0),
    "a mirror that knows packages but no advisories": ('{"vulnerabilities": []}', 0, 0),
    "a mirror that says something else": ("[]", 0, 0),
    "a source that finds nothing": ('{"vulns": [{"id": "CVE-2024-3651"}]}', 0, 0),
    "a source that finds something": ('{"vulns": [{"id": "CVE-2024-3651"}]}', 1, 1),
    "another that finds something": ('{"vulnerabilities": [{"id": "PYSEC-2024-60"}]}', 1, 1),
}


@pytest.mark.parametrize(("known", "audited", "outcome"), SOURCES.values(), ids=SOURCES)
def test_an_audit_is_only_skipped_where_no_source_knows_advisories(
    tmp_path: Path, known: str, audited: int, outcome: int
) -> None:
    done = audit(tmp_path, known=known, audits=f"import sys\nsys.exit({audited})\n")
    assert done.returncode == outcome, done.stderr
    skipped = done.stdout == "skipped: no advisory source can be reached\n"
    assert skipped == ('"id"' not in known)


@pytest.mark.parametrize("known", [known for known, _, _ in SOURCES.values()], ids=SOURCES)
def test_whoever_would_install_what_audits_is_told_beforehand_whether_somebody_answers(
    tmp_path: Path, known: str
) -> None:
    done = audit(tmp_path, "--look", known=known, audits="raise AssertionError")
    skipped = '"id"' not in known
    assert done.returncode == (3 if skipped else 0)
    assert done.stdout == ("skipped: no advisory source can be reached\n" if skipped else "")


def test_every_lock_is_audited(tmp_path: Path) -> None:
    known = '{"vulns": [{"id": "CVE-2024-3651"}]}'
    done = audit(tmp_path, known=known, audits="import sys\nprint('asked', *sys.argv)\n")
    asked = done.stdout.split()
    installed = {ROOT / f"{name}.lock" for name in REQUIREMENTS if name != "requirements"}  # which is repeated
    assert {Path(word) for before, word in pairwise(asked) if before == "--requirement"} == installed
    assert "--strict" in asked


def test_what_the_project_is_built_on_is_declared() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    declared = {match[1].lower() for line in lines if (match := PINNED.fullmatch(line))}
    built_on = {"fastapi", "uvicorn", "sqlalchemy", "psycopg2-binary", "pydantic", "pytest", "httpx"}
    assert built_on <= declared


def test_an_old_python_is_told_which_one_is_needed(launch: ModuleType) -> None:
    told = launch.complaint_about((3, 10))
    assert told == "Python 3.11 or newer is needed; this one is 3.10."
    assert launch.complaint_about((3, 11)) is None
    assert launch.complaint_about((3, 20)) is None


def test_an_old_python_gets_as_far_as_being_told() -> None:
    tree = ast.parse((ROOT / "bin" / "launch.py").read_text(encoding="utf-8"), feature_version=(3, 7))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            annotations = [function.returns, *(argument.annotation for argument in function.args.args)]
            # `list[str]` and `str | None` fail when an old Python only defines the function, unless quoted.
            assert not any(isinstance(written, ast.Subscript | ast.BinOp) for written in annotations)


def test_a_virtual_environment_is_left_alone_until_its_requirements_change(
    launch: ModuleType, tmp_path: Path, requirements: Path
) -> None:
    venv.create(tmp_path / ".venv", with_pip=False)
    environment = launch.Venv(tmp_path / ".venv")
    assert not environment.is_current(requirements, environment.version())

    environment.remember(requirements, environment.version())
    # There is no pip in it, so anything but leaving it alone would need the network.
    assert environment.get_ready(requirements) == environment.python
    assert not environment.has_pip()

    requirements.write_text("alpha==1.1\n")
    assert not environment.is_current(requirements, environment.version())


def test_another_python_needs_everything_installed_again(
    launch: ModuleType, tmp_path: Path, requirements: Path
) -> None:
    environment = launch.Venv(tmp_path)
    environment.remember(requirements, "3.12")
    assert environment.is_current(requirements, "3.12")
    assert not environment.is_current(requirements, "3.13")


@pytest.mark.slow
def test_what_a_file_repeats_is_installed_with_it(launch: ModuleType, tmp_path: Path, requirements: Path) -> None:
    nothing = tmp_path / "requirements-dev.lock"
    nothing.write_text("# pip needs no network for this\n")
    environment = launch.Venv(tmp_path / ".venv")
    environment.get_ready(nothing, requirements)
    assert environment.is_current(nothing, environment.version())
    assert environment.is_current(requirements, environment.version())


def test_an_install_that_was_cut_off_does_not_count(launch: ModuleType, tmp_path: Path, requirements: Path) -> None:
    environment = launch.Venv(tmp_path)
    environment.remember(requirements, "3.12")
    environment.unfinished.touch()
    assert not environment.is_current(requirements, "3.12")


def test_a_virtual_environment_whose_python_is_gone_has_no_version(launch: ModuleType, tmp_path: Path) -> None:
    venv.create(tmp_path / ".venv", with_pip=False)
    environment = launch.Venv(tmp_path / ".venv")
    assert environment.version() == "{}.{}".format(*sys.version_info[:2])
    environment.python.unlink()
    assert environment.version() == ""


def test_of_two_launches_at_once_the_second_waits_and_says_so(launch: ModuleType, tmp_path: Path) -> None:
    lock = tmp_path / "launch.lock"
    second_launch = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import launch\n"
        "with launch.only_one_at_a_time(Path(sys.argv[2])): print('its turn')"
    )
    command = [sys.executable, "-c", second_launch, str(ROOT / "bin"), str(lock)]
    with ExitStack() as first:
        first.enter_context(launch.only_one_at_a_time(lock))
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as second:
            assert second.stdout is not None
            while_the_first_is_inside = second.stdout.readline()
            first.close()
            afterwards, _ = second.communicate()
    assert "waiting" in while_the_first_is_inside
    assert afterwards == "its turn\n"


@pytest.fixture
def started(launch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The programs that `launch.py test` would start, without their Python."""
    started: list[list[str]] = []

    def run(command: list[str]) -> int:
        started.append(command[1:])
        return 0

    monkeypatch.setattr(launch.Venv, "get_ready", lambda *_: "python")
    monkeypatch.setattr(launch, "run", run)
    return started


@each_case(
    ("words", "programs"),
    [
        ([], [["bin/e2e.py"], ["-m", "pytest", "-q"]]),
        (["all"], [["bin/e2e.py"], ["-m", "pytest", "-q", "-m", ""]]),
        (["e2e"], [["bin/e2e.py"]]),
        (
            ["tests/test_packaging.py::test_x", "-x"],
            [["-m", "pytest", "-q", "tests/test_packaging.py::test_x", "-x"]],
        ),
        (["-k", "word"], [["-m", "pytest", "-q", "-k", "word"]]),
        (["all", "-x"], [["bin/e2e.py"], ["-m", "pytest", "-q", "-m", "", "-x"]]),
    ],
)
def test_a_kind_of_test_starts_its_programs(
    launch: ModuleType, started: list[list[str]], words: list[str], programs: list[list[str]]
) -> None:
    started.clear()
    assert launch.main(["test", *words]) == 0
    assert started == programs


def test_help_and_an_unknown_word_start_no_test(
    launch: ModuleType, started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--help"], ["all", "-h"], ["e2e", "--help"]):
        assert launch.main(["test", *words]) == 0
        assert "bin/test.sh all" in capsys.readouterr().out
    for words in (["fast"], ["e2e", "x"]):
        assert launch.main(["test", *words]) == 2
        assert f"{words[-1]!r} is neither a kind of test nor a file." in capsys.readouterr().err
    assert started == []


def test_the_end_to_end_script_fails_where_nothing_answers() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # no process can listen there, and it does not listen itself
        done = subprocess.run(
            [sys.executable, ROOT / "bin" / "e2e.py"],
            env={**os.environ, "BASE_URL": f"http://127.0.0.1:{bound.getsockname()[1]}"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert "FAIL  POST /api/messages/sms answers 200" in done.stdout
    assert re.search(r"^0 passed, \d+ failed$", done.stdout, re.MULTILINE)


def test_no_group_of_a_pattern_is_possessive() -> None:
    """Python before 3.11.5 matches `(?:...)*+` wrongly if the group can be matched in several ways.

    Debian 12 has 3.11.2: https://github.com/python/cpython/issues/106052
    """
    possessive = re.compile(r"(?<!\\)\)(?:[*+?]|\{[0-9,]+\})\+|\(\?>")
    patterns = [
        (path.name, ast.unparse(call.args[0]))
        for path in (ROOT / "app").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "re.compile"
    ]
    assert len(patterns) > 100
    assert [name for name, pattern in patterns if possessive.search(pattern)] == []
