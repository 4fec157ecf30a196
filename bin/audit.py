"""Audit all locked packages for known vulnerabilities; arguments are passed on to pip-audit.

pip-audit reports success where a source answers "not found" to everything, as mirrors of PyPI do. So each source is
asked for an old advisory first, and counts only if it knows that one. The exit code is 0 if nothing is found, or if
no source can be reached, which is printed. `--look` only looks for a source: 0 if there is one, else 3. It needs only
the standard library, because pip-audit takes half a minute to install.
"""

import json
import subprocess
import sys
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parent.parent
#: The first includes the lock of the service; the other is for the tools that write and audit the locks.
LOCKS = (ROOT / "requirements-dev.lock", ROOT / "requirements-tools.lock")
#: The question to each source, about a package that is known to be vulnerable (CVE-2024-3651).
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
    only_looks = options == ["--look"]
    source = next((name for name, request in SOURCES.items() if knows_an_advisory(request)), None)
    if source is None:
        print("skipped: no advisory source can be reached")
        return NOT_THERE if only_looks else 0
    if only_looks:
        return 0
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--vulnerability-service", source]
    command += [option for lock in LOCKS for option in ("--requirement", str(lock))]
    # Everything is pinned, so pip has nothing to resolve. With --strict a package unknown to the source is an error.
    command += ["--disable-pip", "--require-hashes", "--strict", *options]
    try:
        return subprocess.run(command, timeout=SECONDS_FOR_THE_AUDIT).returncode
    except subprocess.TimeoutExpired:
        print(f"failed: {source} took more than {SECONDS_FOR_THE_AUDIT} seconds")
        return 1


def knows_an_advisory(request: Request) -> bool:
    try:
        with urlopen(request, timeout=SECONDS_FOR_A_SOURCE) as answer:  # noqa: S310 - one of ours
            said = json.load(answer)
    except (OSError, HTTPException, ValueError):
        return False
    return isinstance(said, dict) and bool(said.get("vulns") or said.get("vulnerabilities"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
