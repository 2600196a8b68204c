"""Merge the reports of a batch's shards: `merge_batch` writes `report.json` and the rows of all images.

The items of all shards are streamed through files, since a batch may have a million; what is kept is their sums.
"""

import asyncio
import hashlib
import json
import logging
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from i2v.batches.dead_shards import report_dead_shard
from i2v.batches.merged_report import MergedReport
from i2v.batches.plan import REPORT, BatchPlan
from i2v.batches.shard_runs import ShardRun
from i2v.errors import I2vError, LedgerError, NotFound, StorageError
from i2v.ledger import keys
from i2v.ledger.attempt import Reason
from i2v.ledger.run_record import RunRecord, read_run
from i2v.reports.run_report import FAILING_OUTCOMES, ItemReport, Outcome, Report
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

log = logging.getLogger(__name__)
AT_ONCE = 8
"""Shards that are read at once."""
MAX_ITEMS = 20_000
"""Items of a larger batch are in the ledger alone."""
MAX_PROBLEMS = 2_000
"""Items without a video that are kept for the page."""


@dataclass
class MergedBatch:
    """The sums of a batch, those of each shard, and some of the images that need attention."""

    total: MergedReport = field(default_factory=MergedReport)
    shards: dict[int, MergedReport] = field(default_factory=dict)
    problems: list[ItemReport] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    """The items of `--json`, if there are not too many."""


@dataclass(frozen=True, slots=True)
class _ShardResult:
    number: int
    """0 for images that are in no shard."""
    report: Report
    stopped: Reason | None = None


async def read_shard(storage: Storage, settings: Settings, shard: str) -> MergedReport | None:
    """Return the sums of a shard's report, or `None` if its run has written none, or it cannot be read."""
    try:
        found = await read_run(storage, settings, shard)
    except LedgerError as error:
        log.warning("%s", error)
        return None
    report = _report(found.content) if found else None
    return MergedReport.of_report(report, found.content.stopped) if report and found else None


def _report(record: RunRecord) -> Report | None:
    if record.report is None:
        return None
    return Report(items=tuple(ItemReport.from_record(item) for item in record.report["items"]))


async def merge_batch(
    plan: BatchPlan,
    runs: Mapping[int, ShardRun],
    storage: Storage,
    settings: Settings,
    *,
    left_by: Reason | None = None,
) -> MergedBatch:
    """Merge what the ledger has of each shard. A shard without a report is looked up image by image.

    `left_by` is why shards without a run were not started.
    """
    batch = MergedBatch()
    with TemporaryDirectory(prefix="i2v-batch-") as folder:
        items, rows, report = (Path(folder, name) for name in ("items", "rows", "report"))
        with items.open("w") as items_file, rows.open("wb") as rows_file:
            async for result in _read_all(plan, runs, storage, settings, left_by):
                _add(batch, result, keep_items=plan.images + plan.not_tried <= MAX_ITEMS)
                _write_items(items_file, result.report.items)
                rows_file.write(result.report.rows_jsonl)
        _compose(report, batch.total.for_json(plan.inputs), items)
        await _replace(storage, keys.batch_uri(settings, plan.run_id, REPORT), report, "application/json")
        await _replace(storage, keys.run_items_uri(settings, plan.run_id), rows, "application/x-ndjson")
    return batch


def _add(batch: MergedBatch, result: _ShardResult, *, keep_items: bool) -> None:
    sums, items = MergedReport.of_report(result.report, result.stopped), result.report.items
    if result.number:
        batch.shards[result.number] = sums
    else:
        sums = replace(sums, submitted_nothing=True)
    batch.total += sums
    batch.items += [item.for_json() for item in items] if keep_items else []
    problems = [item for item in items if item.needs_person or item.outcome in {*FAILING_OUTCOMES, Outcome.REFUSED}]
    batch.problems += problems[: MAX_PROBLEMS - len(batch.problems)]


async def _read_all(
    plan: BatchPlan, runs: Mapping[int, ShardRun], storage: Storage, settings: Settings, left_by: Reason | None
) -> AsyncIterator[_ShardResult]:
    for first in range(1, plan.shards + 1, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, plan.shards + 1))
        reads = (_read_result(plan, number, runs.get(number), storage, settings, left_by) for number in numbers)
        for result in await asyncio.gather(*reads):
            yield result
    for uri in plan.not_tried_uris(settings):
        yield _ShardResult(0, await _read_not_tried(uri, storage))


async def _read_not_tried(uri: S3Uri, storage: Storage) -> Report:
    try:
        lines = (await storage.get(uri)).body.splitlines()
    except StorageError as error:
        log.warning("the report lacks images that are in no shard: %s", error)
        return Report()
    return Report(items=tuple(ItemReport.from_record(json.loads(line)) for line in lines))


async def _read_result(
    plan: BatchPlan, number: int, run: ShardRun | None, storage: Storage, settings: Settings, left_by: Reason | None
) -> _ShardResult:
    shard = plan.shard(number)
    why = f"its run is {run.state_name}: {run.message}" if run else "no run of it has ended"
    record, stopped = None, None
    if not run and left_by:
        why, stopped = f"no run of it was started, because {left_by.message}", left_by
    try:
        found = await read_run(storage, settings, shard)
        record = found.content if found else None
    except LedgerError as error:
        why = error.message
    if record and (report := _report(record)):
        return _ShardResult(number, report, record.stopped)
    rows = plan.rows_uri(settings, number)
    return _ShardResult(number, await report_dead_shard(rows, shard, record, why, storage, settings), stopped)


def _write_items(file: IO[str], items: Sequence[ItemReport]) -> None:
    for item in items:
        file.write(f"{',' if file.tell() else ''}{json.dumps(item.for_record(), ensure_ascii=False)}")


def _compose(path: Path, head: Mapping[str, Any], items: Path) -> None:
    """Write the JSON object of the head, with the items as its last field."""
    rest = {name: value for name, value in head.items() if name != "items"}
    with path.open("w") as file, items.open() as source:
        file.write(f'{json.dumps(rest)[:-1]}, "items": [')
        shutil.copyfileobj(source, file)
        file.write("]}")


async def _replace(storage: Storage, uri: S3Uri, path: Path, content_type: str) -> None:
    """Put a file, over an older one if there is one. A failure is logged: the shards' own reports remain."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        await storage.put_file(
            uri, path, sha256=sha256, content_type=content_type, metadata={}, if_match=await _etag(storage, uri)
        )
    except I2vError as error:
        log.warning("%s could not be written: %s", uri, error)


async def _etag(storage: Storage, uri: S3Uri) -> str | None:
    try:
        return (await storage.head(uri)).etag
    except NotFound:
        return None


def problems_report(batch: MergedBatch, *, awaits_callbacks: bool) -> Report:
    """Return a report of the images that need attention, for the page."""
    return Report(items=tuple(batch.problems), awaits_callbacks=awaits_callbacks)
