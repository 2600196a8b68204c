"""The door's metrics: dashboards, alerts and pages use names that exist, and a real Prometheus sees an alert fire."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

from prometheus_client import CollectorRegistry

from deployments.grafana.dashboard import FILE as DASHBOARD
from doors.health import Health
from doors.http.callbacks import Callbacks
from doors.image_intake import make_intake
from doors.ledger_gauges import LedgerGauges
from doors.prefect_gauges import PrefectGauges
from doors.sqs_gauges import SqsGauges
from i2v.ledger import keys
from i2v.settings import Settings
from sandbox import Sandbox
from tests.support.documents import read_page
from tests.support.door_process import DoorProcess, wait_for
from tests.support.i2v_command import bare_env
from tests.support.job_records import IMAGE, READY, claim_as, lose
from tests.support.prometheus_process import RULE_TESTS, RULES, Prometheus, needs_prometheus
from tests.support.settings import SealedSettings

SUFFIXES = ("_total", "_bucket", "_sum", "_count", "")
NAME = re.compile(r"\bi2v_[a-z0-9_]+")


def _registry() -> CollectorRegistry:
    """Return the metrics of a door that has everything."""
    settings, nothing = SealedSettings(I2V_BUCKET="b-1"), cast("Any", None)
    registry = make_intake(settings, Health(), nothing, nothing).metrics.registry
    LedgerGauges(nothing, settings, registry)
    PrefectGauges(nothing, registry)
    SqsGauges(nothing, registry)
    Callbacks(settings, nothing, nothing, registry)
    return registry


def _metrics() -> dict[str, str]:
    """Return each metric's name as it is scraped, with the name of its row in the documentation."""
    names: dict[str, str] = {}
    for family in _registry().collect():
        shown = f"{family.name}_total" if family.type == "counter" else family.name
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {f"{family.name}{suffix}": shown for suffix in suffixes}
    return names


def _names(text: str) -> set[str]:
    return set(NAME.findall(re.sub(r"i2v_\(ledger\|prefect\|sqs\)_age_seconds", "i2v_ledger_age_seconds", text)))


def test_dashboard_and_alerts_use_metrics_that_exist() -> None:
    """Each metric in a panel, an alert or a test of alerts is one that the door has."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(queries) > len(panels) > 10

    used = {
        "dashboard": _names("\n".join(queries)),
        "alerts": _names(RULES.read_text()),
        "tests": _names(RULE_TESTS.read_text()),
    }
    assert all(len(names) > 8 for names in used.values())
    assert {where: names - set(_metrics()) for where, names in used.items()} == {where: set() for where in used}


def test_the_page_lists_every_metric() -> None:
    """docs/doors.md names each metric of the door, and no other."""
    table = read_page("docs/doors.md").partition("## Health and metrics")[2]

    assert _names(table) == set(_metrics().values())


@needs_prometheus
def test_prometheus_scrapes_the_door_and_an_alert_fires(sandbox: Sandbox, settings: Settings, tmp_path: Path) -> None:
    """A Prometheus with the shipped files scrapes a door, and alerts of an unknown job in the ledger, with advice."""
    unknown = lose(claim_as(READY, "c"), "c")
    for uri, body in {
        keys.job_uri(settings, unknown.key): unknown.model_dump_json().encode(),
        keys.open_marker_uri(settings, IMAGE, unknown.key, 1): b"",
    }.items():
        sandbox.s3().put_object(Bucket=uri.bucket, Key=uri.key, Body=body)
    env = bare_env(**sandbox.env, PREFECT_API_URL="http://127.0.0.1:9/api", PREFECT_HOME=str(tmp_path / "home"))

    with DoorProcess(env, tmp_path / "door.log") as door, Prometheus(tmp_path, door.url) as prometheus:
        annotations = wait_for(lambda: prometheus.firing().get("I2vJobsUnknown", {}))
        others = set(prometheus.firing()) - {"I2vJobsUnknown"}

    assert annotations["summary"].startswith("1 jobs may have been charged")
    assert "i2v jobs resolve KEY --adopt TASKID" in annotations["action"]
    assert others == set(), "the others wait for some minutes, or know nothing without Prefect"
