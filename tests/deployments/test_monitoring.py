"""Alert rules and the Grafana dashboard use metrics that the service has."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from deployments.service.metrics import Metrics

FOLDER = Path(__file__).parents[2] / "deployments" / "monitoring"


def exported() -> set[str]:
    """Every series name; a metric with labels has one after its first count."""
    metrics = Metrics()
    metrics.requests.labels("/", 200).inc()
    metrics.seconds.labels("/").observe(1)
    metrics.pictures.labels("done").inc()
    metrics.errors.labels("OSError").inc()
    metrics.load_seconds.labels("base").observe(1)
    metrics.quality.labels("clip").set(1)
    metrics.drifted.labels("clip").set(1)
    lines = generate_latest(metrics.registry).decode().splitlines()
    return {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}


def metric_names(expression: str) -> set[str]:
    return set(re.findall(r"\bnaruto_\w+", expression))


def alerts() -> list[dict[str, str]]:
    return yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]


def panels() -> list[dict[str, object]]:
    return json.loads((FOLDER / "grafana-service.json").read_text())["panels"]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_uses_metrics_that_exist_and_has_a_summary(rule: dict[str, object]):
    assert metric_names(str(rule["expr"])) <= exported()
    assert str(rule["annotations"]["summary"]).endswith(".")  # type: ignore[index]


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_shows_metrics_that_exist(panel: dict[str, list[dict[str, str]]]):
    used = {name for target in panel["targets"] for name in metric_names(target["expr"])}
    assert used
    assert used <= exported()


def test_every_metric_is_shown():
    shown = {name for panel in panels() for target in panel["targets"] for name in metric_names(target["expr"])}  # type: ignore[attr-defined]
    families = {re.sub(r"_(total|bucket|sum|count|created)$", "", name) for name in exported()}
    assert families == {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in shown}


def test_prometheus_reads_the_rules():
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert [(FOLDER / name).is_file() for name in config["rule_files"]] == [True]
    assert config["scrape_configs"][0]["job_name"] == "naruto"
