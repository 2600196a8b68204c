"""Step 1, free: read the whole image and validate it, once per version of an object."""

import hashlib
from typing import Any

from prefect import task
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext

from i2v.pipeline.context import RunContext
from i2v.pipeline.validate import RULES, ResolvedImage, validate_image
from prefect_support.task_states import RETRIES, validated


def image_version(_context: TaskRunContext, parameters: dict[str, Any]) -> str | None:
    """Return the cache key, a hash of the object's URI, its etag and the rules version; `None` for a URL."""
    image: ResolvedImage = parameters["image"]
    if image.ref.uri is None or image.etag is None:
        return None
    version = f"{RULES} {image.ref.uri} {image.etag}"
    return f"i2v-image-{hashlib.sha256(version.encode()).hexdigest()}"


@task(
    name="validate",
    task_run_name="validate {image.name}",
    cache_key_fn=image_version,
    persist_result=True,
    cache_result_in_memory=False,  # a run reads no result twice; saves 4 KB per image
    result_serializer="json",
    **RETRIES,
)
async def validate(run: RunContext, image: ResolvedImage) -> State[Any] | dict[str, Any]:
    """Validate one image; return a `ValidationResult` as plain JSON, which Prefect may cache."""
    return validated(await validate_image(run, image))
