"""The alert rules and the dashboard in ``cron/``: Prometheus accepts their queries, and the metrics in them exist.

The test cases of the alerts are in ``prometheus-rules-test.yml``, in the format of `promtool test rules`.
"""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from retrycli.cli import HOMES
from retrycli.domain import passes
from retrycli.domain.message import State
from retrycli.views.prometheus import samples
from tests.cron.machine import FILES, run, tool
from tests.unit.views.test_prometheus import AT_WORK

RULES = FILES / "prometheus-rules.yml"
CASES = Path(__file__).with_name("prometheus-rules-test.yml")
DASHBOARD: dict[str, Any] = json.loads((FILES / "grafana-dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
VARIABLES = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
ALERTS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]

TOLD = {str(sample["name"]) for sample in samples(AT_WORK)}
"""The names of all metrics that a pass can write."""
LABELS = {label for sample in samples(AT_WORK) if isinstance(sample["labels"], dict) for label in sample["labels"]}
OF_THE_SCRAPE = {"instance", "job"}
"""Labels that Prometheus adds."""


def promtool() -> str:
    return tool("promtool", "prometheus")


def expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def filled(panel: dict[str, Any], host: str) -> list[str]:
    """Return a panel's queries as Grafana sends them for a host."""
    return [expression.replace("$__interval", "30m").replace("$instance", host) for expression in expressions(panel)]


EXPRESSIONS = [
    *[pytest.param(each["expr"], id=each["alert"]) for each in ALERTS],
    *[pytest.param(each, id=f"{panel['title']}-{n}") for panel in PANELS for n, each in enumerate(expressions(panel))],
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_in_a_query_exists(expression: str) -> None:
    asked = set(re.findall(r"\bretrycli_\w+", expression))
    assert asked
    assert asked <= TOLD


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_label_in_a_query_exists(expression: str) -> None:
    matched = re.findall(r"(\w+)=~?\"", expression)
    grouped = re.findall(r"(?:by|without) \((\w+)\)", expression)
    assert {*matched, *grouped} <= LABELS | OF_THE_SCRAPE


def test_every_state_in_a_query_exists() -> None:
    asked = {match for case in EXPRESSIONS for match in re.findall(r'state="(\w+)"', str(case.values[0]))}
    assert asked == {"waiting", "escalated"} <= set(State)


def test_promtool_accepts_the_rules() -> None:
    done = run(promtool(), "check", "rules", RULES)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"SUCCESS: {len(ALERTS)} rules found" in done.stdout


def test_each_alert_fires_when_it_should_and_not_earlier() -> None:
    """`RetrycliLate` fires after two missed ticks and five minutes. The test cases say when the other alerts fire."""
    done = run(promtool(), "test", "rules", CASES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_each_alert_has_a_test_case() -> None:
    assert {alert["alert"] for alert in ALERTS} == set(re.findall(r"alertname: (\w+)", CASES.read_text()))


def test_the_late_alert_agrees_with_status() -> None:
    [late] = [alert["expr"] for alert in ALERTS if alert["alert"] == "RetrycliLate"]
    grace = passes.LATE_GRACE.total_seconds()
    allowed = f"{passes.LATE_AFTER_INTERVALS} * retrycli_retry_interval_seconds + {grace:g}"
    assert late.endswith(f">= {allowed}")


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alerts_summary_ends_with_a_command(alert: dict[str, Any]) -> None:
    _, _, command = alert["annotations"]["summary"].rpartition(": retrycli ")
    assert command.split()[0] in HOMES
    assert alert["labels"]["severity"] in {"warning", "critical"}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_commands_in_descriptions_exist(alert: dict[str, Any]) -> None:
    named = re.findall(r"`retrycli ([a-z-]+)`", alert["annotations"]["description"])
    assert set(named) <= set(HOMES)


def test_each_panel_uses_the_chosen_prometheus() -> None:
    """A panel with a fixed data source would show nothing in another Grafana."""
    sources = [entry["datasource"] for panel in PANELS for entry in (panel, *panel["targets"])]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    [chosen] = [variable for variable in DASHBOARD["templating"]["list"] if variable["name"] == "datasource"]
    assert (chosen["type"], chosen["query"]) == ("datasource", "prometheus")


def test_each_used_variable_is_defined() -> None:
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS)))
    assert used - {"__interval"} == set(VARIABLES)


def test_panels_have_titles_and_descriptions() -> None:
    assert len({panel["title"] for panel in PANELS}) == len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert all(panel["description"] for panel in PANELS)
    named = {word for panel in PANELS for word in re.findall(r"retrycli ([a-z-]+)", panel["description"])}
    assert named <= set(HOMES)


def test_panels_do_not_overlap_or_leave_the_grid() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


SHARED = {
    "Waiting": [('{instance="HOST"}', 7)],
    "Escalated": [('{instance="HOST"}', 2)],
    "Messages in the queue": [('{state="waiting"}', 7), ('{state="escalated"}', 2), ("{}", 3)],
    "Waiting messages by type": [('{type="customer"}', 4), ('{type="supplier"}', 3)],
    "Attempts by outcome": [('{outcome="delivered"}', 10)],
    "Passes": [('{result="completed"}', 2)],
}
"""The values that each counting panel must show for a database that two hosts share."""


@pytest.mark.parametrize("host", ["mill", "quarry"])
def test_metrics_of_two_hosts_with_one_database_are_counted_once(tmp_path: Path, host: str) -> None:
    """Each host reports the whole database, so a sum over hosts would count each message twice."""
    [chosen] = [variable for variable in DASHBOARD["templating"]["list"] if variable["name"] == "instance"]
    assert (chosen["multi"], chosen["includeAll"]) == (False, False)
    told = {
        'retrycli_messages{instance="HOST",state="waiting",type="customer"}': "4x4",
        'retrycli_messages{instance="HOST",state="waiting",type="supplier"}': "3x4",
        'retrycli_messages{instance="HOST",state="escalated",type="customer"}': "2x4",
        'retrycli_due_messages{instance="HOST"}': "3x4",
        'retrycli_attempts_total{instance="HOST",outcome="delivered"}': "100+5x4",
        'retrycli_passes_total{instance="HOST",result="completed"}': "50+1x4",
    }
    series = [
        {"series": name.replace("HOST", each), "values": values}
        for each in ("mill", "quarry", "alone")
        for name, values in told.items()
    ]
    questions = {
        panel["title"]: " or ".join(f"({expression})" for expression in filled(panel, host)) for panel in PANELS
    }
    asked = [
        {
            "expr": questions[title],
            "eval_time": "1h",
            "exp_samples": [{"labels": labels.replace("HOST", host), "value": value} for labels, value in shown],
        }
        for title, shown in SHARED.items()
    ]
    file = tmp_path / "shared.yml"
    file.write_text(yaml.safe_dump({"tests": [{"interval": "15m", "input_series": series, "promql_expr_test": asked}]}))
    done = run(promtool(), "test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_host_without_passes_is_visible_whichever_host_is_chosen() -> None:
    [began] = [panel for panel in PANELS if panel["title"] == "Last pass began"]
    assert expressions(began) == ["time() - retrycli_last_pass_start_timestamp_seconds"]


def test_prometheus_accepts_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """Each query, with Grafana's variables filled in, becomes a rule that `promtool check rules` can check."""
    asked = [expression for panel in PANELS for expression in filled(panel, "box:9100")]
    assert "$" not in "".join(asked)
    rules = [{"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(asked)]
    file = tmp_path / "asked.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = run(promtool(), "check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(asked)} rules found" in done.stdout
