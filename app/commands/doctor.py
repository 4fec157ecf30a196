"""`python -m app doctor`: prints the findings of the doctor."""

import argparse
import json

from app.commands import say
from app.config import Settings
from app.doctor import Report, examine
from app.doctor.findings import Level, counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document, for machines")
    parser.add_argument("--online", action="store_true", help="also fetch PUBLIC_URL")


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    """Print the findings; 1 if there is a problem among them, else 0."""
    report = examine(settings, online=chosen.online)
    say(_as_json(report) if chosen.json else _as_text(report))
    return 1 if report.count(Level.PROBLEM) else 0


def _as_text(report: Report) -> str:
    width = max(len(name) for name, _ in report.findings)
    lines = []
    for name, finding in report.findings:
        lines.append(f"{finding.level:7}  {name:{width}}  {finding.text}")
        if finding.mending:
            lines.append(f"{'':7}  {'':{width}}  > {finding.mending}")
    if report.left_out:
        lines.append(f"\nNot checked, because of the above: {', '.join(report.left_out)}.")
    problems = counted(report.count(Level.PROBLEM), "problem")
    lines.append(f"\n{problems}, {counted(report.count(Level.WARNING), 'warning')}.")
    return "\n".join(lines)


def _as_json(report: Report) -> str:
    """`findings` are objects of `check`, `level`, `text` and `mending`, which is null where nothing is wrong."""
    findings = [
        {"check": name, "level": finding.level.value, "text": finding.text, "mending": finding.mending}
        for name, finding in report.findings
    ]
    counts = {"problems": report.count(Level.PROBLEM), "warnings": report.count(Level.WARNING)}
    return json.dumps({**counts, "findings": findings, "left_out": report.left_out}, indent=2)
