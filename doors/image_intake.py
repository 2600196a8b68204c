"""`ImageIntake`: new images from HTTP and SQS become runs of `flows/generate.py` (deployment `on-image`)."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from doors.batcher import Batcher
from doors.health import Health
from doors.metrics import Metrics
from doors.s3_notifications import NewImage, idempotency_key
from i2v.errors import I2vError, NotFound
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.run_names import run_name, with_time
from i2v.inputs.sources import InputItem
from i2v.media.images import ImageRef
from i2v.request import Mode
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

if TYPE_CHECKING:
    from doors.flow_run_starter import FlowRunStarter  # imports Prefect, which this module does not need

log = logging.getLogger(__name__)
ON_IMAGE = "generate/on-image"
TAGS = ("bucket",)
KEY_CHECK_SECONDS = 5.0


@dataclass(frozen=True)
class ImageIntake:
    """What all inputs of one door share; `images` holds the images that wait for a flow run."""

    settings: Settings
    health: Health
    metrics: Metrics
    images: Batcher[NewImage]


def make_intake(settings: Settings, health: Health, starter: "FlowRunStarter", storage: Storage) -> ImageIntake:
    """Return an intake that starts flow runs with `starter`; the caller runs its batcher."""
    metrics = Metrics()

    async def start_run(images: list[NewImage]) -> None:
        found = await asyncio.gather(*(find_image(storage, image) for image in images))
        uris = list(dict.fromkeys(found))
        parameters, key = {"images": list(map(str, uris))}, idempotency_key(images)
        run = await starter.start(parameters, key=key, name=lambda given: name_of_run(uris, given), tags=TAGS)
        metrics.count_run(images)
        log.info("Started flow run %s (%s) with %d image%s", run.name, run.id, len(uris), "" if len(uris) == 1 else "s")

    batcher = Batcher(start_run, identity=lambda image: image.identity, on_duplicate=metrics.duplicates.inc)
    metrics.pending.set_function(lambda: len(batcher))
    metrics.oldest.set_function(lambda: oldest_seconds(batcher.items))
    metrics.ready.set_function(lambda: health.is_ready)
    return ImageIntake(settings, health, metrics, batcher)


def oldest_seconds(images: Sequence[NewImage]) -> float:
    """Return how long ago the first of these images was uploaded, as far as their events say."""
    now = time.time()
    return max((now - image.event_time for image in images if image.event_time is not None), default=0.0)


def name_of_run(uris: Sequence[S3Uri], parameters: Mapping[str, Any]) -> str:
    """Return the name that the run would give itself, so that the door's log and Prefect's UI agree."""
    default = RequestOptions(mode=Mode.STANDARD, duration=6, take=1)
    given = {name: parameters[name] for name in ("mode", "duration", "take") if parameters.get(name)}
    with suppress(ValidationError):  # the run says what is wrong with the deployment's parameters
        default = RequestOptions.model_validate(default.model_dump() | given)
    return with_time(run_name([InputItem(ref=ImageRef(uri=uri)) for uri in uris], default), datetime.now(UTC))


async def find_image(storage: Storage, image: NewImage) -> S3Uri:
    """Return the object that an event means: the key as sent if only that exists, else the decoded key.

    S3 is queried only if both are possible. If it does not answer in time, the decoded key is meant.
    """
    if image.raw_key is None or await _exists(storage, image.uri) is not False:
        return image.uri
    raw = image.uri._replace(key=image.raw_key)
    return raw if await _exists(storage, raw) else image.uri


async def _exists(storage: Storage, uri: S3Uri) -> bool | None:
    """Return whether the object exists; `None` if S3 does not say."""
    try:
        async with asyncio.timeout(KEY_CHECK_SECONDS):
            await storage.head(uri)
    except NotFound:
        return False
    except (I2vError, TimeoutError):
        return None
    return True
