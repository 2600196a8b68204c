"""Limits by label and month: no process exceeds one, whatever other runs spent, at midnight, or at a month's end."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from i2v.errors import BudgetExceeded, StorageError
from i2v.ledger import keys
from i2v.ledger.budget import Budget
from i2v.ledger.day_spend import DaySpend, DaySpendStore, Entry
from i2v.s3_uri import S3Uri
from tests.integration.ledger.conftest import ABANDONED_AFTER, MEMORY_SETTINGS, Claims, MakeBudget
from tests.integration.ledger.test_budget import STANDARD, DelayedStorage, pay, pay_many, reserve
from tests.support.memory_storage import MemoryBucket, MemoryStorage, WatchedStorage
from tests.support.settings import SealedSettings

NOON = datetime(2026, 3, 20, 12, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 21, tzinfo=UTC)
ODD = 'team/"ä"\n*'
CENT = Decimal("0.01")
PAID = 10 * STANDARD


class Clock:
    """A host's clock."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self, after: timedelta = timedelta(0)) -> str:
        """Return the UTC day of a time after now."""
        return (self.now + after).date().isoformat()


@pytest.fixture
def bucket() -> MemoryBucket:
    """The bucket that all processes share."""
    return MemoryBucket()


Make = Callable[..., Budget]


@pytest.fixture
def run(memory_budget: MakeBudget, bucket: MemoryBucket) -> Make:
    """Return a process's budget: `run("run-1", "team-a", {"*": {"month": 5}})`."""

    def make(run_id: str, label: str | None, limits: dict[str, Any], **more: Any) -> Budget:
        settings = SealedSettings(I2V_BUCKET="b-1", I2V_LIMITS=json.dumps(limits, default=str))
        values = {"today": Clock(NOON), **more}
        return memory_budget(
            values.pop("storage", MemoryStorage(bucket)), run_id, limits=settings.limits_of(label), **values
        )

    return make


async def spend(bucket: MemoryBucket, day: str, label: str = "", usd: Decimal = PAID) -> None:
    """Let a run that knew no limit spend on a day."""
    store = DaySpendStore(MemoryStorage(bucket), MEMORY_SETTINGS)
    found = await store.read(day)
    entries = {**found.content.entries, f"old-{label}:1": Entry(run_id="old", label=label, paid_usd=usd)}
    assert await store.write(DaySpend(day=day, entries=entries), found.etag)


def month_of(bucket: MemoryBucket) -> dict[str, Any]:
    """Return the sums of the finished days of March."""
    found = bucket.objects.get(keys.month_uri(MEMORY_SETTINGS, "2026-03"))
    return dict(json.loads(found.body)["days"]) if found else {}


@pytest.mark.parametrize("day", ["2026-03-01", "2026-03-18", "2026-03-19", "2026-03-20", "2026-03-21"])
async def test_a_limit_counts_what_was_spent_in_its_month_before_it_was_set(
    run: Make, bucket: MemoryBucket, day: str
) -> None:
    """Also of runs without limits, on every day of the month, and by a host whose clock is ahead."""
    await spend(bucket, day)
    await spend(bucket, "2026-02-28")
    await spend(bucket, "2026-04-01")
    own = run("run-1", None, {"*": {"month": PAID + 3 * STANDARD}})
    assert await own.available_usd() == (3 * STANDARD, "I2V_LIMITS (all runs, month)")
    assert len(await pay_many(own, [STANDARD] * 5)) == 3


async def test_a_run_without_limits_uses_up_those_of_others_while_they_run(run: Make) -> None:
    """It has not heard of the limit, and its reservations count for those that have."""
    own, other = run("run-1", None, {"*": {"month": 3 * STANDARD}}), run("run-2", None, {})
    await pay(own)
    await pay(other)
    await pay(own)
    with pytest.raises(BudgetExceeded):
        await reserve(own)
    await pay(other)


@pytest.mark.parametrize(
    ("label", "allowed"),
    [("team-a", 2), ("team-b", 5), (ODD, 3), (None, 4), ("*", 5), ("Team-A", 5)],
    ids=["its own", "none of its own", "odd characters", "no label", "a star", "other case"],
)
async def test_a_run_keeps_the_limits_of_its_label_and_of_all(
    run: Make, bucket: MemoryBucket, label: str | None, allowed: int
) -> None:
    """Labels are compared as they are; what other labels spent counts for the limit of all alone."""
    limits = {
        "*": {"month": PAID + 5 * STANDARD, "day": 100},
        "team-a": {"month": 2 * STANDARD, "day": 99},
        ODD: {"day": 3 * STANDARD},
        "": {"day": 4 * STANDARD},
    }
    await spend(bucket, "2026-03-20", "team-c")
    assert len(await pay_many(run("run-1", label, limits), [STANDARD] * 9)) == allowed


async def test_the_error_names_limit_and_reset(run: Make, bucket: MemoryBucket) -> None:
    """It says whose limit, of which period, what is left and what to do."""
    await spend(bucket, "2026-03-02", "team-a")
    with pytest.raises(BudgetExceeded) as caught:
        await reserve(run("run-1", "team-a", {"team-a": {"month": PAID + CENT}}))
    assert str(caught.value) == (
        "I2V_LIMITS (label 'team-a', month) has $0.01 left, one video costs $0.192. "
        "Raise the limit, or wait for the next UTC month"
    )


async def test_a_limit_below_what_is_spent_has_nothing_left(run: Make, bucket: MemoryBucket) -> None:
    """It was lowered in the middle of the month."""
    await spend(bucket, "2026-03-02")
    with pytest.raises(BudgetExceeded, match=r"has \$0.00 left"):
        await reserve(run("run-1", None, {"*": {"month": 1}}))


async def test_processes_share_the_limits_of_two_labels_and_of_all(run: Make, bucket: MemoryBucket) -> None:
    """Sixteen processes in random order use the limits up and pass none."""
    await spend(bucket, "2026-03-05", "team-a")
    limits = {"*": {"month": PAID + 15 * STANDARD}, "team-a": {"month": PAID + 6 * STANDARD}, "team-b": {"day": 20}}
    labels = ["team-a", "team-b"] * 8
    budgets = [
        run(f"run-{number}", label, limits, storage=DelayedStorage(bucket)) for number, label in enumerate(labels)
    ]
    allowed = await asyncio.gather(*(pay_many(own, [STANDARD] * 4) for own in budgets))
    paid = [sum(len(prices) for prices in allowed[first::2]) for first in range(2)]
    assert sum(paid) == 15
    assert 0 < paid[0] <= 6


@pytest.mark.parametrize("seed", range(12))
async def test_clocks_that_differ_around_midnight_pass_no_limit(run: Make, bucket: MemoryBucket, seed: int) -> None:
    """Half of the processes still reserve on the day before: each sees what the others reserved before its own."""
    random.seed(seed)
    await spend(bucket, "2026-03-05")
    limits = {"*": {"month": PAID + 12 * STANDARD}}
    clocks = [Clock(MIDNIGHT + timedelta(seconds=5 * side)) for side in (-1, 1)] * 4
    budgets = [
        run(f"run-{number}", None, limits, storage=DelayedStorage(bucket), today=clock)
        for number, clock in enumerate(clocks)
    ]

    async def pay_in_turns(own: Budget) -> int:
        return sum([len(await pay_many(own, [STANDARD])) for _ in range(6)])

    paid = sum(await asyncio.gather(*map(pay_in_turns, budgets)))
    assert 1 <= paid <= 12
    await asyncio.gather(*(own.close() for own in budgets))
    later = run("later", None, limits, today=Clock(MIDNIGHT + timedelta(hours=3)))
    assert await later.available_usd() == ((12 - paid) * STANDARD, "I2V_LIMITS (all runs, month)")


@pytest.mark.parametrize("first", [True, False], ids=["loaded by its first", "loaded before"])
async def test_what_a_slow_clock_reserved_yesterday_counts_later(run: Make, first: bool) -> None:
    """A process that read yesterday shortly after midnight reads it again when no clock can be that slow."""
    limits, clock = {"*": {"month": 3 * STANDARD}}, Clock(MIDNIGHT + timedelta(minutes=5))
    own = run("run-1", None, limits, today=clock)
    await own.available_usd()
    if not first:
        await pay(own)
    slow = run("run-2", None, limits, today=Clock(MIDNIGHT - timedelta(minutes=4)))
    assert len(await pay_many(slow, [STANDARD] * (2 + first))) == 2 + first
    clock.now += timedelta(hours=2)
    assert await pay_many(own, [STANDARD]) == []


async def test_nothing_is_sent_if_the_other_day_cannot_be_read_again(run: Make, bucket: MemoryBucket) -> None:
    """Around midnight; what was written is given back at the next write, and the whole limit can be spent."""
    failing = [False]

    def before(operation: str, uri: S3Uri) -> None:
        if failing[0] and operation == "get" and uri.key.endswith("2026-03-20.json"):
            raise StorageError("S3 is busy")

    limits, clock = {"*": {"month": 2 * STANDARD}}, Clock(MIDNIGHT + timedelta(minutes=5))
    own = run("run-1", None, limits, today=clock, storage=WatchedStorage(bucket, before))
    await own.available_usd()
    failing[0] = True
    with pytest.raises(StorageError):
        await reserve(own)
    assert own.spent_usd == 0
    failing[0] = False
    assert len(await pay_many(own, [STANDARD] * 5)) == 2


async def test_a_retry_counts_what_its_first_try_spent_in_the_month(
    run: Make, bucket: MemoryBucket, claims: Claims
) -> None:
    """A day later, without what that had only reserved when it died."""
    limits = {"team-a": {"month": 5 * STANDARD}}
    dead = run("run-1", "team-a", limits, today=Clock(NOON - timedelta(days=1)))
    await pay(dead)
    await reserve(dead)
    claims.states[await reserve(dead)] = "counts"
    bucket.wait(ABANDONED_AFTER + 2)
    retry = run("run-1", "team-a", limits, first_day=NOON.date() - timedelta(days=1))
    assert len(await pay_many(retry, [STANDARD] * 9)) == 3


async def test_a_run_over_a_months_end_keeps_both_months(run: Make, bucket: MemoryBucket) -> None:
    """What is reserved before midnight counts for March, what is reserved after it for April."""
    clock, limits = Clock(datetime(2026, 3, 31, 23, 59, tzinfo=UTC)), {"*": {"month": PAID + 2 * STANDARD}}
    await spend(bucket, "2026-03-31")
    own = run("run-1", None, limits, today=clock)
    assert len(await pay_many(own, [STANDARD] * 5)) == 2
    clock.now += timedelta(minutes=2)
    await spend(bucket, "2026-04-01")
    assert len(await pay_many(own, [STANDARD] * 5)) == 2
    late = run("run-2", None, limits, today=Clock(datetime(2026, 3, 31, 22, tzinfo=UTC)))
    assert len(await pay_many(late, [STANDARD])) == 0


async def test_a_run_over_midnight_keeps_the_months_limit(run: Make) -> None:
    """What it paid yesterday counts, also for another run, and what it gave back does not."""
    clock, limits = Clock(NOON), {"*": {"month": 5 * STANDARD}}
    own = run("run-1", None, limits, today=clock)
    await pay(own)
    given_back = await reserve(own)
    clock.now = MIDNIGHT + timedelta(hours=5)
    own.release(given_back)
    assert len(await pay_many(own, [STANDARD] * 2)) == 2
    await own.close()
    assert len(await pay_many(run("run-2", None, limits, today=clock), [STANDARD] * 5)) == 2


@pytest.mark.parametrize(("state", "left"), [("absent", 3), ("free", 3), ("counts", 2)])
@pytest.mark.parametrize(("day", "hour"), [(18, 12), (19, 12), (20, 12), (20, 23), (21, 23)])
async def test_the_reservation_of_a_dead_process_counts_only_if_it_was_charged(
    run: Make, bucket: MemoryBucket, claims: Claims, state: Any, left: int, day: int, hour: int
) -> None:
    """Wherever in the month it died, also around midnight."""
    limits = {"*": {"month": 3 * STANDARD}}
    dead = run("run-1", None, limits, today=Clock(NOON.replace(day=day)))
    claims.states[await reserve(dead)] = state
    bucket.wait(ABANDONED_AFTER + 2)
    own = run("run-2", None, limits, today=Clock(NOON.replace(hour=hour)))
    assert len(await pay_many(own, [STANDARD] * 5)) == left


async def test_a_run_keeps_the_sums_of_finished_days(run: Make, bucket: MemoryBucket) -> None:
    """The next run reads those, yesterday and tomorrow; yesterday and a day that was just written are not kept."""
    for day in range(1, 20):
        await spend(bucket, f"2026-03-{day:02}", "team-a" if day % 2 else "")
    bucket.wait(2 * 86_400)
    await spend(bucket, "2026-03-11", "team-b")
    limits = {"*": {"month": 1000}}
    assert await run("run-1", None, limits).available_usd() == (1000 - 20 * PAID, "I2V_LIMITS (all runs, month)")
    assert month_of(bucket)["2026-03-17"] == {"team-a": str(PAID)}
    assert month_of(bucket).keys() == {f"2026-03-{day:02}" for day in range(1, 19) if day != 11}
    seen: list[tuple[str, str]] = []
    storage = WatchedStorage(bucket, lambda operation, uri: seen.append((operation, uri.key)))
    assert (await run("run-2", None, limits, storage=storage).available_usd())[0] == 1000 - 20 * PAID
    read = [key.removeprefix("jobs/") for _, key in seen]
    assert sorted(set(read)) == [
        "days/2026-03-11.json",
        "days/2026-03-19.json",
        "days/2026-03-20.json",
        "days/2026-03-21.json",
        "months/2026-03.json",
    ]
    assert {operation for operation, _ in seen} == {"get"}


@pytest.mark.parametrize("body", [None, b"{", b"[]", b'{"month": "2026-03", "days": {"2026-03-05": {"": "x"}}}'])
async def test_the_sums_are_made_again_if_they_are_lost(run: Make, bucket: MemoryBucket, body: bytes | None) -> None:
    """They are derived from the days, which alone decide."""
    await spend(bucket, "2026-03-05")
    bucket.wait(2 * 86_400)
    uri = keys.month_uri(MEMORY_SETTINGS, "2026-03")
    if body:
        bucket.put(uri, body, "application/json", {}, "")
    own = run("run-1", None, {"*": {"month": 1000}})
    assert (await own.available_usd())[0] == 1000 - PAID
    assert month_of(bucket) == {"2026-03-05": {"": str(PAID)}}


async def test_sums_that_cannot_be_kept_stop_nothing(run: Make, bucket: MemoryBucket) -> None:
    """The next run reads the days again."""

    def before(operation: str, _: object) -> None:
        if operation == "put":
            raise StorageError("S3 is busy")

    await spend(bucket, "2026-03-05")
    bucket.wait(2 * 86_400)
    await pay(run("run-1", None, {"*": {"month": 1000}}, storage=WatchedStorage(bucket, before)))


@pytest.mark.parametrize(("hour", "more"), [(12, 0), (23, 1), (0, 1)])
async def test_a_monthly_limit_costs_no_request_per_video(
    run: Make, bucket: MemoryBucket, hour: int, more: int
) -> None:
    """A reservation is one write; in the hour before and after midnight it is also one read of the other day."""
    seen: list[str] = []
    storage = WatchedStorage(bucket, lambda operation, _: seen.append(operation))
    requests = {}
    for name, limits in {"without": {"*": {"day": 9}}, "with": {"*": {"day": 9, "month": 9}}}.items():
        own = run(name, None, limits, storage=storage, today=Clock(NOON.replace(hour=hour)))
        await pay(own)
        seen.clear()
        await pay(own)
        requests[name] = sorted(seen)
    assert requests["without"] == ["put if"]
    assert requests["with"] == sorted(["put if", *["get"] * more])


async def test_limits_are_near_from_eighty_percent(run: Make, bucket: MemoryBucket) -> None:
    """Each with what all runs under it have spent."""
    await spend(bucket, "2026-03-05", "team-a", 7 * STANDARD)
    limits = {"*": {"day": 2 * STANDARD, "month": 100}, "team-a": {"month": 10 * STANDARD, "day": 50}}
    own = run("run-1", "team-a", limits)
    await pay(own)
    assert [(limit.name, usd) for limit, usd in own.near_limits] == [
        ("I2V_LIMITS (label 'team-a', month)", 8 * STANDARD)
    ]
    await pay(own)
    assert {limit.name for limit, _ in own.near_limits} == {
        "I2V_LIMITS (all runs, day)",
        "I2V_LIMITS (label 'team-a', month)",
    }
