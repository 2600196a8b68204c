"""`Prometheus`: a real one with the shipped configuration and rules, and the test's addresses and intervals."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from sandbox.server import NO_TLS
from tests.support.nginx_process import free_port
from tests.support.paths import ROOT

FOLDER = ROOT / "deployments" / "prometheus"
RULES = FOLDER / "alerts.yml"
RULE_TESTS = FOLDER / "alerts.test.yml"
CONFIG = FOLDER / "prometheus.yml"
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="Prometheus is not installed: run make test-metrics",
)


class Prometheus:
    """Scrapes one door each second. Use it in `with`, which kills it at the end."""

    def __init__(self, folder: Path, door_url: str) -> None:
        self._folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        text = CONFIG.read_text()
        for shipped, own in {
            "127.0.0.1:8410": door_url.removeprefix("http://"),
            "- alerts.yml": f"- {RULES}",
            "scrape_interval: 30s": "scrape_interval: 1s",
            "evaluation_interval: 30s": "evaluation_interval: 1s",
        }.items():
            assert shipped in text, shipped
            text = text.replace(shipped, own)
        (folder / "prometheus.yml").write_text(text)

    def __enter__(self) -> Self:
        command = [
            "prometheus",
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        ]
        self._log = (self._folder / "output").open("w")
        self._child = subprocess.Popen(command, stdout=self._log, stderr=self._log)  # noqa: S603 - a real Prometheus
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        self._log.close()

    def firing(self) -> dict[str, dict[str, str]]:
        """Return the annotations of each alert that fires; nothing while Prometheus starts."""
        assert self._child.poll() is None, (self._folder / "output").read_text()
        try:
            answer: dict[str, Any] = httpx.get(f"{self.url}/api/v1/alerts", trust_env=False, verify=NO_TLS).json()
        except (httpx.TransportError, ValueError):
            return {}
        alerts = answer["data"]["alerts"]
        return {each["labels"]["alertname"]: each["annotations"] for each in alerts if each["state"] == "firing"}
