"""Asks for known vulnerabilities of everything that gets installed; arguments are passed on to pip-audit.

It stands apart because pip-audit finds nothing wrong where a source answers "not found" to everything, as mirrors of
PyPI do. So each source is asked for an old advisory first, and counts only if it knows that one.
Exits with 0 when nothing is found, and when there is no source to ask, which it says.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: The first repeats the lock of what runs the service; the other has what writes the locks and audits them.
LOCKS = (ROOT / "requirements-dev.lock", ROOT / "requirements-tools.lock")
KNOWN_VULNERABLE = "idna==3.6"  #: CVE-2024-3651
SOURCES = ("osv", "pypi")
# Together a minute at most.
SECONDS_FOR_A_SOURCE = 10
SECONDS_FOR_THE_AUDIT = 40


def main(options: list[str]) -> int:
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
