"""The dashboard, the alerts and the page of metrics name what the service really tells."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from app.metrics.catalogue import COUNTERS, GAUGES, HISTOGRAMS
from app.metrics.exposition import exposition
from app.metrics.snapshot import Snapshot

ROOT = Path(__file__).parent.parent
ALERTS, DASHBOARD = ROOT / "ops" / "alerts.yml", ROOT / "ops" / "grafana.json"
#: Labels that Prometheus adds.
_OF_PROMETHEUS = {"instance", "job"}
#: The width of a dashboard.
_COLUMNS = 24
#: An outage of a provider, as the metrics tell it, and the alert that it has to raise.
_SCENARIO = """
rule_files: [{alerts}]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - {{series: 'messaging_provider_state{{provider="twilio",state="open",instance="a"}}', values: '0x4 1x20'}}
      - {{series: 'messaging_queue_oldest_due_seconds{{channel="sms",instance="a"}}', values: '1x24'}}
    alert_rule_test:
      - {{eval_time: 1m, alertname: ProviderOut}}
      - eval_time: 3m
        alertname: ProviderOut
        exp_alerts:
          - exp_labels: {{severity: page, provider: twilio}}
            exp_annotations:
              summary: twilio fails
              description: "Its breaker is open: it gets one message at a time until one is accepted."
      - {{eval_time: 5m, alertname: MessagesWait}}
      - {{eval_time: 5m, alertname: QueueUnseen}}
"""


def labels_of_series() -> dict[str, set[str]]:
    """The names of all series that `/metrics` can have, with their labels."""
    told = {
        line.split()[2]
        for line in exposition(Snapshot()).decode().splitlines()
        if line.startswith("# TYPE messaging")
    }
    found: dict[str, set[str]] = {f"{each.name}_total": set(each.labels) for each in COUNTERS}
    found |= {each.name: set(each.labels) for each in GAUGES}
    for each in HISTOGRAMS:
        found[f"{each.name}_bucket"] = {*each.labels, "le"}
        found |= {f"{each.name}_{part}": set(each.labels) for part in ("sum", "count")}
    assert told == {re.sub("_(bucket|sum|count)$", "", name) if name not in told else name for name in found}
    return found


def alert_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


EXPRESSIONS = [
    *(rule["expr"] for rule in alert_rules()),
    *(target["expr"].replace("$__rate_interval", "1m") for panel in panels() for target in panel["targets"]),
]


def parts(expression: Any) -> Iterator[Any]:
    """The nodes of a parsed expression."""
    nodes: list[Any] = []
    promql_parser.walk(expression, nodes.append)
    for node in nodes:
        yield node
        if isinstance(node, promql_parser.MatrixSelector):
            yield node.vector_selector


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_is_one_and_names_metrics_and_labels_that_exist(expression: str) -> None:
    known = labels_of_series()
    used, metrics = set[str](), 0
    allowed = set(_OF_PROMETHEUS)
    for node in parts(promql_parser.parse(expression)):
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name in known, node.name
            metrics += 1
            allowed |= known[node.name]
            used |= {matcher.name for matcher in node.matchers.matchers}
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            used |= set(node.modifier.labels)
    assert used <= allowed
    assert metrics > 0


def test_a_wrong_name_would_be_found() -> None:
    wrong = [
        node.name for node in parts(promql_parser.parse("rate(messaging_nothing_total[1m])")) if hasattr(node, "name")
    ]
    assert "messaging_nothing_total" in wrong


def test_every_alert_says_what_is_wrong_and_how_urgent_it_is() -> None:
    rules = alert_rules()
    assert len({rule["alert"] for rule in rules}) == len(rules) > 10
    for rule in rules:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"]


def test_the_panels_of_the_dashboard_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (column, row)
            for column in range(place["x"], place["x"] + place["w"])
            for row in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= _COLUMNS
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_the_page_of_metrics_has_all_of_them() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    shown = {f"{each.name}_total" for each in COUNTERS} | {each.name for each in (*HISTOGRAMS, *GAUGES)}
    assert sorted(name for name in shown if f"`{name}`" not in page) == []


def test_prometheus_takes_the_alerts(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    scenario = tmp_path / "scenario.yml"
    scenario.write_text(_SCENARIO.format(alerts=ALERTS))
    for words in (["check", "rules", str(ALERTS)], ["test", "rules", str(scenario)]):
        checked = subprocess.run([promtool, *words], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_prometheus_takes_the_text_of_the_metrics() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    text = exposition(Snapshot.take())
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr.decode()
