"""Asks for known vulnerabilities of everything that gets installed; arguments are passed on to pip-audit.

It stands apart because pip-audit finds nothing wrong where a source answers "not found" to everything, as mirrors of
PyPI do. So each source is asked for an old advisory first, and counts only if it knows that one.
Exits with 0 when nothing is found, and when there is no source to ask, which it says. `--look` only looks whether
one answers, with nothing but the standard library, because pip-audit takes half a minute to install: 0 if so, else 3.
"""

import json
import subprocess
import sys
import tempfile
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parent.parent
#: The first repeats the lock of what runs the service; the other has what writes the locks and audits them.
LOCKS = (ROOT / "requirements-dev.lock", ROOT / "requirements-tools.lock")
KNOWN_VULNERABLE = "idna==3.6"  #: CVE-2024-3651
#: Each with what it is asked about that package where there is nothing yet to ask it properly.
SOURCES = {
    "osv": Request(
        "https://api.osv.dev/v1/query",
        data=b'{"package": {"name": "idna", "ecosystem": "PyPI"}, "version": "3.6"}',
        headers={"Content-Type": "application/json"},
    ),
    "pypi": Request("https://pypi.org/pypi/idna/3.6/json"),
}
NOT_THERE = 3
# Together a minute at most.
SECONDS_FOR_A_SOURCE = 10
SECONDS_FOR_THE_AUDIT = 40


def main(options: list[str]) -> int:
    if options == ["--look"]:
        is_there = any(map(may_know_one, SOURCES.values()))
        print("" if is_there else "skipped: no advisory source can be reached\n", end="")
        return 0 if is_there else NOT_THERE
    source = next((source for source in SOURCES if knows_an_advisory(source, options)), None)
    if source is None:
        print("skipped: no advisory source can be reached")
        return 0
    # --strict, because what the source says nothing about has not been audited.
    command = [*pip_audit(source, *LOCKS), "--require-hashes", "--strict", *options]
    try:
        return subprocess.run(command, timeout=SECONDS_FOR_THE_AUDIT).returncode
    except subprocess.TimeoutExpired:
        print(f"failed: {source} took more than {SECONDS_FOR_THE_AUDIT} seconds")
        return 1


def may_know_one(request: Request) -> bool:
    try:
        with urlopen(request, timeout=SECONDS_FOR_A_SOURCE) as answer:  # noqa: S310 - one of ours
            said = json.load(answer)
    except (OSError, HTTPException, ValueError):
        return False
    return bool(said.get("vulns") or said.get("vulnerabilities"))


def knows_an_advisory(source: str, options: list[str]) -> bool:
    with tempfile.TemporaryDirectory() as directory:
        requirements = Path(directory) / "requirements.txt"
        requirements.write_text(KNOWN_VULNERABLE)
        command = [*pip_audit(source, requirements), "--no-deps", "--format", "json", *options]
        try:
            answer = subprocess.run(command, capture_output=True, timeout=SECONDS_FOR_A_SOURCE)
            report = json.loads(answer.stdout)
        except (subprocess.TimeoutExpired, ValueError):
            return False
    return any(package.get("vulns") for package in report["dependencies"])


def pip_audit(source: str, *requirements: Path) -> list[str]:
    """`--disable-pip`: everything is pinned, so that there is nothing to resolve or to install."""
    program = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--disable-pip"]
    files = [option for file in requirements for option in ("--requirement", str(file))]
    return [*program, "--vulnerability-service", source, *files]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
