"""Status, resolve, spend report and adoption work in a ledger with a record that cannot be read."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from i2v.ledger import keys
from i2v.ledger.job import JobState
from i2v.pipeline.context import RunContext
from i2v.recovery.adopt_from_callback import CallbackHint, adopt_from_callback
from i2v.recovery.resolve_by_hand import Resolver
from i2v.recovery.status import read_status
from i2v.reports.spend import sum_spend
from tests.support.memory_provider import PRICE, RUNNING, MemoryProvider, claim_by_hand, lose, put_order
from tests.support.memory_storage import MemoryBucket, MemoryStorage, WatchedStorage, memory_run

BAD, GOOD = 1, 2


@pytest.fixture
async def damaged() -> tuple[RunContext, str, str]:
    """Return a run over a ledger with an unreadable record and an unknown job, and the keys of both."""
    bucket = MemoryBucket()
    run = memory_run(MemoryStorage(bucket), client=MemoryProvider(tasks={"T-FOUND": RUNNING}))
    bad, order = put_order(bucket, BAD), put_order(bucket, GOOD)
    await claim_by_hand(run.ledger, bad)
    bucket.put(keys.job_uri(run.settings, bad.key), b"{", "application/json", {}, "")
    await lose(run.ledger, await claim_by_hand(run.ledger, replace(order, delivery="callback")))
    return run, bad.key, order.key


async def test_the_status_names_an_unreadable_record(damaged: tuple[RunContext, str, str]) -> None:
    """The status page lists the record that cannot be read, and the job that needs a decision."""
    run, bad, good = damaged
    found = {entry.what: entry for entry in (await read_status(run)).needs_attention}
    assert set(found) == {"unreadable", "unknown"}
    assert bad in found["unreadable"].image
    assert good[:12] in found["unknown"].advice.command


@pytest.mark.parametrize("decision", ["adopt", "resubmit", "drop"])
async def test_a_person_resolves_beside_an_unreadable_record(
    damaged: tuple[RunContext, str, str], decision: str
) -> None:
    """Adopt, resubmit and drop work in a ledger with a record that cannot be read."""
    run, _, good = damaged
    resolver = Resolver(run.storage, run.settings)
    match decision:
        case "adopt":
            record = await resolver.adopt(good, "T-FOUND", run.client)
        case "resubmit":
            record = await resolver.resubmit(good)
        case _:
            record = await resolver.drop(good)
    expected = {"adopt": JobState.SUBMITTED, "resubmit": JobState.READY, "drop": JobState.FAILED}
    assert record.state is expected[decision]


async def test_the_spend_report_counts_beside_an_unreadable_record(damaged: tuple[RunContext, str, str]) -> None:
    """The spend report has the jobs that can be read."""
    run, _, _ = damaged
    spend = await sum_spend(run.storage, run.settings, days=1)
    assert spend.totals.at_risk_usd == PRICE


async def test_an_adoption_scans_no_ledger(damaged: tuple[RunContext, str, str]) -> None:
    """A callback's task is adopted without a listing, and beside a record that cannot be read."""
    run, _, good = damaged
    assert isinstance(run.storage, MemoryStorage)
    operations: Counter[str] = Counter()
    storage = WatchedStorage(run.storage.bucket, lambda operation, _uri: operations.update([operation]))
    own = memory_run(storage, client=run.client)
    job = await own.ledger.read_existing(good)
    adopted, _ = await adopt_from_callback(own, job, CallbackHint(good, 1, "T-FOUND"))
    assert (adopted.record.state, adopted.record.task_id) == (JobState.SUBMITTED, "T-FOUND")
    assert operations == {"get": 1, "put if": 2, "put": 1}, "the record; then the task page, the marker and the record"
