"""`start_exporting`: send spans and metrics to a collector, if one is configured and the extra `otel` is installed."""

import logging
import os
import uuid
from importlib.metadata import version

from opentelemetry import metrics, trace

log = logging.getLogger(__name__)
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def start_exporting() -> None:
    """Export by OTLP over HTTP to the collector that OpenTelemetry's own variables name; do nothing without one.

    An SDK that is set up already, such as by `opentelemetry-instrument`, is left alone.
    """
    wanted = {
        signal
        for signal in ("TRACES", "METRICS")
        if (os.environ.get(ENDPOINT) or os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))
        and os.environ.get(f"OTEL_{signal}_EXPORTER", "otlp") == "otlp"
    }
    if not wanted or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    try:
        _set_providers(wanted)
    except ImportError as error:
        log.debug("Spans and metrics are not exported: %s. Install i2v[otel]", error)


def _set_providers(wanted: set[str]) -> None:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415 - an extra
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - an extra

    ours = {"service.name": "i2v", "service.version": version("i2v"), "service.instance.id": str(uuid.uuid4())}
    resource = Resource.create(ours).merge(OTELResourceDetector().detect())
    if "TRACES" in wanted:
        traces = TracerProvider(resource=resource)
        traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(traces)
    if "METRICS" in wanted:
        metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource))
