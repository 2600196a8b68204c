"""The image of runs that are containers: the build, push and pull steps of prefect.container.yaml or another file."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import WorkPool
from prefect.deployments.steps.core import StepExecutionError, run_steps
from prefect.utilities.templating import apply_values, find_placeholders

from deployments.sync_deployments import ROOT, read_config
from deployments.work_pool import POOL, POOL_TYPE
from i2v.errors import Stopped, UsageError

STEPS = ROOT / "deployments" / "prefect.container.yaml"
_IMAGE = re.compile(r"(?P<image_name>[^\s@]+):(?P<image_tag>[\w.-]+)")


async def with_image(config: Mapping[str, Any], image: str, steps: Path = STEPS, *, build: bool) -> dict[str, Any]:
    """Return prefect.yaml with the image for each deployment and the pull steps of a file.

    With `build`, build and push the image first. Raise `UsageError` if image or file cannot be used, `Stopped` if the
    image is not built or not pushed.
    """
    match = _IMAGE.fullmatch(image)
    if match is None:
        raise UsageError(f"{image!r} is not an image with a tag", "Use e.g. --image registry.example.com/i2v:0.1.0")
    own = read_config(steps)
    if not own.get("pull") or (build and not own.get("build")):
        raise UsageError(
            f"{steps} has no {'build' if own.get('pull') else 'pull'} steps", f"Compare it with {STEPS.name}"
        )
    _check_variables(own, steps)
    if build:
        await _build([*own["build"], *own.get("push", [])], match.groupdict())
    deployments = [_with_variable(each, image) for each in config["deployments"]]
    return {**config, "pull": apply_values(own["pull"], match.groupdict()), "deployments": deployments}


def check_pool(pool: WorkPool | None) -> None:
    """Raise `UsageError` unless the runs of the pool are containers."""
    if pool is None:
        raise UsageError(f"The work pool {POOL} does not exist yet", "Create it first with its type: docs/deploying.md")
    if pool.type == POOL_TYPE:
        raise UsageError(f"The runs of the work pool {POOL} are processes and have no image", "Leave out --image")


def _check_variables(own: Mapping[str, Any], steps: Path) -> None:
    variables = {each.name.removeprefix("$") for each in find_placeholders(own["pull"]) if each.name.startswith("$")}
    missing = sorted(name for name in variables if not os.environ.get(name))
    if missing:
        raise UsageError(f"{', '.join(missing)} is not set", f"{steps.name} says what it needs")


async def _build(steps: list[dict[str, Any]], values: dict[str, str]) -> None:
    try:
        await run_steps(steps, values)
    except StepExecutionError as error:
        reason = error.__cause__ or error
        hint = "Install prefect-docker and Docker with buildx, or build with make image, push it, and leave out BUILD"
        raise Stopped(f"The image was not built and pushed: {type(reason).__name__}: {reason}", hint) from None


def _with_variable(deployment: Mapping[str, Any], image: str) -> dict[str, Any]:
    pool = deployment["work_pool"]
    return {**deployment, "work_pool": {**pool, "job_variables": {"image": image, **pool.get("job_variables", {})}}}
