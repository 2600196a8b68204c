"""The job records in S3: created once, changed one write at a time, and rejected if they cannot be parsed."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from i2v.errors import I2vError, LedgerError
from i2v.ledger import keys, transitions
from i2v.ledger.job import FORMAT, JobRecord, JobState
from i2v.ledger.ledger import Edit, Ledger, VersionedRecord
from i2v.s3.client import s3_client
from i2v.s3.storage import Storage
from i2v.settings import Settings
from sandbox import Sandbox
from tests.support.job_records import new_attempt
from tests.support.memory_provider import IMAGE, ORDER, PRICE
from tests.support.memory_storage import ready

KEY, REQUEST = ORDER.key, ORDER.request
LABEL = "label"


def claim(token: str, price_usd: Decimal = PRICE) -> Edit:
    """Return the edit that claims a ready job."""
    return lambda job: transitions.claim(
        job, IMAGE, new_attempt(job, token).model_copy(update={"price_usd": price_usd})
    )


def count_one(job: JobRecord) -> JobRecord:
    """An edit that always applies and counts how often it was applied."""
    return job.model_copy(update={"label": f"{job.label or ''}x"})


async def test_a_record_is_created_by_its_claim(ledger: Ledger, sandbox: Sandbox) -> None:
    """The first claim creates the record at revision 1; before it there is none, and later reads return it."""
    new = await ledger.read_or_new(KEY, IMAGE, REQUEST, "label")
    assert sandbox.keys() == []
    made = await ledger.change(new, claim("A"))
    again = await ledger.read_or_new(KEY, IMAGE, REQUEST, "another")
    assert made
    assert (made.record, made.etag) == (again.record, again.etag)
    assert (made.record.state, made.record.revision, made.record.label) == (JobState.CLAIMED, 1, "label")
    assert sandbox.keys() == [f"jobs/{KEY}.json"]


@pytest.mark.parametrize("is_new", [True, False])
async def test_one_of_sixteen_claimants_gets_the_job(ledger: Ledger, is_new: bool) -> None:
    """The others find that the job is no longer ready, or no longer new."""
    current = await (ledger.read_or_new if is_new else partial(ready, ledger))(KEY, IMAGE, REQUEST)
    claimed = await asyncio.gather(*(ledger.change(current, claim(f"{number}")) for number in range(16)))
    (winner,) = [one for one in claimed if one]
    now = await ledger.read_existing(KEY)
    assert now.record == winner.record
    assert now.record.revision == (1 if is_new else 2)


async def test_sixteen_concurrent_changes_are_all_applied(ledger: Ledger) -> None:
    """A process that loses a race applies its edit to the newer record, each time with a higher revision."""
    current = await ready(ledger, KEY, IMAGE, REQUEST)
    ended = await asyncio.gather(*(ledger.change(current, count_one) for _ in range(16)))
    now = (await ledger.read_existing(KEY)).record
    assert (now.label, now.revision) == ("x" * 16, 17)
    assert sorted(one.record.revision for one in ended if one) == list(range(2, 18))
    assert len({one.record.writer for one in ended if one}) == 16


async def test_a_change_that_no_longer_applies_returns_none(ledger: Ledger) -> None:
    """An edit that does not apply writes nothing."""
    current = await ready(ledger, KEY, IMAGE, REQUEST)
    await ledger.change(current, claim("A"))
    assert await ledger.change(current, claim("B")) is None
    assert (await ledger.read_existing(KEY)).record.revision == 2


async def test_an_illegal_change_is_not_written(ledger: Ledger) -> None:
    """The record in S3 is unchanged."""
    current = await ready(ledger, KEY, IMAGE, REQUEST)
    claimed = await ledger.change(current, claim("A"))
    assert claimed
    for bad in ({"attempts": ()}, {"key": "b" * 64}):
        with pytest.raises(ValueError, match=r"would be lost|identity"):
            await ledger.change(claimed, lambda job, bad=bad: job.model_copy(update=bad))  # type: ignore[misc]
    assert (await ledger.read_existing(KEY)).record == claimed.record


async def test_a_repeated_write_is_recognized_as_our_own(aws: None, settings: Settings) -> None:
    """If boto3 sends a write twice, the 412 of the second is not a lost race."""
    sent: list[int] = []

    def again(response: Any, attempts: int, **_: object) -> int | None:
        sent.append(response[0].status_code if response else 0)
        return 0 if attempts == 1 else None

    client = s3_client()
    client.meta.events.register_first("needs-retry.s3.PutObject", again)
    ledger = Ledger(Storage(client), settings)
    current = await ledger.read_or_new(KEY, IMAGE, REQUEST)
    claimed = await ledger.change(current, claim("A"))
    assert claimed
    claimed = await ledger.change(claimed, count_one)
    assert sent == [200, 412, 200, 412]
    assert claimed
    assert claimed.record.attempt_for_claim("A")
    assert (await ledger.read_existing(KEY)).record == claimed.record
    assert claimed.record.revision == 2


async def test_money_and_times_are_read_back_exactly(ledger: Ledger) -> None:
    """A record is the same to the last digit after it was written and read."""
    current = await ledger.read_or_new(KEY, IMAGE, REQUEST)
    price = Decimal("0.1920000000000000000000001")
    written = await ledger.change(current, claim("A", price))
    assert written
    assert (await ledger.read_existing(KEY)).record == written.record
    assert written.record.attempts[0].price_usd == price


async def test_a_missing_record_is_an_error(ledger: Ledger) -> None:
    """Records are never deleted, so a missing one needs a person."""
    with pytest.raises(LedgerError, match="is missing"):
        await ledger.read_existing(KEY)


async def test_the_age_of_a_record_is_by_s3s_clock(ledger: Ledger, storage: Storage) -> None:
    """A lease begins when the claim is written, by the clock of S3."""
    current = await ready(ledger, KEY, IMAGE, REQUEST)
    await asyncio.sleep(2.1)
    assert (await ledger.read_existing(KEY)).age_seconds >= 2
    await ledger.change(current, claim("A"))
    assert (await ledger.read_existing(KEY)).age_seconds < 2


async def test_records_lists_all_records_and_nothing_else(ledger: Ledger, sandbox: Sandbox) -> None:
    """Records come in the order of their keys, all or since a time; other objects are skipped."""
    keys = [f"{number:064x}" for number in range(70)]
    await asyncio.gather(*(ready(ledger, key, IMAGE, REQUEST) for key in reversed(keys)))
    for other in ("ledger.json", "runs/r.json", f"{keys[0]}.json.bak", f"open/{keys[0]}.json", "README.json"):
        sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/{other}", Body=b"{}")
    assert [record.key async for record in ledger.records()] == keys
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert [record.key async for record in ledger.records(since=soon)] == []
    assert [record.key async for record in ledger.records(since=soon - timedelta(hours=2))] == keys


async def test_a_job_is_found_by_the_start_of_its_key(ledger: Ledger) -> None:
    """People copy the first twelve digits."""
    keys = ["a" * 64, "ab" + "0" * 62]
    for key in keys:
        await ready(ledger, key, IMAGE, REQUEST)
    found = [await ledger.find_keys(start) for start in ("a" * 12, "a", "b", "a" * 64)]
    assert found == [[keys[0]], keys, [], [keys[0]]]


async def test_read_many_yields_each_key_with_what_became_of_it(ledger: Ledger, sandbox: Sandbox) -> None:
    """A record, an error or nothing, in the order of the keys: one bad record does not stop the others."""
    wanted = [f"{number:064x}" for number in range(5)]
    for key in wanted[:3]:
        await ready(ledger, key, IMAGE, REQUEST)
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/{wanted[1]}.json", Body=b"{")
    newer = json.dumps({"format": FORMAT + 1}).encode()
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/{wanted[4]}.json", Body=newer)
    found = [one async for one in ledger.read_many(wanted)]
    assert [key for key, _ in found] == wanted
    kinds = [VersionedRecord, LedgerError, VersionedRecord, type(None), LedgerError]
    assert [type(one) for _, one in found] == kinds


async def test_an_unreadable_record_is_skipped_and_named(
    ledger: Ledger, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """A listing of all records continues after a bad one; `on_error` gets the key and the error of each."""
    wanted = [f"{number:064x}" for number in range(3)]
    for key in wanted:
        await ready(ledger, key, IMAGE, REQUEST)
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/{wanted[1]}.json", Body=b"[]")
    errors: dict[str, I2vError] = {}
    read = [record.key async for record in ledger.records(on_error=errors.__setitem__)]
    assert (read, list(errors)) == ([wanted[0], wanted[2]], [wanted[1]])
    assert [record.key async for record in ledger.records()] == read
    assert f"{wanted[1]}.json cannot be read" in caplog.text


async def test_a_deleted_record_can_be_recreated_once(ledger: Ledger) -> None:
    """A paid task is never dropped because somebody deleted its record; an existing one is never overwritten."""
    current = await ready(ledger, KEY, IMAGE, REQUEST)
    assert await ledger.recreate(current.record) is None
    await ledger.storage.delete(keys.job_uri(ledger.settings, KEY))
    recreated = await ledger.recreate(current.record)
    assert recreated
    assert (recreated.record.revision, (await ledger.read_existing(KEY)).record) == (2, recreated.record)


async def test_a_claim_is_absent_free_or_counts(ledger: Ledger) -> None:
    """The budget asks the record what became of a reservation."""
    assert await ledger.read_claim(KEY, "A") == "absent"
    claimed = await ledger.change(await ready(ledger, KEY, IMAGE, REQUEST), claim("A"))
    assert claimed
    assert [await ledger.read_claim(KEY, token) for token in "AB"] == ["counts", "absent"]
    await ledger.change(claimed, lambda job: transitions.release(job, "A", datetime.now(UTC)))
    assert await ledger.read_claim(KEY, "A") == "free"
