"""What Prometheus reads of the door itself. The ledger's gauges are in `doors.ledger_gauges`."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from doors.notifications import DropReason, NewImage, Notification

SECONDS = (0.5, 1, 2, 3, 5, 10, 30, 60, 120, 300, 900, 3600)


class Metrics:
    """Counters in a registry of their own, so that two doors in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.received = Counter("i2v_door_received", "Notifications that came, by way", ["way"], registry=self.registry)
        self.dropped = Counter(
            "i2v_door_dropped", "Events that make no video, by reason", ["reason"], registry=self.registry
        )
        self.unreadable = Counter("i2v_door_unreadable", "Notifications that can never work", registry=self.registry)
        self.duplicates = Counter("i2v_door_duplicates", "Images that were in hand already", registry=self.registry)
        self.images = Counter("i2v_door_images", "Images handed to flow runs", registry=self.registry)
        self.runs = Counter("i2v_door_runs_created", "Flow runs created", registry=self.registry)
        self.lag = Histogram(
            "i2v_door_event_to_run_seconds",
            "From the bucket's event to its flow run",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_hand = Gauge("i2v_door_in_hand", "Images that wait for their flow run", registry=self.registry)
        for reason in DropReason:
            self.dropped.labels(reason.value)

    def count(self, way: str, found: Notification) -> None:
        """A notification that was read."""
        self.received.labels(way).inc()
        for reason, number in found.dropped.items():
            self.dropped.labels(reason.value).inc(number)

    def count_run(self, images: Iterable[NewImage]) -> None:
        """A flow run that Prefect has."""
        self.runs.inc()
        now = time.time()
        for image in images:
            self.images.inc()
            if image.event_time is not None:
                self.lag.observe(max(0.0, now - image.event_time))
