"""The alerts, the dashboard and the page of metrics agree with what the processes report."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from ccat_workflow_manager import metrics
from ccat_workflow_manager.context import Context
from tests.docs.test_docs import REPOSITORY, anchors

ALERTS = REPOSITORY / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "ccat-wm.json"
PAGE = REPOSITORY / "docs" / "metrics.md"
_METRIC = re.compile(r"\bccat_wm_\w+")
_HISTOGRAM_PART = re.compile(r"_(bucket|count|sum)$")


@pytest.fixture
def reported(context: Context) -> set[str]:
    """The names of all metrics, as queries have them: those of histograms without the name of their parts."""
    text = metrics.exposition(context.metrics, context.doorbell_metrics).decode()
    found = {(name, kind) for name, kind in re.findall(r"^# TYPE (\S+) (\w+)", text, re.MULTILINE)}
    # A histogram and a counter also report when their first series was made.
    return {name for name, _ in found if not name.endswith("_created")}


def named(text: str, reported: set[str]) -> set[str]:
    """The metrics that a text names."""
    found = set(_METRIC.findall(text))
    return {name if name in reported else _HISTOGRAM_PART.sub("", name) for name in found}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_page_lists_every_metric(reported: set[str]) -> None:
    rows = set(re.findall(r"^\| `(ccat_wm_\w+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert rows == reported


def test_every_metric_of_an_alert_exists(reported: set[str]) -> None:
    for rule in rules():
        used = named(rule["expr"], reported)
        assert used, rule["alert"]
        assert used <= reported, rule["alert"]


def test_every_alert_leads_to_what_to_do() -> None:
    for rule in rules():
        name, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert anchor in anchors(REPOSITORY / name), rule["alert"]
        assert rule["annotations"]["summary"]


def test_every_metric_of_the_dashboard_exists(reported: set[str]) -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        for target in panel["targets"]:
            assert named(target["expr"], reported) <= reported, panel["title"]
    assert set().union(*(named(json.dumps(panel), reported) for panel in panels)) == reported
