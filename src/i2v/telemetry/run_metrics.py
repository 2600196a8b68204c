"""The metrics of runs: images, money and rendering times. Those of the door are in `doors`."""

from opentelemetry import metrics

from i2v.reports.run_report import ItemReport, Outcome

_METER = metrics.get_meter("i2v")
_IMAGES = _METER.create_counter("i2v.images", "{image}", "Images by outcome")
_CHARGED = _METER.create_counter("i2v.charged", "USD", "Charged for attempts that the provider accepted")
_POSSIBLY = _METER.create_counter("i2v.possibly_charged", "USD", "Possibly charged: the answer to a submit was lost")
_RENDERING = _METER.create_histogram("i2v.render.duration", "s", "How long the provider says that it rendered")


def count_image(line: ItemReport) -> None:
    """Count an image, and what its run was charged for it."""
    _IMAGES.add(1, {"i2v.outcome": line.outcome.value})
    if line.outcome is not Outcome.PLANNED:
        _CHARGED.add(float(line.charges.charged))
        _POSSIBLY.add(float(line.charges.possibly))


def record_rendering(seconds: float) -> None:
    """Record how long a video took to render."""
    _RENDERING.record(seconds)
