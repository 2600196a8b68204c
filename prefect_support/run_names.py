"""Names and tags of flow runs, such as `12 images · images/cats/ · standard 6 s`, set once the images are known."""

import logging
from collections.abc import Sequence
from os.path import commonprefix
from urllib.parse import urlsplit

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import InputItem
from i2v.request import Mode

log = logging.getLogger(__name__)
LOCATION_MAX_CHARS = 80


def run_name(items: Sequence[InputItem], default: RequestOptions, *, dry_run: bool) -> str:
    """Return the number of images, their location, and the request."""
    count = "1 image" if len(items) == 1 else f"{len(items):,} images"
    return " · ".join([count, _location(items), _request(items, default), *(["dry run"] if dry_run else [])])


def _location(items: Sequence[InputItem]) -> str:
    locations = [item.ref.uri.key if item.ref.uri else urlsplit(item.ref.label).netloc for item in items]
    shared = commonprefix(locations)  # noqa: RUF071 - S3 keys are not paths: `a//b` differs from `a/b`
    if shared not in locations:
        shared = shared[: shared.rfind("/") + 1]
    shown = shared or "several locations"
    return shown if len(shown) <= LOCATION_MAX_CHARS else f"…{shown[1 - LOCATION_MAX_CHARS :]}"


def _request(items: Sequence[InputItem], default: RequestOptions) -> str:
    distinct = {item.options.over(default).model_copy(update={"prompt": None}) for item in items}
    if len(distinct) != 1:
        return "several requests"
    (options,) = distinct
    take = f" take {options.take}" if options.take and options.take > 1 else ""
    return f"{options.mode} {6 if options.mode is Mode.PRO else options.duration} s{take}"


def run_tags(run: FlowRun, mode: Mode | None, label: str | None) -> list[str]:
    """Return the run's tags with mode, source and label added."""
    started_by = "schedule" if run.auto_scheduled else "hand"
    source = next((source for source in ("bucket", "callback") if source in run.tags), started_by)
    return sorted({*run.tags, source, *(tag for tag in (mode, label) if tag)})


async def name_run(items: Sequence[InputItem], default: RequestOptions, *, label: str | None, dry_run: bool) -> None:
    """Set name and tags of the current flow run. If Prefect rejects them, the run keeps its first name."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None:
        return
    try:
        async with get_client() as client:
            name, tags = run_name(items, default, dry_run=dry_run), run_tags(run, default.mode, label)
            await client.update_flow_run(run.id, name=name, tags=tags)
    except Exception as error:  # noqa: BLE001 - a name must never fail a run
        log.warning("the flow run keeps its first name: %r", error)
