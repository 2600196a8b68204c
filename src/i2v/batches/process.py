"""Run a batch: check its money once, keep the runs of its shards going, and merge their reports: `BatchRun`."""

import logging
from collections.abc import Sequence
from decimal import Decimal

from i2v.batches.merge import MergedBatch, merge_batch, read_shard
from i2v.batches.merged_report import MergedReport
from i2v.batches.plan import BatchPlan, read_plan, write_shards
from i2v.batches.shard_runs import ShardRun, ShardRuns, Supervisor
from i2v.errors import I2vError, Stopped, UsageError
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import RequestOptions
from i2v.ledger.attempt import Reason
from i2v.pipeline import preflight
from i2v.pipeline.context import RunContext
from i2v.pipeline.submit_brake import INTERRUPTED, LIMIT, STOPPED, STREAK
from i2v.pricing import PRICES_USD
from i2v.settings import Settings

log = logging.getLogger(__name__)
GOES_ON = {LIMIT, INTERRUPTED, "ended"}
"""Codes of a run's stop that say nothing about further shards."""
COUNTED_IN_FULL = "A batch reads no image before it starts, so images that already have their video count too"


async def find_or_write_shards(
    run: RunContext,
    images: Sequence[str | BatchRow],
    default: RequestOptions,
    shard_size: int,
    *,
    skip_bad_rows: bool = False,
) -> BatchPlan:
    """Return the plan of this batch: that of an earlier try, or a new one. Raise as `write_shards` does."""
    await run.ledger.info.prepare()
    if found := await read_plan(run.storage, run.settings, run.run_id):
        log.info("%d shards with %d images were written by an earlier try", found.shards, found.images)
        return found
    plan = await write_shards(run, images, default, shard_size, skip_bad_rows=skip_bad_rows)
    log.info("wrote %d shards with %d images", plan.shards, plan.images)
    if plan.not_tried:
        log.warning("%d images are in no shard: names of I2V_PUBLISH_AS are taken or shared", plan.not_tried)
    return plan


async def check_funds(run: RunContext, plan: BatchPlan, *, partial: bool) -> None:
    """Check the limit, the daily cap and the balance for all shards, before the first one starts.

    Raise `BudgetExceeded` or `BalanceTooLow` if they do not cover all, or with `partial` the cheapest; `Paused` if
    submits are paused.
    """
    await run.ledger.info.raise_if_paused()
    room, limit = await preflight.room_usd(run)
    prices = [price for price, count in plan.prices(run.settings).items() for _ in range(count)]
    try:
        preflight.check_money(prices, room, limit, partial=partial)
    except Stopped as error:
        raise type(error)(error.message, f"{error.hint}. {COUNTED_IN_FULL}") from None


def cheapest_usd(settings: Settings) -> Decimal:
    """Return the lowest price of a video."""
    return min(settings.prices_usd.get(product, price) for product, price in PRICES_USD.items())


async def record_error(run: RunContext, error: I2vError) -> None:
    """Write into the batch's record why it ended without a report, for the command that waits for it."""
    code = "usage" if isinstance(error, UsageError) else STOPPED
    await run.heartbeat.end(stopped=Reason(code=code, message=str(error)))


class BatchRun:
    """A batch in progress; `run` is its parent's run."""

    def __init__(self, run: RunContext, plan: BatchPlan, runs: ShardRuns, max_parallel: int) -> None:
        self.plan = plan
        self.done: dict[int, MergedReport] = {}
        """The sums of the shards that have written their report."""
        self._run = run
        self._supervisor = Supervisor(
            runs,
            plan.shards,
            max_parallel,
            why_stop=self._why_stop,
            reserved_seconds=run.settings.claim_to_post_seconds,
            on_end=self._is_done,
            sleep=run.brake.sleep,
            is_cancelled=lambda: run.brake.interrupted,
        )

    @property
    def runs(self) -> dict[int, ShardRun]:
        """The newest run of each shard that has one."""
        return self._supervisor.newest

    @property
    def note(self) -> str:
        """What keeps all shards from running, if that takes long."""
        return str(self._supervisor.worker_wait)

    async def process(self, *, partial: bool) -> MergedBatch:
        """Run all shards, and return their merged reports, which are then in the ledger. Raise as `check_funds`."""
        await self._supervisor.find_earlier()
        if not self.runs:
            await check_funds(self._run, self.plan, partial=partial)
        await self._supervisor.run_all()
        for run in self._supervisor.open_runs:
            log.warning("still open after the cancel: shard %d, %s", run.number, run.url or run.id)
        left_by = self._supervisor.left_by
        batch = await merge_batch(self.plan, self.runs, self._run.storage, self._run.settings, left_by=left_by)
        await self._run.heartbeat.end(report=batch.total.for_json(self.plan.inputs), stopped=batch.total.reason)
        return batch

    async def _why_stop(self) -> Reason | None:
        """Return why a further shard would submit nothing: what stopped a run, or a limit that leaves nothing.

        A run that stopped before its first submit may have met an outage; several of them stop the batch.
        """
        reasons = [reason for report in self.done.values() for reason in report.stopped]
        halting = [reason for reason in reasons if reason.code not in GOES_ON]
        if halting and (halting[0].code != STOPPED or len(halting) >= STREAK):
            return halting[0]
        try:
            room, name = await self._run.budget.available_usd()
        except I2vError as error:  # the shards decide
            log.warning("%s", error)
            return None
        is_spent = room is not None and room < cheapest_usd(self._run.settings)
        return Reason(code=LIMIT, message=f"{name} leaves nothing to spend") if is_spent else None

    async def _is_done(self, number: int) -> bool:
        report = await read_shard(self._run.storage, self._run.settings, self.plan.shard(number))
        if report:
            self.done[number] = report
        return report is not None and not report.is_interrupted
