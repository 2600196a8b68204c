"""What OpenTelemetry's SDK records in this process: `record_telemetry` returns the spans and metrics of a test.

A process has one provider for good, so all tests share it; outside of `record_telemetry` no span is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler, SamplingResult


class _Switch(Sampler):
    is_on = False

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        return (ALWAYS_ON if self.is_on else ALWAYS_OFF).should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return "on while a test records"


class Recorder:
    """The spans that have ended in a test, and the metrics of the process."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.switch = _Switch()
        self._reader = InMemoryMetricReader()
        traces = TracerProvider(self.switch)
        traces.add_span_processor(SimpleSpanProcessor(self.exporter))
        trace.set_tracer_provider(traces)
        metrics.set_meter_provider(MeterProvider([self._reader]))

    def spans(self, name: str) -> list[ReadableSpan]:
        """Return the ended spans of a name."""
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def sums(self) -> dict[str, float]:
        """Return the sum of each counter, and the count of each histogram, over all attributes."""
        data = self._reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        found = [metric for scope in scopes for metric in scope.metrics]
        return {each.name: sum(map(_amount, each.data.data_points)) for each in found}

    def text(self) -> str:
        """Return everything that an exporter would send, as text."""
        data = self._reader.get_metrics_data()
        return "".join(span.to_json() for span in self.exporter.get_finished_spans()) + (data.to_json() if data else "")


def _amount(point: Any) -> float:
    return float(point.value if hasattr(point, "value") else point.count)


@cache
def _recorder() -> Recorder:
    return Recorder()


@contextmanager
def record_telemetry() -> Iterator[Recorder]:
    """Record spans until the end of the block."""
    recorder = _recorder()
    recorder.exporter.clear()
    recorder.switch.is_on = True
    try:
        yield recorder
    finally:
        recorder.switch.is_on = False
