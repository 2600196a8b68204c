"""Images become videos: validate, submit, poll, store, for one image or a thousand, all waits in one process.

What runs here is the order of the steps and nothing else: each step is a task, and what it does is in the library.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from pydantic import Field

from i2v import outcomes, plan
from i2v.errors import I2vError, Stopped, UsageError
from i2v.jobs import JobState
from i2v.prompts import Asked, check_template
from i2v.report import ItemReport, Report
from i2v.request import Duration, Mode
from i2v.runs import Run, open_run
from i2v.settings import read_settings
from i2v.sources import Item, ManifestRow, find_items
from i2v.store import finish, put_verdict, refusal
from i2v.submit import Order
from i2v.validate import Checked, look, make_order, make_request
from tasks.ends import final_state, outcome, show_library_logs, stopped_state
from tasks.poll import poll
from tasks.store import store
from tasks.submit import submit
from tasks.validate import validate

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
            return await generate(run, items, default, partial=partial, dry_run=dry_run)
    except I2vError as error:
        return stopped_state(error)


def check_delivery(delivery: str) -> None:
    """Refuse callbacks, since nothing here could take one yet."""
    if delivery == "callback":
        raise UsageError("delivery callback needs a service that takes callbacks, which is not there yet", "Use poll")


async def generate(run: Run, items: Sequence[Item], default: Asked, *, partial: bool, dry_run: bool) -> State[Any]:
    """Prepare all images, see that they can be paid, animate them, and report."""
    if not dry_run:
        await run.ledger.prove()
    run.tell_count(len(items))
    prepared = [asyncio.ensure_future(prepare(run, item, default, dry_run=dry_run)) for item in items]
    stopped = None if dry_run else await secure_money(run, prepared, partial=partial)
    reports = await asyncio.gather(*(animate(run, each, dry_run=dry_run) for each in prepared))
    report = Report(items=tuple(reports), stopped=run.stopped.message if run.stopped else None)
    await run.end(report)
    return stopped_state(stopped) if stopped else final_state(report)


async def secure_money(
    run: Run, prepared: Sequence[asyncio.Future[Order | ItemReport]], *, partial: bool
) -> Stopped | None:
    """Stop a run that cannot be paid in full. Where even the worst case can, nobody waits for all to be validated."""
    try:
        room, limit = await plan.room_usd(run)
        if room is not None and plan.worst_case_usd(run, len(prepared)) > room:
            orders = [order for order in await asyncio.gather(*prepared) if isinstance(order, Order)]
            plan.check_money(await plan.still_to_pay(run, orders), room, limit, partial=partial)
            run.budget.lower_limit(room)
    except Stopped as error:
        run.stop_submits("stopped", error.message)
        return error
    return None


async def prepare(run: Run, item: Item, default: Asked, *, dry_run: bool) -> Order | ItemReport:
    """Look at an image, validate it and price its request; nothing is paid here."""
    try:
        seen = await look(run, item, default)
        request = make_request(seen)
        found = await outcome(validate, run, seen, keep_input=not dry_run)
        checked = Checked.model_validate(found)
        if checked.facts:
            return make_order(run, seen, checked, request, run.record.label)
        if not dry_run:
            await put_verdict(run, refusal(seen, checked, request))
        return outcomes.refused(run, seen, checked)
    except I2vError as error:
        return outcomes.of_error(run, item.ref.label, error)


async def animate(run: Run, prepared: asyncio.Future[Order | ItemReport], *, dry_run: bool) -> ItemReport:
    """One image from its order to its end."""
    order = await prepared
    if isinstance(order, ItemReport):
        report = order
    else:
        try:
            report = await (outcomes.foresee(run, order) if dry_run else bring(run, order))
        except I2vError as error:
            report = outcomes.of_error(run, order.image.label, error, order)
    run.tell(report.outcome, report.image)
    return report


async def bring(run: Run, order: Order) -> ItemReport:
    """Submit, poll and store until the job has ended, then give this image its answers."""
    async with run.job_lock(order.key), run.in_flight:
        held = await outcome(submit, run, order)
        first = held.record
        while held.record.state in {JobState.SUBMITTED, JobState.READY}:
            if held.record.state is JobState.READY:
                await run.sleep(run.settings.poll_every_seconds)
                held = await outcome(submit, run, order)
                continue
            held, status = await outcome(poll, run, held)
            if status:
                held = await outcome(store, run, held, status)
            elif held.record.state is JobState.SUBMITTED:
                break
        video = await finish(run, held.record, order.image)
        return outcomes.of_job(run, order, held.record, video, cached=first.state is JobState.STORED)
