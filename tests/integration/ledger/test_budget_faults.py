"""A reservation whose write fails, is lost, repeated or late: it is never taken twice and never spent unwritten."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from i2v.errors import BudgetExceeded, StorageError
from i2v.ledger.budget import Budget
from i2v.ledger.day_spend import DaySpendStore
from tests.integration.ledger.conftest import MEMORY_SETTINGS, MakeBudget, reserved
from tests.integration.ledger.test_budget import STANDARD, pay, pay_many, reserve
from tests.support.interleaving import S3Fault, SteppedStorage
from tests.support.memory_storage import MemoryBucket, MemoryStorage
from tests.support.scripted_faults import ScriptedFaults

NOTHING = Decimal(0)


def today() -> str:
    """Return the UTC day."""
    return datetime.now(UTC).date().isoformat()


async def reserved_in(bucket: MemoryBucket, run_id: str | None = None) -> Decimal:
    """Return what is paid or reserved today."""
    return await reserved(DaySpendStore(MemoryStorage(bucket), MEMORY_SETTINGS), today(), run_id)


def stepped(bucket: MemoryBucket, *faults: S3Fault | None) -> tuple[SteppedStorage, ScriptedFaults]:
    """Return a storage whose operations end so, and its script."""
    script = ScriptedFaults(*faults)
    return SteppedStorage(bucket, script), script


@pytest.mark.parametrize("before", [False, True], ids=["first write", "later write"])
@pytest.mark.parametrize("fault", [S3Fault.REPEATED, S3Fault.BUSY, S3Fault.LOST])
async def test_a_reservation_counts_once(memory_budget: MakeBudget, fault: S3Fault, before: bool) -> None:
    """The write was repeated by boto3 (412), met another one (409), or its answer was lost: it is read back."""
    bucket = MemoryBucket()
    if before:
        await pay(memory_budget(MemoryStorage(bucket), "other"))
    storage, script = stepped(bucket, None, fault)
    own = memory_budget(storage)
    await reserve(own)
    assert script.is_over, "the fault was met"
    assert await reserved_in(bucket, "run-1") == STANDARD == own.spent_usd
    await own.close()
    assert await reserved_in(bucket, "run-1") == STANDARD


async def test_a_lost_answer_is_read_back_with_the_writes_of_others(memory_budget: MakeBudget) -> None:
    """Another run writes before the day is read back: the reservation is in it, and is not taken again."""
    bucket = MemoryBucket()
    storage, script = stepped(bucket, None, S3Fault.LOST)
    own, other = memory_budget(storage, limit=str(2 * STANDARD)), memory_budget(MemoryStorage(bucket), "other")
    await reserve(own)
    await pay(other)
    await reserve(own)
    assert script.operations.count("put if") == 3, "two writes, and one after the other run's"
    assert await reserved_in(bucket, "run-1") == 2 * STANDARD
    with pytest.raises(BudgetExceeded):
        await reserve(own)


@pytest.mark.parametrize("fault", [S3Fault.FAILS, S3Fault.LATE])
@pytest.mark.parametrize("step", [0, 1], ids=["read", "write"])
async def test_a_failed_request_reserves_nothing_to_spend(memory_budget: MakeBudget, fault: S3Fault, step: int) -> None:
    """The image is not submitted; what may have been written counts, so the limit still holds."""
    bucket, limit = MemoryBucket(), 40 * STANDARD
    storage, _ = stepped(bucket, *[None] * step, fault)
    own = memory_budget(storage, limit=str(limit))
    with pytest.raises(StorageError):
        await reserve(own)
    assert own.spent_usd == NOTHING
    assert await reserved_in(bucket) == NOTHING
    assert len(await pay_many(own, [STANDARD] * 100)) == 40
    assert await reserved_in(bucket) == limit


async def test_an_unknown_write_is_not_spent(memory_budget: MakeBudget) -> None:
    """The answer is lost, and so is the answer to reading it back: nothing is sent, and the next write corrects it."""
    bucket = MemoryBucket()
    storage, _ = stepped(bucket, None, S3Fault.LOST, S3Fault.FAILS)
    own = memory_budget(storage)
    with pytest.raises(StorageError):
        await reserve(own)
    assert (own.spent_usd, await reserved_in(bucket)) == (NOTHING, STANDARD)
    await pay(own)
    assert (own.spent_usd, await reserved_in(bucket)) == (STANDARD, STANDARD)


async def test_a_late_write_does_not_overwrite_a_newer_one(memory_budget: MakeBudget) -> None:
    """It comes after the next reservation of this process, with an old etag."""
    bucket = MemoryBucket()
    await pay(memory_budget(MemoryStorage(bucket), "other"))
    storage, script = stepped(bucket, None, S3Fault.LATE)
    own = memory_budget(storage)
    with pytest.raises(StorageError):
        await reserve(own)
    await pay(own)
    await pay(own)
    for late in script.late:
        with suppress(StorageError):
            late()
    assert await reserved_in(bucket, "run-1") == 2 * STANDARD


async def test_one_failed_write_fails_all_that_share_it(memory_budget: MakeBudget) -> None:
    """None of them may be sent, and none stays reserved; those that come later are not affected."""
    bucket = MemoryBucket()
    storage, _ = stepped(bucket, None, S3Fault.FAILS)
    own = memory_budget(storage, limit=str(2 * STANDARD))

    async def attempt(own: Budget) -> bool:
        try:
            await reserve(own)
        except StorageError:
            return False
        return True

    assert await asyncio.gather(*(attempt(own) for _ in range(20))) == [False] * 20
    assert own.spent_usd == NOTHING
    assert len(await pay_many(own, [STANDARD] * 20)) == 2


@pytest.mark.parametrize("fault", [S3Fault.FAILS, S3Fault.LOST, S3Fault.LATE, S3Fault.REPEATED, S3Fault.BUSY])
async def test_the_rest_is_given_back_once(memory_budget: MakeBudget, fault: S3Fault) -> None:
    """If the write of `close` fails, applied or not, closing again leaves what was paid."""
    bucket = MemoryBucket()
    storage, script = stepped(bucket)
    own = memory_budget(storage)
    await pay(own)
    own.release(await reserve(own))
    script.script(None, fault)
    for _ in range(2):
        with suppress(StorageError):
            await own.close()
    assert script.is_over
    assert await reserved_in(bucket) == STANDARD == own.spent_usd
