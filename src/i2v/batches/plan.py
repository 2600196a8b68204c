"""The shards of a batch: batch files under `jobs/batches/<run id>/`, and `batch.json`, which is written last.

A parent that starts again finds the same shards. What a parent wrote that died before `batch.json` is never used.
"""

import logging
import secrets
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from i2v.errors import BadRow, Conflict, LedgerError, StorageError
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.rows import RowStream
from i2v.ledger import keys
from i2v.ledger.documents import read_document, write_document
from i2v.ledger.job import FORMAT
from i2v.money import ZERO
from i2v.pricing import PRICES_USD
from i2v.reports.run_report import Report
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

log = logging.getLogger(__name__)
PLAN = "batch.json"
REPORT = "report.json"
"""The merged report, as `i2v run --json` prints it."""


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
    """How many images are requested as `standard-6` and so on, as far as rows and the batch's options tell."""
    other_files: dict[str, int] = {}
    bad_rows: tuple[BadRow, ...] = ()
    """The rows of batch files that were skipped."""
    label: str | None = None

    def rows_uri(self, settings: Settings, number: int) -> S3Uri:
        """Return the batch file of a shard; numbers begin at 1."""
        return keys.batch_uri(settings, self.run_id, f"{self.folder}/{number:05d}.jsonl")

    def shard(self, number: int) -> str:
        """Return the name of a shard, which is the ledger's name of its run, whichever flow runs work on it."""
        return f"{self.run_id}-{number:05d}"

    @property
    def inputs(self) -> Report:
        """The part of the batch's report that tells of its inputs."""
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
    images: Sequence[str | BatchRow],
    default: RequestOptions,
    storage: Storage,
    settings: Settings,
    *,
    run_id: str,
    shard_size: int,
    label: str | None = None,
    skip_bad_rows: bool = False,
) -> BatchPlan:
    """List the images once and write the shards and their plan; return the plan of another process that was faster.

    Raise as `find_items` does, and `LedgerError` if the shards cannot be written.
    """
    rows = RowStream(images, default, storage, settings, skip_bad_rows=skip_bad_rows)
    writer = _ShardWriter(storage, settings, run_id, shard_size)
    products: Counter[str] = Counter()
    async for row in rows:
        products[row.product] += 1
        await writer.add(row.line)
    await writer.flush()
    plan = BatchPlan(
        run_id=run_id,
        folder=writer.folder,
        shards=writer.shards,
        images=products.total(),
        shard_size=shard_size,
        products=dict(products),
        other_files=dict(rows.other_files),
        bad_rows=tuple(rows.bad_rows),
        label=label,
    )
    return await _write_plan(plan, storage, settings)


async def _write_plan(plan: BatchPlan, storage: Storage, settings: Settings) -> BatchPlan:
    try:
        await write_document(storage, plan, keys.batch_uri(settings, plan.run_id, PLAN), None)
    except Conflict:
        return await read_plan(storage, settings, plan.run_id) or plan
    except StorageError as error:
        raise LedgerError(f"Cannot write the shards: {error.message}", error.hint) from None
    return plan


class _ShardWriter:
    """Writes rows into batch files of `size` rows, in a folder that no other process writes to."""

    def __init__(self, storage: Storage, settings: Settings, run_id: str, size: int) -> None:
        self.folder = f"shards-{secrets.token_hex(4)}"
        self.shards = 0
        self._storage = storage
        self._settings = settings
        self._run_id = run_id
        self._size = size
        self._lines: list[bytes] = []

    async def add(self, line: bytes) -> None:
        """Add a row."""
        self._lines.append(line)
        if len(self._lines) == self._size:
            await self.flush()

    async def flush(self) -> None:
        """Write the rows that no shard has yet."""
        if not self._lines:
            return
        number = self.shards + 1
        uri = keys.batch_uri(self._settings, self._run_id, f"{self.folder}/{number:05d}.jsonl")
        try:
            await self._storage.put(uri, b"".join(self._lines), content_type="application/x-ndjson")
        except StorageError as error:
            raise LedgerError(f"Cannot write the shards: {error.message}", error.hint) from None
        self.shards, self._lines = number, []
