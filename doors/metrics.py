"""Prometheus metrics of the door itself. Metrics of the ledger are in `doors.ledger_gauges`."""

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from doors.s3_notifications import DropReason, NewImage, Notification

LAG_BUCKETS = (0.5, 1, 2, 3, 5, 10, 30, 60, 120, 300, 900, 3600)


class Metrics:
    """The metrics, in a registry of their own: two doors in one process must not share counters."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.received = Counter("i2v_door_received", "Notifications received, by source", ["way"], registry=registry)
        self.dropped = Counter("i2v_door_dropped", "Events that need no video", ["reason"], registry=registry)
        self.unreadable = Counter("i2v_door_unreadable", "Invalid notifications", registry=registry)
        self.duplicates = Counter("i2v_door_duplicates", "Images that were already pending", registry=registry)
        self.images = Counter("i2v_door_images", "Images passed to flow runs", registry=registry)
        self.runs = Counter("i2v_door_runs_created", "Flow runs created", registry=registry)
        lag_text = "Time from the bucket's event to its flow run"
        self.lag = Histogram("i2v_door_event_to_run_seconds", lag_text, buckets=LAG_BUCKETS, registry=registry)
        self.pending = Gauge("i2v_door_in_hand", "Images waiting for their flow run", registry=registry)
        waiting_text = "Age of the oldest notification whose image waits for its flow run"
        self.oldest = Gauge("i2v_door_oldest_seconds", waiting_text, registry=registry)
        self.ready = Gauge(
            "i2v_door_ready", "1 if new notifications become flow runs, as /healthz says", registry=registry
        )
        for reason in DropReason:
            self.dropped.labels(reason.value)

    def count(self, way: str, notification: Notification) -> None:
        """Count a valid notification; `way` is `sqs` or `http`."""
        self.received.labels(way).inc()
        for reason, number in notification.dropped.items():
            self.dropped.labels(reason.value).inc(number)

    def count_invalid(self, way: str) -> None:
        """Count an invalid notification."""
        self.received.labels(way).inc()
        self.unreadable.inc()

    def count_run(self, images: Iterable[NewImage]) -> None:
        """Count a flow run that Prefect has accepted."""
        self.runs.inc()
        now = time.time()
        for image in images:
            self.images.inc()
            if image.event_time is not None:
                self.lag.observe(max(0.0, now - image.event_time))
