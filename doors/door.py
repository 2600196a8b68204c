"""`Door`: the settings, health, metrics and pending images that the HTTP routes and the SQS receiver share."""

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
    """What all parts of one door share; `images` holds the images that wait for a flow run."""

    settings: Settings
    health: Health
    metrics: Metrics
    images: Batcher[NewImage]


def make_door(settings: Settings, health: Health, starter: FlowRunStarter) -> Door:
    """Return a door that starts flow runs with `starter`; the caller runs its batcher."""
    metrics = Metrics()

    async def start_run(images: list[NewImage]) -> None:
        uris = list(dict.fromkeys(str(image.uri) for image in images))
        run = await starter.start({"images": uris}, key=idempotency_key(images), tags=TAGS)
        metrics.count_run(images)
        log.info("Started flow run %s (%s) with %d images", run.name, run.id, len(uris))

    batcher = Batcher(start_run, identity=lambda image: image.identity, on_duplicate=metrics.duplicates.inc)
    metrics.pending.set_function(lambda: len(batcher))
    return Door(settings, health, metrics, batcher)
