"""Records that cannot be read, and writes whose answers fail: nothing is overwritten and nothing is done twice."""

from __future__ import annotations

import json

import pytest

from i2v.errors import LedgerError, StorageError
from i2v.ledger.job import FORMAT
from i2v.ledger.ledger import Ledger
from sandbox import Sandbox
from tests.integration.ledger.test_ledger import KEY, REQUEST, claim
from tests.support.interleaving import S3Fault, SteppedStorage
from tests.support.memory_provider import IMAGE
from tests.support.memory_storage import MemoryBucket, ready
from tests.support.scripted_faults import ScriptedFaults
from tests.support.settings import SealedSettings


def scripted(bucket: MemoryBucket, *faults: S3Fault | None) -> tuple[Ledger, ScriptedFaults]:
    """Return a ledger in memory whose operations have these faults."""
    script = ScriptedFaults(*faults)
    return Ledger(SteppedStorage(bucket, script), SealedSettings(I2V_BUCKET="b-1")), script


@pytest.mark.parametrize("fault", [S3Fault.BUSY, S3Fault.REPEATED])
async def test_a_409_and_a_412_are_both_resolved_by_a_read(fault: S3Fault) -> None:
    """After a 409 nothing was written, after a 412 for our own write it was: either way the claim is made once."""
    bucket = MemoryBucket()
    current = await ready(scripted(bucket)[0], KEY, IMAGE, REQUEST)
    ledger, script = scripted(bucket, fault)
    claimed = await ledger.change(current, claim("A"))
    assert claimed
    assert (claimed.record.revision, len(claimed.record.attempts)) == (2, 1)
    assert script.operations == (["put if", "get", "put if"] if fault is S3Fault.BUSY else ["put if", "get"])


@pytest.mark.parametrize("fault", [S3Fault.BUSY, S3Fault.REPEATED])
async def test_a_new_record_is_created_once_through_conflicts(fault: S3Fault) -> None:
    """The same holds for the first write, where the winner's record may not exist yet after a 409."""
    ledger, script = scripted(MemoryBucket(), None, fault)
    made = await ledger.change(await ledger.read_or_new(KEY, IMAGE, REQUEST), claim("A"))
    assert made
    assert (made.record.revision, len(made.record.attempts)) == (1, 1)
    expected = ["get", "put if", "get", "put if"]
    assert script.operations == (expected if fault is S3Fault.BUSY else expected[:3])


@pytest.mark.parametrize(
    "faults", [(S3Fault.FAILS,), (None, S3Fault.FAILS), (None, S3Fault.BUSY, S3Fault.FAILS)], ids=str
)
async def test_a_failed_request_raises(faults: tuple[S3Fault | None, ...]) -> None:
    """No step of creating a record continues without an answer."""
    ledger, _ = scripted(MemoryBucket(), *faults)
    with pytest.raises(StorageError):
        await ledger.change(await ledger.read_or_new(KEY, IMAGE, REQUEST), claim("A"))


@pytest.mark.parametrize("fault", [S3Fault.FAILS, S3Fault.LOST, S3Fault.LATE])
async def test_a_write_without_an_answer_raises(fault: S3Fault) -> None:
    """Whether it was written or not, the caller gets an error."""
    bucket = MemoryBucket()
    current = await ready(scripted(bucket)[0], KEY, IMAGE, REQUEST)
    with pytest.raises(StorageError):
        await scripted(bucket, fault)[0].change(current, claim("A"))


async def test_a_delayed_write_never_overwrites_a_newer_one() -> None:
    """A write that arrives after another one has a stale etag and is rejected."""
    bucket = MemoryBucket()
    current = await ready(scripted(bucket)[0], KEY, IMAGE, REQUEST)
    ledger, script = scripted(bucket, S3Fault.LATE)
    with pytest.raises(StorageError):
        await ledger.change(current, claim("A"))
    await ledger.change(current, claim("B"))
    with pytest.raises(StorageError):
        script.late[0]()
    now = (await ledger.read_existing(KEY)).record
    assert [attempt.claim for attempt in now.attempts] == ["B"]


GARBAGE = {
    "empty": b"",
    "half": b'{"format": 1, "key"',
    "not an object": b"[]",
    "null": b"null",
    "not UTF-8": b"\xff\xfe",
    "html": b"<html></html>",
    "other fields": b'{"hello": "world"}',
    "bad state": b'{"format": 1, "state": "sleeping"}',
    "format as text": b'{"format": "2"}',
}


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE.keys())
async def test_an_unparsable_record_raises_and_is_not_overwritten(
    ledger: Ledger, sandbox: Sandbox, body: bytes
) -> None:
    """The error names the object, which stays as it was."""
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/{KEY}.json", Body=body)
    for read in (ledger.read(KEY), ledger.read_existing(KEY), ledger.read_or_new(KEY, IMAGE, REQUEST)):
        with pytest.raises(LedgerError, match=rf"s3://{sandbox.bucket}/jobs/{KEY}.json cannot be read"):
            await read
    assert sandbox.read(f"jobs/{KEY}.json") == body


async def test_a_newer_format_asks_for_an_upgrade(ledger: Ledger, sandbox: Sandbox) -> None:
    """A record of a newer format is left alone, whatever it contains, and the error says to upgrade."""
    tomorrow = json.dumps({"format": FORMAT + 1, "jobs": "changed"}).encode()
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/{KEY}.json", Body=tomorrow)
    with pytest.raises(
        LedgerError, match=rf"has format {FORMAT + 1}, this i2v reads up to {FORMAT}.*Upgrade i2v"
    ) as caught:
        await ledger.read_or_new(KEY, IMAGE, REQUEST)
    assert caught.value.exit_code == 3
    assert sandbox.read(f"jobs/{KEY}.json") == tomorrow


async def test_unknown_fields_are_ignored(ledger: Ledger, sandbox: Sandbox) -> None:
    """A later version of the same format may add fields."""
    current = await ledger.read_or_new(KEY, IMAGE, REQUEST)
    more = {**current.record.model_dump(mode="json"), "new_field": "x"}
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/{KEY}.json", Body=json.dumps(more).encode())
    assert (await ledger.read_existing(KEY)).record == current.record
