"""The shards of a batch: batch files under `jobs/batches/<run id>/`, and `batch.json`, which is written last.

A parent that starts again finds the same shards. If a parent dies before `batch.json`, its shards are not used.
"""

import json
import logging
import secrets
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from i2v.batches.shared_names import leave_out_shared
from i2v.errors import BadRow, Conflict, LedgerError, StorageError
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.rows import RowStream
from i2v.ledger import keys
from i2v.ledger.documents import read_document, write_document
from i2v.ledger.job import FORMAT
from i2v.money import ZERO
from i2v.pipeline.context import RunContext
from i2v.pricing import PRICES_USD
from i2v.reports.run_report import ItemReport, Report
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

log = logging.getLogger(__name__)
PLAN = "batch.json"
REPORT = "report.json"
"""The merged report, as `i2v run --json` prints it."""
NOT_TRIED = "not-tried-"


class BatchPlan(BaseModel):
    """The shards of one batch: all of them are written, in the folder with this name."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    run_id: str
    folder: str
    shards: int
    images: int
    shard_size: int
    products: dict[str, int]
    """How many images are requested as `standard-6` and so on, as far as rows and the batch's options show."""
    other_files: dict[str, int] = {}
    bad_rows: tuple[BadRow, ...] = ()
    """The rows of batch files that were skipped."""
    not_tried: int = 0
    """How many images are in no shard, because of the names that they would be published under."""
    label: str | None = None

    def rows_uri(self, settings: Settings, number: int) -> S3Uri:
        """Return the batch file of a shard; numbers begin at 1."""
        return keys.batch_uri(settings, self.run_id, f"{self.folder}/{number:05d}.jsonl")

    def not_tried_uris(self, settings: Settings) -> list[S3Uri]:
        """Return the files with the report's lines of images that are in no shard."""
        numbers = range(1, -(-self.not_tried // self.shard_size) + 1)
        return [keys.batch_uri(settings, self.run_id, f"{self.folder}/{NOT_TRIED}{one:05d}.jsonl") for one in numbers]

    def shard(self, number: int) -> str:
        """Return the name of a shard, which is the ledger's name of its run, whichever flow runs work on it."""
        return f"{self.run_id}-{number:05d}"

    @property
    def inputs(self) -> Report:
        """The part of the batch's report that describes its inputs."""
        return Report(other_files=self.other_files, bad_rows=self.bad_rows)

    def images_in(self, number: int) -> int:
        """Return the number of images of a shard."""
        return min(self.shard_size, self.images - (number - 1) * self.shard_size)

    def prices(self, settings: Settings) -> dict[Decimal, int]:
        """Return how many videos have each price."""
        prices: Counter[Decimal] = Counter()
        for product, count in self.products.items():
            prices[settings.prices_usd.get(product, PRICES_USD[product])] += count
        return dict(prices)

    def cost_usd(self, settings: Settings) -> Decimal:
        """Return what all videos cost if none exists yet."""
        return sum((price * count for price, count in self.prices(settings).items()), ZERO)


def batch_of(shard: str) -> str:
    """Return the batch of a shard."""
    return shard.rpartition("-")[0]


async def read_plan(storage: Storage, settings: Settings, run_id: str) -> BatchPlan | None:
    """Return the plan of a batch, or `None` if its shards are not all written."""
    found = await read_document(storage, BatchPlan, keys.batch_uri(settings, run_id, PLAN))
    return found.content if found else None


async def write_shards(
    run: RunContext,
    images: Sequence[str | BatchRow],
    default: RequestOptions,
    shard_size: int,
    *,
    skip_bad_rows: bool = False,
) -> BatchPlan:
    """List the images once and write the shards and their plan; return the plan of another process that was faster.

    Raise as `find_items` does, and `LedgerError` if the shards cannot be written.
    """
    rows = RowStream(images, default, run.storage, run.settings, skip_bad_rows=skip_bad_rows)
    folder = f"shards-{secrets.token_hex(4)}"
    shards, not_tried = (_LineWriter(run, f"{folder}/{start}", shard_size) for start in ("", NOT_TRIED))
    products: Counter[str] = Counter()
    async with aclosing(leave_out_shared(run, rows, default)) as found:
        async for row in found:
            if isinstance(row, ItemReport):
                await not_tried.add(json.dumps(row.for_record()).encode() + b"\n")
            else:
                products[row.product] += 1
                await shards.add(row.line)
    for writer in (shards, not_tried):
        await writer.flush()
    plan = BatchPlan(
        run_id=run.run_id,
        folder=folder,
        shards=shards.files,
        images=products.total(),
        shard_size=shard_size,
        products=dict(products),
        other_files=dict(rows.other_files),
        bad_rows=tuple(rows.bad_rows),
        not_tried=not_tried.lines,
        label=run.label,
    )
    return await _write_plan(plan, run.storage, run.settings)


async def _write_plan(plan: BatchPlan, storage: Storage, settings: Settings) -> BatchPlan:
    try:
        await write_document(storage, plan, keys.batch_uri(settings, plan.run_id, PLAN), None)
    except Conflict:
        return await read_plan(storage, settings, plan.run_id) or plan
    except StorageError as error:
        raise LedgerError(f"Cannot write the shards: {error.message}", error.hint) from None
    return plan


class _LineWriter:
    """Writes lines into files of `size` lines, in a folder that no other process writes to."""

    def __init__(self, run: RunContext, prefix: str, size: int) -> None:
        self.files = 0
        self.lines = 0
        self._run = run
        self._prefix = prefix
        self._size = size
        self._waiting: list[bytes] = []

    async def add(self, line: bytes) -> None:
        """Add a line."""
        self.lines += 1
        self._waiting.append(line)
        if len(self._waiting) == self._size:
            await self.flush()

    async def flush(self) -> None:
        """Write the lines that no file has yet."""
        if not self._waiting:
            return
        number = self.files + 1
        uri = keys.batch_uri(self._run.settings, self._run.run_id, f"{self._prefix}{number:05d}.jsonl")
        try:
            await self._run.storage.put(uri, b"".join(self._waiting), content_type="application/x-ndjson")
        except StorageError as error:
            raise LedgerError(f"Cannot write the shards: {error.message}", error.hint) from None
        self.files, self._waiting = number, []
