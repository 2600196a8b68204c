"""Images become videos: validate, submit, poll, store, for one image or a thousand, all waits in one process.

What runs here is the order of the steps and nothing else: each step is a task, and what it does is in the library.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from pydantic import Field

from i2v.animate import animate
from i2v.errors import I2vError, UsageError
from i2v.prompts import Asked, check_template
from i2v.request import Duration, Mode
from i2v.runs import open_run
from i2v.settings import read_settings
from i2v.sources import ManifestRow, find_items
from tasks import STEPS
from tasks.ends import final_state, heed_termination, show_library_logs, stopped_state

Images = str | ManifestRow | list[str | ManifestRow]


def run_name() -> str:
    """`images/cats/ · standard 6 s`, and `dry run` where it is one."""
    given = runtime.flow_run.parameters
    images = given["images"] if isinstance(given["images"], list) else [given["images"]]
    what = f"{len(images)} named" if len(images) > 1 else str(getattr(images[0], "image", images[0])).split("?")[0]
    seconds = 6 if given["mode"] == "pro" else given["duration"]
    return " · ".join([what, f"{given['mode']} {seconds} s", *(["dry run"] if given["dry_run"] else [])])


@flow(name="generate", flow_run_name=run_name, validate_parameters=True)
async def generate_videos(
    images: Annotated[
        Images,
        Field(description="s3://bucket/key, s3://bucket/prefix/, https URL, or manifest (.csv, .jsonl); one or a list"),
    ],
    prompt: Annotated[
        str | None, Field(description="For images that bring none; knows {stem}, {key} and {folder}")
    ] = None,
    mode: Annotated[Mode, Field(description="standard: 768p; pro: 1080p, always 6 s")] = Mode.STANDARD,
    duration: Annotated[Duration, Field(description="Seconds of video: 6 or 10")] = 6,
    take: Annotated[int, Field(ge=1, description="Above 1: another video of the same image and prompt")] = 1,
    max_spend_usd: Annotated[Decimal | None, Field(ge=0, description="This run's limit in US dollars")] = None,
    partial: Annotated[bool, Field(description="Go as far as the money goes instead of not starting")] = False,
    delivery: Annotated[Literal["poll", "callback"], Field(description="poll: this run waits for the videos")] = "poll",
    dry_run: Annotated[bool, Field(description="Validate and price everything, pay nothing")] = False,
    label: Annotated[str | None, Field(description="Names the purpose in ledger and report")] = None,
) -> State[Any]:
    """Make a video of each image, store it beside, and never pay twice for one.

    The result is the report of `i2v run --json`; the run fails where an image failed, is unknown or was not tried,
    after everything else was done.
    """
    show_library_logs()
    default = Asked(prompt=prompt, mode=mode, duration=duration, take=take)
    try:
        settings = read_settings()
        check_delivery(delivery)
        check_template(prompt or settings.default_prompt or "")
        run_id = str(runtime.flow_run.id)
        async with open_run(settings, run_id, max_spend_usd=max_spend_usd, label=label, dry_run=dry_run) as run:
            items = await find_items(images, run.storage, settings)
            with heed_termination(run):
                report, stopped = await animate(run, items, default, STEPS, partial=partial)
            return stopped_state(stopped) if stopped else final_state(report)
    except I2vError as error:
        return stopped_state(error)


def check_delivery(delivery: str) -> None:
    """Refuse callbacks, since nothing here could take one yet."""
    if delivery == "callback":
        raise UsageError("delivery callback needs a service that takes callbacks, which is not there yet", "Use poll")
