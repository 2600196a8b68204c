"""Without the extra `otel`, a configured collector changes nothing."""

from __future__ import annotations

import logging
import sys

import pytest
from opentelemetry import metrics, trace

from i2v.telemetry.exporters import ENDPOINT, start_exporting


def test_without_the_packages_nothing_is_set_up_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing SDK causes no error or warning: spans and metrics stay no-ops."""
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    set_up: list[object] = []
    monkeypatch.setattr(trace, "set_tracer_provider", set_up.append)
    monkeypatch.setattr(metrics, "set_meter_provider", set_up.append)
    with caplog.at_level(logging.DEBUG):
        start_exporting()

    assert set_up == []
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert "i2v[otel]" in caplog.text
