"""From images to videos: `animate` prepares all images of a run, sees that they can be paid, and brings each home.

The four steps are given as `Steps`: the library's own, or an orchestrator's tasks around them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from i2v import outcomes, plan
from i2v.apixo.models import TaskStatus
from i2v.errors import I2vError, Stopped
from i2v.jobs import JobState
from i2v.ledger import Held
from i2v.poll import poll
from i2v.prompts import Asked
from i2v.report import ItemReport, Report
from i2v.runs import Run
from i2v.sources import Item
from i2v.store import finish, put_verdict, refusal, store
from i2v.submit import Order, submit
from i2v.validate import Checked, Seen, check, look, make_order, make_request


@dataclass(frozen=True, slots=True)
class Steps:
    """What is done to an image, in this order. Each may raise what the library's own step of that name raises."""

    validate: Callable[[Run, Seen], Awaitable[Checked]] = check
    submit: Callable[[Run, Order], Awaitable[Held]] = submit
    poll: Callable[[Run, Held], Awaitable[tuple[Held, TaskStatus | None]]] = poll
    store: Callable[[Run, Held, TaskStatus], Awaitable[Held]] = store


async def animate(
    run: Run, items: Sequence[Item], default: Asked, steps: Steps, *, partial: bool = False
) -> tuple[Report, Stopped | None]:
    """Make a video of each image, or in a dry run foresee what would be made.

    Args:
        run: the flow run; its `dry_run` says whether anything is paid.
        items: what to animate.
        default: what is asked for images that bring nothing of their own.
        steps: what is done to each image.
        partial: whether to go as far as the money goes.

    Returns:
        The report, and the error that stopped the run before its first submit, if one did.

    Raises:
        UsageError: the ledger belongs to another provider or account.
        LedgerError: the ledger cannot be read, written or trusted.
    """
    if not run.dry_run:
        await run.ledger.prove()
    run.tell_count(len(items))
    prepared = [asyncio.ensure_future(prepare(run, item, default, steps)) for item in items]
    stopped = None if run.dry_run else await _secure_money(run, prepared, partial=partial)
    reports = await asyncio.gather(*(_end(run, each, steps) for each in prepared))
    report = Report(items=tuple(reports), stopped=run.stopped.message if run.stopped else None)
    await run.end(report)
    return report, stopped


async def _secure_money(
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


async def prepare(run: Run, item: Item, default: Asked, steps: Steps) -> Order | ItemReport:
    """Look at an image, validate it and price its request; nothing is paid here."""
    try:
        seen = await look(run, item, default)
        request = make_request(seen)
        checked = await steps.validate(run, seen)
        if checked.facts:
            return make_order(run, seen, checked, request)
        if not run.dry_run:
            await put_verdict(run, refusal(seen, checked, request))
        return outcomes.refused(run, seen, checked)
    except I2vError as error:
        return outcomes.of_error(run, item.ref.label, error)


async def _end(run: Run, prepared: asyncio.Future[Order | ItemReport], steps: Steps) -> ItemReport:
    """One image from its order to its end, whatever that is."""
    order = await prepared
    if isinstance(order, ItemReport):
        report = order
    else:
        try:
            report = await (outcomes.foresee(run, order) if run.dry_run else bring(run, order, steps))
        except I2vError as error:
            report = outcomes.of_error(run, order.image.label, error, order)
    run.tell(report.outcome, report.image)
    return report


async def bring(run: Run, order: Order, steps: Steps) -> ItemReport:
    """Submit, poll and store until the job has ended, then give this image its answers.

    Raises:
        I2vError: what a step raised.
    """
    async with run.job_lock(order.key), run.in_flight:
        held = await steps.submit(run, order)
        cached = held.record.state is JobState.STORED
        while held.record.state in {JobState.SUBMITTED, JobState.READY}:
            if held.record.state is JobState.READY:
                await run.sleep(run.settings.poll_every_seconds)
                held = await steps.submit(run, order)
                continue
            held, status = await steps.poll(run, held)
            if status:
                held = await steps.store(run, held, status)
            elif held.record.state is JobState.SUBMITTED:
                break
        video = await finish(run, held.record, order.image)
        return outcomes.of_job(run, order, held.record, video, cached=cached)
