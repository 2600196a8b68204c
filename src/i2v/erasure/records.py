"""The pure functions that erase what is personal of a job record: each returns the new one, or `None`.

`Ledger.change` writes what they return, as it does with those of `i2v.ledger.transitions`.
"""

from collections.abc import Mapping
from datetime import datetime

from i2v.ledger.attempt import FORGOTTEN, StoredVideo
from i2v.ledger.job import JobImage, JobRecord, JobState


def forget(record: JobRecord, image: JobImage, now: datetime) -> JobRecord | None:
    """Erase what is personal of a job without open attempts: hash, cost and times stay, and `image` of its image.

    The job pays nothing by itself: only a run that names the image may claim it.
    """
    if record.is_open or not record.attempts or record.state is JobState.FORGOTTEN:
        return None
    attempts = tuple(one.erased.model_copy(update={"forgotten": True}) for one in record.attempts)
    update = {"image": image, "request": record.request.model_copy(update={"prompt": FORGOTTEN}), "attempts": attempts}
    return record.model_copy(update={**update, "extra": {}, "forgotten_at": now})


def move(
    record: JobRecord, image: JobImage, video: StoredVideo, extra: Mapping[str, str] | None = None
) -> JobRecord | None:
    """Let a stored job belong to another image with equal content, which has a copy of its video."""
    if record.is_open or record.video is None or record.attempt is None or record.video.sha256 != video.sha256:
        return None
    attempts = tuple(one.erased for one in record.attempts)
    moved = record.model_copy(update={"image": image, "extra": extra or {}, "attempts": attempts})
    end = record.attempt.end
    return moved.with_attempt(
        record.attempt.model_copy(update={"end": end and end.model_copy(update={"video": video})})
    )
