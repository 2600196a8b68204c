"""What a flow run is called once its images are known, `12 images · images/cats/ · standard 6 s`, and its tags.

One request a run, and never worth one: where Prefect does not take it, the run keeps the name that it began with.
"""

from __future__ import annotations

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
PLACE_MOST_CHARS = 80


def run_name(items: Sequence[InputItem], default: RequestOptions, *, dry_run: bool) -> str:
    """How many images, where they lie, and what is asked for them."""
    count = "1 image" if len(items) == 1 else f"{len(items):,} images"
    return " · ".join([count, _place(items), _request(items, default), *(["dry run"] if dry_run else [])])


def _place(items: Sequence[InputItem]) -> str:
    places = [item.ref.uri.key if item.ref.uri else urlsplit(item.ref.label).netloc for item in items]
    shared = commonprefix(places)  # noqa: RUF071 - keys are no paths: `a//b` is another one than `a/b`
    if shared not in places:
        shared = shared[: shared.rfind("/") + 1]
    shown = shared or "several places"
    return shown if len(shown) <= PLACE_MOST_CHARS else f"…{shown[1 - PLACE_MOST_CHARS :]}"


def _request(items: Sequence[InputItem], default: RequestOptions) -> str:
    asked = {item.options.over(default).model_copy(update={"prompt": None}) for item in items}
    if len(asked) != 1:
        return "several requests"
    (one,) = asked
    take = f" take {one.take}" if one.take and one.take > 1 else ""
    return f"{one.mode} {6 if one.mode is Mode.PRO else one.duration} s{take}"


def tags_of(run: FlowRun, mode: Mode | None, label: str | None) -> list[str]:
    """The run's tags with mode, source and label."""
    by_itself = "schedule" if run.auto_scheduled else "hand"
    source = next((source for source in ("bucket", "callback") if source in run.tags), by_itself)
    return sorted({*run.tags, source, *(tag for tag in (mode, label) if tag)})


async def name_run(items: Sequence[InputItem], default: RequestOptions, *, label: str | None, dry_run: bool) -> None:
    """Tell Prefect what this flow run is about."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None:
        return
    try:
        async with get_client() as client:
            name, tags = run_name(items, default, dry_run=dry_run), tags_of(run, default.mode, label)
            await client.update_flow_run(run.id, name=name, tags=tags)
    except Exception as error:  # noqa: BLE001 - a name is never worth a run
        log.warning("the run keeps its first name: %r", error)
