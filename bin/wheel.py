"""Build the wheel, install it into an environment without anything else, and pass the end-to-end check with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build" / "wheel"
ENVIRONMENT = BUILT / "environment"
UV = ROOT / "build" / "tools" / "bin" / "uv"
SCRIPTS, EXE = ("Scripts", ".exe") if sys.platform == "win32" else ("bin", "")


def main() -> int:
    shutil.rmtree(BUILT, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", BUILT], cwd=ROOT, check=True)
    [wheel] = BUILT.glob("*.whl")
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, ENVIRONMENT], check=True)
    python = ENVIRONMENT / SCRIPTS / f"python{EXE}"
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, wheel], check=True)
    program = ENVIRONMENT / SCRIPTS / f"messaging-service{EXE}"
    subprocess.run([program, "--version"], cwd=BUILT, check=True)
    environment = os.environ | {"SERVICE_PROGRAM": str(program)}
    return subprocess.run([sys.executable, "bin/e2e.py"], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
