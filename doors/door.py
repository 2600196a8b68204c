"""What all parts of the door share: `Door`, and how images become a flow run."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from doors.batcher import Batcher
from doors.flow_run_starter import FlowRunStarter
from doors.health import Health
from doors.metrics import Metrics
from doors.notifications import NewImage, idempotency_key
from i2v.settings import Settings

log = logging.getLogger(__name__)
ON_IMAGE = "generate/on-image"
TAGS = ("bucket",)


@dataclass(frozen=True)
class Door:
    """One door: its settings, how it fares, what it counts, and the images in hand."""

    settings: Settings
    health: Health
    metrics: Metrics
    images: Batcher[NewImage]


def make_door(settings: Settings, health: Health, deployment: FlowRunStarter) -> Door:
    """A door whose images become runs of this deployment; its gatherer is still to be run."""
    metrics = Metrics()

    async def create(images: list[NewImage]) -> None:
        uris = list(dict.fromkeys(str(image.uri) for image in images))
        run = await deployment.start({"images": uris}, key=idempotency_key(images), tags=TAGS)
        metrics.count_run(images)
        log.info("%d images -> run %s (%s)", len(uris), run.name, run.id)

    gatherer = Batcher(create, identity=_identity, on_duplicate=metrics.duplicates.inc)
    metrics.in_hand.set_function(lambda: len(gatherer))
    return Door(settings, health, metrics, gatherer)


def _identity(image: NewImage) -> str:
    return image.identity
