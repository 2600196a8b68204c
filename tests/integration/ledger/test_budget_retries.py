"""A flow run that is tried again, or runs twice at once, or over midnight: its limit is neither exceeded nor lost."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import cast

import pytest

from i2v.errors import BudgetExceeded, LedgerError
from i2v.ledger import budget as budget_module
from i2v.ledger import transitions
from i2v.ledger.abandoned_reservations import ClaimState
from i2v.ledger.budget import Budget
from i2v.ledger.day_spend import DaySpend, DaySpendStore, Entry
from i2v.ledger.ledger import Ledger
from i2v.ledger.run_record import RunRecord
from i2v.net.fetcher import Fetcher
from i2v.pipeline.run import make_context
from tests.integration.ledger.conftest import ABANDONED_AFTER, MEMORY_SETTINGS, Claims, MakeBudget, reserved
from tests.integration.ledger.test_budget import JOB, STANDARD, DelayedStorage, pay, pay_many, reserve
from tests.support.memory_provider import claim_by_hand, put_order
from tests.support.memory_storage import MemoryBucket, MemoryFetcher, MemoryStorage

TODAY = datetime.now(UTC).date()
NEXT_DAY = (TODAY + timedelta(days=1)).isoformat()
LIMIT = 20 * STANDARD


@pytest.fixture
def bucket() -> MemoryBucket:
    """The bucket that all processes share."""
    return MemoryBucket()


@pytest.fixture
def days(bucket: MemoryBucket) -> DaySpendStore:
    """The days in it."""
    return DaySpendStore(MemoryStorage(bucket), MEMORY_SETTINGS)


@pytest.fixture(autouse=True)
def recheck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again at once."""
    monkeypatch.setattr(budget_module, "RECHECK_SECONDS", 0.01)


async def die_with(
    memory_budget: MakeBudget, bucket: MemoryBucket, claims: Claims, *states: ClaimState | Exception, paid: int = 3
) -> None:
    """Let a process of run-1 pay some, reserve one for each state that its claim will have, and die."""
    dead = memory_budget(MemoryStorage(bucket), limit=str(LIMIT))
    for _ in range(paid):
        await pay(dead)
    for state in states:
        claims.states[await reserve(dead)] = state


@pytest.mark.parametrize(
    ("state", "counts"), [("absent", False), ("free", False), ("counts", True), (LedgerError("unreadable"), True)]
)
@pytest.mark.parametrize("first_day", [TODAY, None], ids=["its record says when it began", "it died before its record"])
async def test_a_retry_counts_what_its_first_try_really_cost(
    memory_budget: MakeBudget,
    bucket: MemoryBucket,
    claims: Claims,
    state: ClaimState | Exception,
    counts: bool,
    first_day: date | None,
) -> None:
    """Of what a dead process reserved, only what the jobs' records have as paid or possibly paid counts."""
    await die_with(memory_budget, bucket, claims, *[state] * 5)
    bucket.wait(ABANDONED_AFTER + 2)
    retry = memory_budget(MemoryStorage(bucket), limit=str(LIMIT), first_day=first_day)
    left = 20 - 3 - (5 if counts else 0)
    assert (await retry.available_usd())[0] == left * STANDARD
    assert retry.spent_usd == (20 - left) * STANDARD
    assert len(await pay_many(retry, [STANDARD] * 30)) == left
    assert retry.spent_usd == LIMIT


async def test_abandoned_reservations_of_other_runs_do_not_use_up_the_cap(
    memory_budget: MakeBudget, bucket: MemoryBucket, claims: Claims
) -> None:
    """A run that died holds none of the daily cap but what it paid or may have paid."""
    await die_with(memory_budget, bucket, claims, "absent", "free", "counts")
    bucket.wait(ABANDONED_AFTER + 2)
    other = memory_budget(MemoryStorage(bucket), "run-2", cap=str(6 * STANDARD))
    assert await other.available_usd() == (2 * STANDARD, "I2V_DAILY_CAP_USD")
    for _ in range(2):
        await pay(other)
    with pytest.raises(BudgetExceeded, match=r"I2V_DAILY_CAP_USD has \$0.00 left"):
        await reserve(other)


async def test_a_live_reservation_of_another_run_counts(
    memory_budget: MakeBudget, bucket: MemoryBucket, claims: Claims
) -> None:
    """As long as its process may still claim and send, no other run spends that money."""
    await die_with(memory_budget, bucket, claims, "absent", "absent", paid=0)
    other = memory_budget(MemoryStorage(bucket), "run-2", cap=str(3 * STANDARD))
    assert len(await pay_many(other, [STANDARD] * 5)) == 1


async def test_a_retry_waits_until_its_first_try_can_send_nothing_any_more(
    memory_budget: MakeBudget, bucket: MemoryBucket, claims: Claims
) -> None:
    """A reservation without a claim may still be claimed; the retry starts when the record or the time decides."""
    await die_with(memory_budget, bucket, claims, "absent", "absent", paid=0)
    retry = memory_budget(MemoryStorage(bucket), limit=str(LIMIT), first_day=TODAY)
    waiting = asyncio.ensure_future(retry.available_usd())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    first, _ = claims.states
    claims.states[first] = "counts"
    await asyncio.sleep(0.1)
    assert not waiting.done()
    bucket.wait(ABANDONED_AFTER + 2)
    assert await asyncio.wait_for(waiting, 5) == (19 * STANDARD, "max_spend_usd")


async def test_a_retry_in_a_busy_ledger_waits_no_longer(
    memory_budget: MakeBudget, bucket: MemoryBucket, claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If other runs write the day all the time, a retry waits `abandoned_after` seconds and no longer."""
    clock = [1000.0]
    monkeypatch.setattr("i2v.ledger.abandoned_reservations.boot_time", lambda: clock[0])
    await die_with(memory_budget, bucket, claims, "absent", paid=0)
    busy = memory_budget(MemoryStorage(bucket), "run-2")
    retry = memory_budget(MemoryStorage(bucket), limit=str(LIMIT), first_day=TODAY)
    waiting = asyncio.ensure_future(retry.available_usd())
    for seconds in (0, ABANDONED_AFTER - 1):
        clock[0] = 1000.0 + seconds
        bucket.wait(ABANDONED_AFTER / 2)
        await pay(busy)
        await asyncio.sleep(0.1)
        assert not waiting.done()
    clock[0] += 2
    assert await asyncio.wait_for(waiting, 5) == (20 * STANDARD, "max_spend_usd")


async def test_a_run_without_a_limit_of_its_own_waits_for_nothing(
    memory_budget: MakeBudget, bucket: MemoryBucket, claims: Claims
) -> None:
    """Under a cap alone, what is reserved counts until it is over."""
    await die_with(memory_budget, bucket, claims, "absent", paid=0)
    retry = memory_budget(MemoryStorage(bucket), cap=str(3 * STANDARD), first_day=TODAY)
    assert len(await pay_many(retry, [STANDARD] * 5)) == 2


@pytest.mark.parametrize("state", ["absent", "free", "counts"])
async def test_the_job_record_tells_what_became_of_a_claim(memory_budget: MakeBudget, state: ClaimState) -> None:
    """With real records: not claimed, released, and claimed without an answer."""
    bucket = MemoryBucket()
    ledger, order = Ledger(MemoryStorage(bucket), MEMORY_SETTINGS), put_order(bucket)
    dead = memory_budget(ledger.storage, limit=str(LIMIT), read_claim=ledger.read_claim)
    await dead.reserve(STANDARD, order.key, "t")
    if state != "absent":
        job = await claim_by_hand(ledger, order, "t", "run-1")
    if state == "free":
        await ledger.change(job, lambda record: transitions.release(record, "t", datetime.now(UTC)))
    bucket.wait(ABANDONED_AFTER + 2)
    assert await ledger.read_claim(order.key, "t") == state
    retry = memory_budget(ledger.storage, limit=str(LIMIT), first_day=TODAY, read_claim=ledger.read_claim)
    assert (await retry.available_usd())[0] == (19 if state == "counts" else 20) * STANDARD


async def test_two_processes_of_one_run_share_its_limit(
    memory_budget: MakeBudget, bucket: MemoryBucket, claims: Claims
) -> None:
    """Prefect took a process for dead that lives on: together they pay no more than one."""
    claims.others = "counts"
    one, two = (memory_budget(DelayedStorage(bucket), limit=str(LIMIT)) for _ in range(2))

    async def pay_in_turns(own: Budget) -> int:
        return sum([len(await pay_many(own, [STANDARD] * 3)) for _ in range(10)])

    paid = await asyncio.gather(*map(pay_in_turns, (one, two)))
    assert sum(paid) == 20
    assert min(paid) > 0
    found = await DaySpendStore(MemoryStorage(bucket), MEMORY_SETTINGS).read(TODAY.isoformat())
    assert found.content.total_usd == LIMIT
    assert [entry.run_id for entry in found.content.entries.values()] == ["run-1", "run-1"], "each has its own entry"


async def test_two_processes_of_one_run_share_its_limit_over_midnight(
    memory_budget: MakeBudget, bucket: MemoryBucket, claims: Claims
) -> None:
    """What one of them paid before midnight counts for the other after it."""
    claims.others = "counts"
    clock = [TODAY.isoformat()]
    one, two = (memory_budget(DelayedStorage(bucket), limit=str(LIMIT), today=lambda: clock[0]) for _ in range(2))
    await pay(two)
    await pay_many(one, [STANDARD] * 12)
    clock[0] = NEXT_DAY
    allowed = await asyncio.gather(*(pay_many(own, [STANDARD] * 30) for own in (two, one)))
    assert sum(map(len, allowed)) == 7


async def test_a_runs_limit_spans_its_days(
    memory_budget: MakeBudget, bucket: MemoryBucket, days: DaySpendStore, claims: Claims
) -> None:
    """A retry after midnight counts what was paid the day before for its limit, and not for today's cap."""
    claims.others = "counts"
    await die_with(memory_budget, bucket, claims, paid=10)
    await pay_many(memory_budget(MemoryStorage(bucket), "another"), [STANDARD] * 100)
    own = memory_budget(
        MemoryStorage(bucket),
        limit=str(12 * STANDARD),
        cap=str(5 * STANDARD),
        first_day=TODAY,
        today=lambda: NEXT_DAY,
    )
    assert len(await pay_many(own, [STANDARD] * 10)) == 2
    await own.close()
    found = [await reserved(days, day, "run-1") for day in (TODAY.isoformat(), NEXT_DAY)]
    assert found == [10 * STANDARD, 2 * STANDARD]


async def test_clocks_of_hosts_may_differ_by_a_day(
    memory_budget: MakeBudget, bucket: MemoryBucket, claims: Claims
) -> None:
    """The first try wrote its money on a day before the one that its record names as the first."""
    claims.others = "counts"
    await die_with(memory_budget, bucket, claims, paid=10)
    retry = memory_budget(
        MemoryStorage(bucket), limit=str(LIMIT), first_day=TODAY + timedelta(days=1), today=lambda: NEXT_DAY
    )
    assert (await retry.available_usd())[0] == 10 * STANDARD


async def test_a_first_try_that_was_suspended_over_midnight_counts_its_retry(bucket: MemoryBucket) -> None:
    """The retry started, spent and ended yesterday, while the process that started first was suspended."""
    storage = MemoryStorage(bucket)
    entry = Entry(run_id="run-1", paid_usd=LIMIT)
    yesterday = DaySpend(day=(TODAY - timedelta(days=1)).isoformat(), entries={"run-1:retry": entry})
    assert await DaySpendStore(storage, MEMORY_SETTINGS).write(yesterday, "")
    started = datetime.now(UTC) - timedelta(days=1)
    run = make_context(
        MEMORY_SETTINGS,
        storage,
        None,
        cast("Fetcher", MemoryFetcher()),
        RunRecord(run_id="run-1", started_at=started, touched_at=started),
        max_spend_usd=LIMIT,
    )
    with pytest.raises(BudgetExceeded):
        await run.budget.reserve(STANDARD, JOB, "claim")


async def test_a_days_cap_holds_at_midnight(
    memory_budget: MakeBudget, bucket: MemoryBucket, days: DaySpendStore
) -> None:
    """What is reserved after midnight counts on the new day for every run; what was before stays where it is."""
    clock, cap = [TODAY.isoformat()], str(3 * STANDARD)
    own = memory_budget(MemoryStorage(bucket), cap=cap, today=lambda: clock[0])
    assert await own.reserve(STANDARD, JOB, "before") == TODAY.isoformat()
    other = memory_budget(MemoryStorage(bucket), "run-2", cap=cap, today=lambda: NEXT_DAY)
    assert len(await pay_many(other, [STANDARD] * 2)) == 2
    clock[0] = NEXT_DAY
    assert len(await pay_many(own, [STANDARD] * 3)) == 1
    own.release("before")
    await own.close()
    found = [await reserved(days, day, "run-1") for day in (TODAY.isoformat(), NEXT_DAY)]
    assert found == [Decimal(0), STANDARD]
    assert await reserved(days, NEXT_DAY) == 3 * STANDARD


async def test_a_cap_that_was_used_up_is_open_again_after_midnight(
    memory_budget: MakeBudget, bucket: MemoryBucket
) -> None:
    """The remembered refusal is yesterday's."""
    clock = [TODAY.isoformat()]
    own = memory_budget(MemoryStorage(bucket), cap=str(STANDARD), today=lambda: clock[0])
    assert len(await pay_many(own, [STANDARD] * 3)) == 1
    clock[0] = NEXT_DAY
    assert len(await pay_many(own, [STANDARD] * 3)) == 1


async def test_midnight_does_not_shrink_the_runs_limit(memory_budget: MakeBudget, bucket: MemoryBucket) -> None:
    """What was not spent before midnight can still be spent after it, and no more."""
    clock = [TODAY.isoformat()]
    own = memory_budget(MemoryStorage(bucket), limit=str(4 * STANDARD), today=lambda: clock[0])
    await pay(own)
    clock[0] = NEXT_DAY
    assert len(await pay_many(own, [STANDARD] * 5)) == 3
    assert own.spent_usd == 4 * STANDARD


async def test_a_reservation_that_fits_after_a_second_look_refuses_no_later_one(
    memory_budget: MakeBudget, bucket: MemoryBucket, claims: Claims
) -> None:
    """The first look found a dead run's money; once the second look allows it, the refusal is forgotten."""
    await die_with(memory_budget, bucket, claims, "free", "free", "free", "free", "free", paid=0)
    other = memory_budget(MemoryStorage(bucket), "run-2", cap=str(5 * STANDARD))
    for _ in range(5):
        await pay(other)
    with pytest.raises(BudgetExceeded):
        await reserve(other)
