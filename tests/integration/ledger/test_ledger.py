"""The job records in S3: created once, changed one write at a time, and rejected if they cannot be parsed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import boto3
import pytest
from botocore.config import Config

from i2v.errors import LedgerError, Paused, StorageError, UsageError
from i2v.ledger import keys, transitions
from i2v.ledger.job import FORMAT, JobRecord, JobState, Reason
from i2v.ledger.ledger import Ledger, LedgerInfo
from i2v.s3.client import s3_client
from i2v.s3.storage import Storage
from i2v.settings import Settings
from sandbox import Sandbox
from tests.support.interleaving import S3Fault, SteppedStorage
from tests.support.memory_storage import MemoryBucket, ready
from tests.support.scripted_faults import ScriptedFaults
from tests.support.settings import MakeSettings, SealedSettings
from tests.support.simulated_world import IMAGE, ORDER, PRICE

KEY, REQUEST = ORDER.key, ORDER.request
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LOST = Reason(code="lost", message="lost")


@pytest.fixture
def storage(aws: None) -> Iterator[Storage]:
    """The sandbox's S3."""
    with Storage() as opened:
        yield opened


@pytest.fixture
def ledger(storage: Storage, settings: Settings) -> Ledger:
    """An empty ledger in the sandbox's S3."""
    return Ledger(storage, settings)


def claim(token: str) -> Callable[[JobRecord], JobRecord | None]:
    """Return the edit that claims a ready job."""
    return lambda job: transitions.claim(job, token=token, run_id=token, image=IMAGE, price_usd=PRICE, now=NOW)


def add_one(job: JobRecord) -> JobRecord:
    """An edit that always applies and counts how often it was applied."""
    return job.model_copy(update={"extra_attempts": job.extra_attempts + 1})


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
    ended = await asyncio.gather(*(ledger.change(current, add_one) for _ in range(16)))
    now = (await ledger.read_existing(KEY)).record
    assert (now.extra_attempts, now.revision) == (16, 17)
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
    with pytest.raises(ValueError, match="ready cannot become stored"):
        await ledger.change(current, lambda job: job.model_copy(update={"state": JobState.STORED}))
    assert (await ledger.read_existing(KEY)).record == current.record


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
    claimed = await ledger.change(claimed, add_one)
    assert sent == [200, 412, 200, 412]
    assert claimed
    assert claimed.record.attempt_for_claim("A")
    assert (await ledger.read_existing(KEY)).record == claimed.record
    assert claimed.record.revision == 2


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


async def test_prepare_creates_the_info_once(ledger: Ledger, sandbox: Sandbox, settings: Settings) -> None:
    """The first run creates `ledger.json`; later runs find it unchanged."""
    pages = [await ledger.prepare() for _ in range(3)]
    host = settings.base_url.split("/")[2]
    assert pages == [LedgerInfo(host=host, account="default")] * 3
    assert sandbox.read_json("jobs/ledger.json") == {"format": 1, "host": host, "account": "default", "paused": False}


async def test_sixteen_first_runs_create_one_info(storage: Storage, settings: Settings) -> None:
    """No run fails because another was faster."""
    pages = await asyncio.gather(*(Ledger(storage, settings).prepare() for _ in range(16)))
    assert len({page.model_dump_json() for page in pages}) == 1


@pytest.mark.parametrize(
    "other",
    [{"APIXO_BASE_URL": "https://api.apixo.ai/api/v1"}, {"I2V_ACCOUNT_LABEL": "another"}],
    ids=["provider", "account"],
)
async def test_a_ledger_of_another_provider_or_account_is_rejected(
    storage: Storage, sandbox: Sandbox, make_settings: MakeSettings, other: dict[str, str]
) -> None:
    """With a sandbox's ledger, a real key would reuse free videos: exit 2, and the error names both."""
    await Ledger(storage, make_settings(**sandbox.env)).prepare()
    before = sandbox.read("jobs/ledger.json")
    with pytest.raises(UsageError, match=r"belongs to .*not to .*I2V_JOBS_PREFIX") as caught:
        await Ledger(storage, make_settings(**{**sandbox.env, **other})).prepare()
    assert caught.value.exit_code == 2
    assert sandbox.read("jobs/ledger.json") == before


async def test_credentials_in_the_api_url_are_not_stored(
    storage: Storage, sandbox: Sandbox, make_settings: MakeSettings
) -> None:
    """The ledger stores host and port only."""
    secret = make_settings(**{**sandbox.env, "APIXO_BASE_URL": "https://me:hunter2@API.example:8443/v1"})
    assert (await Ledger(storage, secret).prepare()).host == "api.example:8443"
    assert b"hunter2" not in sandbox.read("jobs/ledger.json")


async def test_a_pause_lasts_until_resumed(ledger: Ledger, storage: Storage, settings: Settings) -> None:
    """Every run gets an error that says how to resume; `prepare` does not end the pause."""
    await ledger.prepare()
    await ledger.raise_if_paused()
    assert [await ledger.set_paused(True), await ledger.set_paused(True)] == [True, False]
    await Ledger(storage, settings).prepare()
    with pytest.raises(Paused, match="i2v resume"):
        await Ledger(storage, settings).raise_if_paused()
    assert await ledger.set_paused(False)
    await ledger.raise_if_paused()


async def test_a_pause_before_the_first_run_creates_the_info(ledger: Ledger) -> None:
    """`ledger.json` does not exist yet and is created."""
    assert await ledger.set_paused(True)
    assert (await ledger.prepare()).paused


async def test_a_missing_bucket_stops_the_run(storage: Storage, make_settings: MakeSettings) -> None:
    """Exit 3: nothing is submitted, and the error says why."""
    nowhere = make_settings(I2V_BUCKET="no-such-bucket-here")
    with pytest.raises(LedgerError, match=r"nothing is submitted: The bucket of .* does not exist"):
        await Ledger(storage, nowhere).prepare()


@dataclass
class UnconditionalS3:
    """An S3 server that ignores all conditions, or only `If-Match`."""

    ignores: str
    objects: dict[str, bytes] = field(default_factory=dict)
    numbers: Any = field(default_factory=count)

    def rejects(self, path: str, headers: Any) -> bool:
        """Return whether a PUT gets a 412."""
        return self.ignores == "If-Match" and headers["If-None-Match"] == "*" and path in self.objects


@contextmanager
def serving(fake: UnconditionalS3) -> Iterator[Storage]:
    """Yield a storage that uses this server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
            """Log nothing."""

        def answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            for name, value in (("ETag", '"e"'), ("Last-Modified", self.date_time_string())):
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            found = fake.objects.get(self.path)
            self.answer(404 if found is None else 200, found or b"<Error><Code>NoSuchKey</Code></Error>")

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if fake.rejects(self.path, self.headers):
                self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            fake.objects[self.path] = body
            self.answer(200)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    config = Config(s3={"addressing_style": "path"})
    url = f"http://127.0.0.1:{server.server_port}"
    client = boto3.Session("k", "s", region_name="us-east-1").client("s3", endpoint_url=url, config=config)
    try:
        with Storage(client) as storage:
            yield storage
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("ignores", "condition"), [("all", "IfNoneMatch"), ("If-Match", "IfMatch")])
async def test_a_server_that_ignores_conditions_is_rejected(ignores: str, condition: str) -> None:
    """On such a server two runs could pay for one video: exit 3 before anything is submitted."""
    message = rf"ignores conditional writes \({condition}\)"
    with serving(UnconditionalS3(ignores)) as storage, pytest.raises(LedgerError, match=message) as caught:
        await Ledger(storage, SealedSettings(I2V_BUCKET="b-1")).prepare()
    assert caught.value.exit_code == 3


async def test_open_markers_are_put_and_deleted_idempotently(ledger: Ledger, sandbox: Sandbox) -> None:
    """There is one marker per image version and job, however often it is put or deleted."""
    record = (await ledger.read_or_new(KEY, IMAGE, REQUEST)).record.model_copy(update={"state": JobState.STORED})
    for _ in range(2):
        await ledger.put_open_marker(IMAGE, KEY)
    assert sandbox.keys("jobs/open/") == [f"jobs/open/{keys.digest12('a.jpg')}-{keys.digest12('e')}-{KEY}"]
    for _ in range(2):
        await ledger.delete_open_marker(record)
    assert sandbox.keys("jobs/open/") == []


async def test_money_and_times_are_read_back_exactly(ledger: Ledger) -> None:
    """A record is the same to the last digit after it was written and read."""
    current = await ledger.read_or_new(KEY, IMAGE, REQUEST)
    price = Decimal("0.1920000000000000000000001")
    edit = lambda job: transitions.claim(job, token="A", run_id="r", image=IMAGE, price_usd=price, now=NOW)  # noqa: E731
    written = await ledger.change(current, edit)
    assert written
    assert (await ledger.read_existing(KEY)).record == written.record
    assert written.record.attempts[0].price_usd == price
