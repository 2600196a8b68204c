"""The Grafana dashboard and the Prometheus alerts that are shipped."""

from __future__ import annotations

import subprocess

import yaml

from deployments.grafana.dashboard import FILE, build
from tests.support.documents import rows
from tests.support.prometheus_process import CONFIG, RULE_TESTS, RULES, needs_prometheus

ALERTS = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]


def _promtool(*words: str) -> str:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)  # noqa: S603, S607 - Debian's
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_dashboard_is_what_its_script_writes() -> None:
    """deployments/grafana/i2v.json is current: python -m deployments.grafana.dashboard writes it."""
    assert FILE.read_text() == build()


def test_each_alert_says_what_to_do() -> None:
    """Each alert has a severity, a summary and an action, a test that it fires, and a row in the documentation."""
    assert len(ALERTS) >= 7
    tests = RULE_TESTS.read_text()

    assert {alert["labels"]["severity"] for alert in ALERTS} == {"warning", "critical"}
    assert [alert["alert"] for alert in ALERTS if len(alert["annotations"]["action"].split()) < 10] == []
    assert [alert["alert"] for alert in ALERTS if not alert["annotations"]["summary"]] == []
    assert [alert["alert"] for alert in ALERTS if f'alertname="{alert["alert"]}", severity' not in tests] == []
    assert {name.strip("`") for name, _ in rows("docs/monitoring.md", "Prometheus and Grafana")} == {
        alert["alert"] for alert in ALERTS
    }


@needs_prometheus
def test_promtool_accepts_rules_and_configuration() -> None:
    """Prometheus' own tool accepts the shipped files, and the alerts pass their tests."""
    assert f"{len(ALERTS)} rules found" in _promtool("check", "config", str(CONFIG))
    assert "SUCCESS" in _promtool("test", "rules", str(RULE_TESTS))
