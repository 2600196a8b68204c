"""Spending limits of one shard of a batch: `ShardBudget`. Shards share their batch's limit, beside those of all runs.

`jobs/batches/<run id>/spend.json` has what each process of each shard has reserved and spent, on any day. Every
reservation is a conditional write to it, so all shards together never pass the limit.
"""

from decimal import Decimal

from i2v.ledger import keys
from i2v.ledger.budget import MAX_SPEND, Budget
from i2v.ledger.day_spend import DaySpendStore
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from i2v.spending_limits import Limit

ALL_DAYS = "all days"
"""What the document says instead of a day."""


class BatchSpendStore(DaySpendStore):
    """The document of one batch."""

    def __init__(self, storage: Storage, settings: Settings, batch: str) -> None:
        super().__init__(storage, settings)
        self._document = keys.batch_uri(settings, batch, "spend.json")

    def uri(self, day: str) -> S3Uri:
        """Return the URI of the batch's document."""
        del day
        return self._document


class BatchBudget(Budget):
    """The limit of a batch, in one process of one of its shards."""

    covers_all_runs = True


class ShardBudget:
    """Reserves in the batch's document first, and then on the day. It has the methods of `Budget`."""

    def __init__(self, batch: BatchBudget, day: Budget) -> None:
        self._batch = batch
        self._day = day

    @property
    def spent_usd(self) -> Decimal:
        """What this shard has spent, including submits in progress."""
        return self._day.spent_usd

    @property
    def near_limits(self) -> list[tuple[Limit, Decimal]]:
        """See `Budget`."""
        return self._day.near_limits

    async def available_usd(self) -> tuple[Decimal | None, str]:
        """Return what this shard can spend now, and the name of the limit that applies."""
        found = [await self._batch.available_usd(), await self._day.available_usd()]
        limits = [(room, name) for room, name in found if room is not None]
        return min(limits, default=(None, "no limit"), key=lambda one: one[0])

    def lower_limit(self, available_usd: Decimal | None, name: str) -> None:
        """See `Budget`. The batch's limit is ignored: another shard may give something back."""
        if name != MAX_SPEND:
            self._day.lower_limit(available_usd, name)

    async def reserve(self, price_usd: Decimal, job: str, claim: str) -> str:
        """Reserve the price of one submit; return its UTC day. Raise `BudgetExceeded` if a limit forbids it."""
        self._day.raise_if_refused(price_usd)
        await self._batch.reserve(price_usd, job, claim)
        try:
            return await self._day.reserve(price_usd, job, claim)
        except BaseException:
            self._batch.release(claim)
            raise

    def pay(self, claim: str) -> None:
        """Count a reservation as spent."""
        self._batch.pay(claim)
        self._day.pay(claim)

    def release(self, claim: str) -> None:
        """Give back a reservation that was not spent."""
        self._batch.release(claim)
        self._day.release(claim)

    async def close(self) -> None:
        """Write what was given back. After a `StorageError`, the ledger's claims still show it."""
        try:
            await self._batch.close()
        finally:
            await self._day.close()
