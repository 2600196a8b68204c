"""Names and tags of the current flow run."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.run_names import run_name, with_time
from i2v.inputs.sources import InputItem
from i2v.request import Mode

log = logging.getLogger(__name__)
SEPARATOR = " · "
"""Prefect's generated names do not have it."""


def current_run() -> FlowRun | None:
    """Return the flow run that this code runs in."""
    context = FlowRunContext.get()
    return context.flow_run if context else None


def is_started_by_door() -> bool:
    """Return whether the door, not a person, chose this run's images."""
    run = current_run()
    return run is not None and "bucket" in run.tags


def first_name(name: str) -> str:
    """Return the name that the run was created with if it says what the run is about, else this one."""
    run = current_run()
    return run.name if run and SEPARATOR in run.name else name


def name_by_images() -> str:
    """Return `images/cats/ · standard 6 s` from the current flow run's parameters; a dry run adds `dry run`."""
    given = runtime.flow_run.parameters
    images = given["images"] or ["no images"]
    what = f"{len(images)} named" if len(images) > 1 else str(getattr(images[0], "image", images[0])).split("?")[0]
    seconds = 6 if given["mode"] == "pro" else given["duration"]
    dry_run = ["dry run"] if given.get("dry_run") else []
    return first_name(" · ".join([what, f"{given['mode']} {seconds} s", *dry_run]))


def run_tags(run: FlowRun, mode: Mode | None = None, label: str | None = None) -> list[str]:
    """Return the run's tags with `i2v`, source, mode and label added: the same however the run was started."""
    started_by = "schedule" if run.auto_scheduled else "hand"
    source = next((source for source in ("bucket", "callback", "batch") if source in run.tags), started_by)
    return sorted({"i2v", *run.tags, source, *(tag for tag in (mode, label) if tag)})


async def tag_run() -> None:
    """Add the tags that every flow's runs have."""
    if run := current_run():
        await _update(run, run.name, run_tags(run))


async def name_run(items: Sequence[InputItem], default: RequestOptions, *, label: str | None, dry_run: bool) -> None:
    """Set name and tags of the current flow run, once its images are known. A name that fits already is kept."""
    if run := current_run():
        name = run_name(items, default, dry_run=dry_run)
        if not run.name.startswith(name):
            name = with_time(name, run.expected_start_time or datetime.now(UTC))
        else:
            name = run.name
        await _update(run, name, run_tags(run, default.mode, label))


async def _update(run: FlowRun, name: str, tags: list[str]) -> None:
    """Change what differs, on the server and here. If Prefect rejects it, the run keeps its first name."""
    if (name, tags) == (run.name, sorted(run.tags)):
        return
    try:
        async with get_client() as client:
            await client.update_flow_run(run.id, name=name, tags=tags)
    except Exception as error:  # noqa: BLE001 - a name must never fail a run
        log.warning("the flow run keeps its first name and tags: %r", error)
        return
    run.name, run.tags = name, tags
