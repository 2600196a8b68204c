"""The page of a batch, as markdown: its sums, the images that need attention, and its shards with links. Pure.

However many shards there are, the page shows at most `MAX_SHARDS`: first those that need attention, then the open ones.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal

from i2v.batches.merge import MergedBatch, problems_report
from i2v.batches.merged_report import MergedReport
from i2v.batches.plan import REPORT, BatchPlan
from i2v.batches.shard_runs import ShardRun, ShardState
from i2v.ledger import keys
from i2v.reports.markdown import as_code, as_link, as_table, as_text, as_usd
from i2v.reports.run_page import RunPageInfo, attention
from i2v.settings import Settings

MAX_SHARDS = 100
TEXT_CHARS = 200


def batch_words(plan: BatchPlan, runs: Mapping[int, ShardRun], done: Mapping[int, MergedReport]) -> str:
    """Return how a batch stands, in one line."""
    total = sum(done.values(), MergedReport())
    states = Counter(run.state for run in runs.values())
    running, waiting = states[ShardState.RUNNING], states[ShardState.WAITING]
    parts = [f"{len(done):,} of {plan.shards:,} shards done", *([f"{running} running"] if running else [])]
    parts += [f"{waiting} waiting for a worker"] if waiting else []
    return " · ".join([*parts, *([total.summary()] if done else [])])


def live_batch_page(
    plan: BatchPlan, runs: Mapping[int, ShardRun], done: Mapping[int, MergedReport], limit: Decimal | None, note: str
) -> str:
    """Return the page of a running batch; `done` has the sums of the shards that have ended, `note` why none runs."""
    lines = [
        f"## Running: {as_text(batch_words(plan, runs, done), TEXT_CHARS)}",
        "",
        _facts(plan, limit),
        *(["", f"**Waiting:** {as_text(note, 2 * TEXT_CHARS)}"] if note else []),
        *_shards(plan, runs, done),
        "",
        f"Updated {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC.",
    ]
    return "\n".join(lines) + "\n"


def batch_page(
    plan: BatchPlan,
    runs: Mapping[int, ShardRun],
    batch: MergedBatch,
    settings: Settings,
    limit: Decimal | None,
    *,
    awaits_callbacks: bool,
) -> str:
    """Return the page of a batch that has ended."""
    total = batch.total
    lines = [
        f"## {as_text(total.summary(plan.inputs, awaits_callbacks=awaits_callbacks), TEXT_CHARS)}",
        "",
        _facts(plan, limit),
    ]
    for note in plan.inputs.notes:
        lines += ["", f"**Note:** {as_text(note, TEXT_CHARS)}"]
    if total.at_risk_usd:
        lines += ["", f"At risk {as_usd(total.at_risk_usd)}: charged or possibly charged, without a video"]
    for reason in total.stopped:
        lines += ["", f"**Submits stopped:** {as_text(reason.message, TEXT_CHARS)}"]
    info = RunPageInfo(label=plan.label, images=str(settings.images))
    lines += attention(problems_report(batch, awaits_callbacks=awaits_callbacks), info)
    lines += _shards(plan, runs, batch.shards)
    report, rows = keys.batch_uri(settings, plan.run_id, REPORT), keys.run_items_uri(settings, plan.run_id)
    lines += ["", f"Full report: {as_code(str(report))}. As JSON Lines, one row per image: {as_code(str(rows))}"]
    return "\n".join(lines) + "\n"


def _facts(plan: BatchPlan, limit: Decimal | None) -> str:
    size = f"{plan.shards:,} shards of up to {plan.shard_size:,}" if plan.shards > 1 else "1 shard"
    facts = [f"{plan.images:,} images in {size}"]
    facts += [f"{plan.not_tried:,} more are in no shard: their names are taken or shared"] if plan.not_tried else []
    facts += [f"limit {as_usd(limit)}"] if limit is not None else []
    facts += [f"label {as_text(plan.label, TEXT_CHARS)}"] if plan.label else []
    facts += [f"not processed: {as_text(plan.inputs.others, TEXT_CHARS)}"] if plan.other_files else []
    return " · ".join(facts)


def _shards(plan: BatchPlan, runs: Mapping[int, ShardRun], done: Mapping[int, MergedReport]) -> Iterator[str]:
    ranks = {number: _rank(runs.get(number), done.get(number)) for number in range(1, plan.shards + 1)}
    shown = sorted(sorted(ranks, key=lambda number: (ranks[number], number))[:MAX_SHARDS])
    yield from ("", "### Shards", "")
    yield from as_table(
        ("Shard", "Images", "State", "Result"),
        [_row(plan, number, runs.get(number), done.get(number)) for number in shown],
    )
    if more := plan.shards - len(shown):
        yield from ("", f"… and {more:,} more shards")


def _rank(run: ShardRun | None, report: MergedReport | None) -> int:
    """Return the rank of a shard on the page: problems, then open ones, then successes, then those without a run."""
    if run and (run.state in {ShardState.CRASHED, ShardState.CANCELLED} or run.state_name == "Failed"):
        return 0
    if run and not run.state.is_final:
        return 1
    return 2 if report else 3


def _row(plan: BatchPlan, number: int, run: ShardRun | None, report: MergedReport | None) -> list[str]:
    state = as_text(run.state_name, TEXT_CHARS) if run else "not started"
    if run and run.url:
        state = as_link(state, run.url)
    if run and run.attempt > 1:
        state += f", attempt {run.attempt}"
    result = report.summary() if report else run.message if run else ""
    return [str(number), f"{plan.images_in(number):,}", state, as_text(result or "", TEXT_CHARS)]
