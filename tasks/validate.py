"""Step 1, free: read an image whole and judge it, once for each version of an object."""

from __future__ import annotations

import hashlib
from typing import Any

from prefect import task
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext

from i2v.pipeline import validate as library
from i2v.pipeline.run import Run
from i2v.pipeline.validate import ResolvedImage
from prefect_support.task_states import validated


def version_of(_context: TaskRunContext, parameters: dict[str, Any]) -> str | None:
    """The cache's key: bucket, key and etag of an object, and the rules' version. A URL has no version."""
    seen: ResolvedImage = parameters["seen"]
    if seen.ref.uri is None or seen.etag is None:
        return None
    version = f"{library.RULES} {seen.ref.uri} {seen.etag}"
    return f"i2v-image-{hashlib.sha256(version.encode()).hexdigest()}"


@task(
    name="validate",
    task_run_name="validate {seen.name}",
    cache_key_fn=version_of,
    persist_result=True,
    cache_result_in_memory=False,  # nobody asks twice in a run: 4 KB an image
    result_serializer="json",
)
async def validate(run: Run, seen: ResolvedImage) -> State[Any] | dict[str, Any]:
    """Validate one image. Return a `ValidationResult` as plain JSON, which Prefect may cache."""
    return validated(await library.validate_image(run, seen))
