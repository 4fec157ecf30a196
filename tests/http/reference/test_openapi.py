"""The OpenAPI document and the service, told apart by schemathesis: it makes requests of the one, and sends them.

`make fuzz` is the long form, and asks something else each time. The seed is printed; SEED repeats a run.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live import LiveServer
from tests.tenancy import CONSENT_SECRET, WEBHOOK_SECRET, bearer, make_key

pytestmark = pytest.mark.slow

HOOKS = Path(__file__).parents[2] / "schemathesis" / "hooks.py"
IS_LONG = os.environ.get("FUZZ") == "full"
#: Cases made for each operation, in each of the phases that draw at random.
EXAMPLES = 280 if IS_LONG else 4
LEAST_CASES = 10_000 if IS_LONG else 100
#: The short form asks the same each time, so that a change is what makes it fail.
SHORT_SEED = "1"
#: Checked against what is running; neither limits nor waiting are what this is about.
SERVICE = {
    "RATE_LIMIT_PER_SECOND": "0",
    "AUTH_FAILURES_PER_MINUTE": "0",
    "PREFER_WAIT_SECONDS": "0",
    "LOG_LEVEL": "warning",
}
PROFILES: dict[str, dict[str, str]] = {
    "development": {},
    "production": {
        "ENV": "production",
        "WEBHOOK_SECRET": WEBHOOK_SECRET,
        "CONSENT_SECRET": CONSENT_SECRET,
        "SIMULATED_CARRIERS": "true",
        "DOCS_ENABLED": "true",
    },
}
#: In development a request without a key is let in, which the document can't say beside what production does.
ASKED_OF_PRODUCTION = "ignored_auth,missing_required_header"


@pytest.mark.timeout(1800 if IS_LONG else 900)
@pytest.mark.parametrize("profile", PROFILES)
def test_the_service_does_what_its_document_says(
    profile: str, tmp_path: Path, new_database: Callable[..., str]
) -> None:
    url = new_database()
    server = LiveServer(tmp_path, port=0, module="app", DATABASE_URL=url, **SERVICE, **PROFILES[profile])
    options = ["--exclude-checks", ASKED_OF_PRODUCTION, "--generation-with-security-parameters", "false"]
    key: dict[str, str] = {}
    if profile == "production":
        key = bearer(make_key(url))
        options = ["--header", f"Authorization: {key['Authorization']}"]
    server.start()
    try:
        report = schemathesis_run(server, tmp_path, *options, secret=PROFILES[profile].get("WEBHOOK_SECRET"))
        assert httpx.get(f"{server.url}/api/messages", headers=key).status_code == 200
    finally:
        server.stop()
    assert "request_failed" not in server.log.read_text()
    assert report["test_cases"]["generated"] >= LEAST_CASES
    print(f"{profile}: {report['test_cases']}, seed {report['seed']}, {report['running_time']:.0f} s")


def schemathesis_run(server: LiveServer, directory: Path, *options: str, secret: str | None) -> dict[str, Any]:
    seed = os.environ.get("SEED") or (str(random.randrange(2**32)) if IS_LONG else SHORT_SEED)
    report = directory / "report.json"
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    command += ["--exclude-path", "/api/events/stream"]  # an answer that does not end
    command += ["--seed", seed, "--max-examples", str(EXAMPLES), "--continue-on-failure", "--no-color"]
    if not IS_LONG:  # the cases of the coverage phase can't be limited in number
        command += ["--phases", "examples,fuzzing,stateful"]
    command += ["--generation-database", "none", "--suppress-health-check", "all", "--no-shrink"]
    command += ["--report", "json", "--report-json-path", str(report), *options]
    environment = (
        os.environ
        | {"SCHEMATHESIS_HOOKS": str(HOOKS), "FUZZ_KEY_ID": "1"}
        | ({"WEBHOOK_SECRET": secret} if secret else {})
    )
    ran = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"seed {seed}\n{ran.stdout}{ran.stderr}"
    found: dict[str, Any] = json.loads(report.read_text())
    return found
