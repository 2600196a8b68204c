"""The job records in S3: opened once, changed one after the other, and refused where they cannot be trusted."""

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
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from sandbox import Sandbox
from tests.support.interleaving import S3Fault, SteppedStorage
from tests.support.memory_storage import MemoryBucket, ready
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
    """The change that takes a ready job."""
    return lambda job: transitions.claim(job, token=token, run_id=token, image=IMAGE, price_usd=PRICE, now=NOW)


def add_one(job: JobRecord) -> JobRecord:
    """A change that always applies, and shows how often it was made."""
    return job.model_copy(update={"extra_attempts": job.extra_attempts + 1})


async def test_a_record_is_made_by_its_claim(ledger: Ledger, sandbox: Sandbox) -> None:
    """The first to claim a job makes its record, at revision 1; until then there is none, and the next find it."""
    new = await ledger.read_or_new(KEY, IMAGE, REQUEST, "label")
    assert sandbox.keys() == []
    made = await ledger.change(new, claim("A"))
    again = await ledger.read_or_new(KEY, IMAGE, REQUEST, "another")
    assert made
    assert (made.record, made.etag) == (again.record, again.etag)
    assert (made.record.state, made.record.revision, made.record.label) == (JobState.CLAIMED, 1, "label")
    assert sandbox.keys() == [f"jobs/{KEY}.json"]


@pytest.mark.parametrize("is_new", [True, False])
async def test_of_sixteen_claimants_one_has_the_job(ledger: Ledger, is_new: bool) -> None:
    """The others learn that the job is no longer ready, or no longer new, and pay nothing."""
    held = await (ledger.read_or_new if is_new else partial(ready, ledger))(KEY, IMAGE, REQUEST)
    claimed = await asyncio.gather(*(ledger.change(held, claim(f"{number}")) for number in range(16)))
    (winner,) = [one for one in claimed if one]
    now = await ledger.read_existing(KEY)
    assert now.record == winner.record
    assert now.record.revision == (1 if is_new else 2)


async def test_no_change_of_sixteen_is_lost(ledger: Ledger) -> None:
    """Who loses a race reads again and makes his change upon the other's, each time with a higher revision."""
    held = await ready(ledger, KEY, IMAGE, REQUEST)
    ended = await asyncio.gather(*(ledger.change(held, add_one) for _ in range(16)))
    now = (await ledger.read_existing(KEY)).record
    assert (now.extra_attempts, now.revision) == (16, 17)
    assert sorted(one.record.revision for one in ended if one) == list(range(2, 18))
    assert len({one.record.writer for one in ended if one}) == 16


async def test_a_change_that_no_longer_applies_is_not_made(ledger: Ledger) -> None:
    """`None`, and nothing is written."""
    held = await ready(ledger, KEY, IMAGE, REQUEST)
    await ledger.change(held, claim("A"))
    assert await ledger.change(held, claim("B")) is None
    assert (await ledger.read_existing(KEY)).record.revision == 2


async def test_an_illegal_change_is_not_written(ledger: Ledger) -> None:
    """Whatever an edit makes: the record in S3 stays as it was."""
    held = await ready(ledger, KEY, IMAGE, REQUEST)
    with pytest.raises(ValueError, match="ready cannot become stored"):
        await ledger.change(held, lambda job: job.model_copy(update={"state": JobState.STORED}))
    assert (await ledger.read_existing(KEY)).record == held.record


async def test_our_own_repeated_write_is_ours(aws: None, settings: Settings) -> None:
    """Each write is sent twice, as boto3 does where an answer is lost: the 412 for the second is no lost race."""
    sent: list[int] = []

    def again(response: Any, attempts: int, **_: object) -> int | None:
        sent.append(response[0].status_code if response else 0)
        return 0 if attempts == 1 else None

    client = s3_client()
    client.meta.events.register_first("needs-retry.s3.PutObject", again)
    ledger = Ledger(Storage(client), settings)
    held = await ledger.read_or_new(KEY, IMAGE, REQUEST)
    claimed = await ledger.change(held, claim("A"))
    assert claimed
    claimed = await ledger.change(claimed, add_one)
    assert sent == [200, 412, 200, 412]
    assert claimed
    assert claimed.record.attempt_for_claim("A")
    assert (await ledger.read_existing(KEY)).record == claimed.record
    assert claimed.record.revision == 2


class Script:
    """How each operation on a bucket in memory ends, in order; the rest is well."""

    def __init__(self, *ends: S3Fault | None) -> None:
        self.late: list[Callable[[], Any]] = []
        self._ends = list(ends)
        self.asked: list[str] = []

    async def wait_for_turn(self, kind: str, uri: S3Uri | None = None) -> S3Fault | None:
        """The next end."""
        del uri
        self.asked.append(kind)
        return self._ends.pop(0) if self._ends else None


def scripted(bucket: MemoryBucket, *ends: S3Fault | None) -> tuple[Ledger, Script]:
    """A ledger in memory whose operations end so."""
    script = Script(*ends)
    return Ledger(SteppedStorage(bucket, script), SealedSettings(I2V_BUCKET="b-1")), script


@pytest.mark.parametrize("fault", [S3Fault.BUSY, S3Fault.REPEATED])
async def test_a_conflict_of_either_kind_is_looked_into(fault: S3Fault) -> None:
    """409, where nothing was written, and 412 for our own write: read again, and the claim is made once."""
    bucket = MemoryBucket()
    held = await ready(scripted(bucket)[0], KEY, IMAGE, REQUEST)
    ledger, script = scripted(bucket, fault)
    claimed = await ledger.change(held, claim("A"))
    assert claimed
    assert (claimed.record.revision, len(claimed.record.attempts)) == (2, 1)
    assert script.asked == (["put if", "get", "put if"] if fault is S3Fault.BUSY else ["put if", "get"])


@pytest.mark.parametrize("fault", [S3Fault.BUSY, S3Fault.REPEATED])
async def test_a_record_is_made_once_through_conflicts(fault: S3Fault) -> None:
    """The same holds for the first write: after a 409 the other's record may not be there yet."""
    ledger, script = scripted(MemoryBucket(), None, fault)
    made = await ledger.change(await ledger.read_or_new(KEY, IMAGE, REQUEST), claim("A"))
    assert made
    assert (made.record.revision, len(made.record.attempts)) == (1, 1)
    asked = ["get", "put if", "get", "put if"]
    assert script.asked == (asked if fault is S3Fault.BUSY else asked[:3])


@pytest.mark.parametrize(
    "ends", [(S3Fault.FAILS,), (None, S3Fault.FAILS), (None, S3Fault.BUSY, S3Fault.FAILS)], ids=str
)
async def test_a_ledger_that_cannot_be_read_or_written_says_so(ends: tuple[S3Fault | None, ...]) -> None:
    """No step of making a record goes on without an answer."""
    ledger, _ = scripted(MemoryBucket(), *ends)
    with pytest.raises(StorageError):
        await ledger.change(await ledger.read_or_new(KEY, IMAGE, REQUEST), claim("A"))


@pytest.mark.parametrize("fault", [S3Fault.FAILS, S3Fault.LOST, S3Fault.LATE])
async def test_a_write_without_an_answer_is_never_taken_for_done(fault: S3Fault) -> None:
    """Whether it was done or not, the caller learns that it is not known."""
    bucket = MemoryBucket()
    held = await ready(scripted(bucket)[0], KEY, IMAGE, REQUEST)
    with pytest.raises(StorageError):
        await scripted(bucket, fault)[0].change(held, claim("A"))


async def test_a_late_write_never_lands_upon_a_newer_one() -> None:
    """A write that its writer gave up arrives after another's: its etag is of yesterday, and it is refused."""
    bucket = MemoryBucket()
    held = await ready(scripted(bucket)[0], KEY, IMAGE, REQUEST)
    ledger, script = scripted(bucket, S3Fault.LATE)
    with pytest.raises(StorageError):
        await ledger.change(held, claim("A"))
    await ledger.change(held, claim("B"))
    with pytest.raises(StorageError):
        script.late[0]()
    now = (await ledger.read_existing(KEY)).record
    assert [attempt.claim for attempt in now.attempts] == ["B"]


GARBAGE = {
    "empty": b"",
    "half": b'{"format": 1, "key"',
    "no object": b"[]",
    "null": b"null",
    "no UTF-8": b"\xff\xfe",
    "html": b"<html></html>",
    "another's": b'{"hello": "world"}',
    "no state": b'{"format": 1, "state": "sleeping"}',
    "format as text": b'{"format": "2"}',
}


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_is_never_taken_for_a_record(ledger: Ledger, sandbox: Sandbox, body: bytes) -> None:
    """What lies at a job's place and is no record stops the job, names the place, and is not overwritten."""
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/{KEY}.json", Body=body)
    for ask in (ledger.read(KEY), ledger.read_existing(KEY), ledger.read_or_new(KEY, IMAGE, REQUEST)):
        with pytest.raises(LedgerError, match=rf"s3://{sandbox.bucket}/jobs/{KEY}.json cannot be read"):
            await ask
    assert sandbox.read(f"jobs/{KEY}.json") == body


async def test_a_newer_format_asks_for_a_newer_i2v(ledger: Ledger, sandbox: Sandbox) -> None:
    """A record of tomorrow is left alone, whatever else is in it, and the message says to upgrade."""
    tomorrow = json.dumps({"format": FORMAT + 1, "jobs": "are clouds now"}).encode()
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/{KEY}.json", Body=tomorrow)
    with pytest.raises(
        LedgerError, match=rf"has format {FORMAT + 1}, this i2v reads up to {FORMAT}.*Upgrade i2v"
    ) as caught:
        await ledger.read_or_new(KEY, IMAGE, REQUEST)
    assert caught.value.exit_code == 3
    assert sandbox.read(f"jobs/{KEY}.json") == tomorrow


async def test_a_field_of_tomorrow_does_not_hinder(ledger: Ledger, sandbox: Sandbox) -> None:
    """A later version of the same format may add a field."""
    held = await ledger.read_or_new(KEY, IMAGE, REQUEST)
    more = {**held.record.model_dump(mode="json"), "mood": "good"}
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/{KEY}.json", Body=json.dumps(more).encode())
    assert (await ledger.read_existing(KEY)).record == held.record


async def test_a_record_that_is_gone_is_an_error(ledger: Ledger) -> None:
    """Records are never deleted: where one is missing that was there, a person must look."""
    with pytest.raises(LedgerError, match="is missing"):
        await ledger.read_existing(KEY)


async def test_the_age_of_a_claim_is_s3s(ledger: Ledger, storage: Storage) -> None:
    """A lease begins with the write of the claim, by the clock of S3."""
    held = await ready(ledger, KEY, IMAGE, REQUEST)
    await asyncio.sleep(2.1)
    assert (await ledger.read_existing(KEY)).age_seconds >= 2
    await ledger.change(held, claim("A"))
    assert (await ledger.read_existing(KEY)).age_seconds < 2


async def test_all_records_are_listed_and_nothing_else(ledger: Ledger, sandbox: Sandbox) -> None:
    """In the order of their keys, whole or since a time; pages, marks, inputs and strange files are no records."""
    keys = [f"{number:064x}" for number in range(70)]
    await asyncio.gather(*(ready(ledger, key, IMAGE, REQUEST) for key in reversed(keys)))
    for other in ("ledger.json", "runs/r.json", f"{keys[0]}.json.bak", f"open/{keys[0]}.json", "README.json"):
        sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/{other}", Body=b"{}")
    assert [record.key async for record in ledger.records()] == keys
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert [record.key async for record in ledger.records(since=soon)] == []
    assert [record.key async for record in ledger.records(since=soon - timedelta(hours=2))] == keys


async def test_a_job_is_found_by_the_beginning_of_its_key(ledger: Ledger) -> None:
    """People copy the first twelve digits."""
    keys = ["a" * 64, "ab" + "0" * 62]
    for key in keys:
        await ready(ledger, key, IMAGE, REQUEST)
    found = [await ledger.find_keys(start) for start in ("a" * 12, "a", "b", "a" * 64)]
    assert found == [[keys[0]], keys, [], [keys[0]]]


async def test_a_proved_ledger_names_its_provider(ledger: Ledger, sandbox: Sandbox, settings: Settings) -> None:
    """The first run makes the page, every later one finds it as it was."""
    pages = [await ledger.prepare() for _ in range(3)]
    host = settings.base_url.split("/")[2]
    assert pages == [LedgerInfo(host=host, account="default")] * 3
    assert sandbox.read_json("jobs/ledger.json") == {"format": 1, "host": host, "account": "default", "paused": False}


async def test_sixteen_first_runs_make_one_page(storage: Storage, settings: Settings) -> None:
    """Nobody fails because another was faster."""
    pages = await asyncio.gather(*(Ledger(storage, settings).prepare() for _ in range(16)))
    assert len({page.model_dump_json() for page in pages}) == 1


@pytest.mark.parametrize(
    "other",
    [{"APIXO_BASE_URL": "https://api.apixo.ai/api/v1"}, {"I2V_ACCOUNT_LABEL": "another"}],
    ids=["provider", "account"],
)
async def test_a_ledger_of_another_provider_is_refused(
    storage: Storage, sandbox: Sandbox, make_settings: MakeSettings, other: dict[str, str]
) -> None:
    """A sandbox's ledger under a real key would take free videos for paid ones: exit 2, both are named."""
    await Ledger(storage, make_settings(**sandbox.env)).prepare()
    before = sandbox.read("jobs/ledger.json")
    with pytest.raises(UsageError, match=r"belongs to .*not to .*I2V_JOBS_PREFIX") as caught:
        await Ledger(storage, make_settings(**{**sandbox.env, **other})).prepare()
    assert caught.value.exit_code == 2
    assert sandbox.read("jobs/ledger.json") == before


async def test_no_secret_of_the_address_comes_into_the_ledger(
    storage: Storage, sandbox: Sandbox, make_settings: MakeSettings
) -> None:
    """Userinfo in the API's address is nobody's business."""
    secret = make_settings(**{**sandbox.env, "APIXO_BASE_URL": "https://me:hunter2@API.example:8443/v1"})
    assert (await Ledger(storage, secret).prepare()).host == "api.example:8443"
    assert b"hunter2" not in sandbox.read("jobs/ledger.json")


async def test_a_pause_holds_until_it_is_ended(ledger: Ledger, storage: Storage, settings: Settings) -> None:
    """Every run that asks is refused with what to do; a run that proves the ledger does not end the pause."""
    await ledger.prepare()
    await ledger.raise_if_paused()
    assert [await ledger.set_paused(True), await ledger.set_paused(True)] == [True, False]
    await Ledger(storage, settings).prepare()
    with pytest.raises(Paused, match="i2v resume"):
        await Ledger(storage, settings).raise_if_paused()
    assert await ledger.set_paused(False)
    await ledger.raise_if_paused()


async def test_a_pause_may_come_before_the_first_run(ledger: Ledger) -> None:
    """There is no page yet, and it is made."""
    assert await ledger.set_paused(True)
    assert (await ledger.prepare()).paused


async def test_a_ledger_without_a_bucket_stops_the_run(storage: Storage, make_settings: MakeSettings) -> None:
    """Exit 3: nothing is submitted, and the message says why."""
    nowhere = make_settings(I2V_BUCKET="no-such-bucket-here")
    with pytest.raises(LedgerError, match=r"nothing is submitted: The bucket of .* does not exist"):
        await Ledger(storage, nowhere).prepare()


@dataclass
class CarelessS3:
    """A server that speaks S3 and does not look at conditions: at none, or not at `If-Match`."""

    ignores: str
    objects: dict[str, bytes] = field(default_factory=dict)
    numbers: Any = field(default_factory=count)

    def refuses(self, path: str, headers: Any) -> bool:
        """Whether a put is refused, as S3 would where it cares."""
        return self.ignores == "If-Match" and headers["If-None-Match"] == "*" and path in self.objects


@contextmanager
def serving(careless: CarelessS3) -> Iterator[Storage]:
    """A storage over such a server on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
            """It is quiet."""

        def answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            for name, value in (("ETag", '"e"'), ("Last-Modified", self.date_time_string())):
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            found = careless.objects.get(self.path)
            self.answer(404 if found is None else 200, found or b"<Error><Code>NoSuchKey</Code></Error>")

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if careless.refuses(self.path, self.headers):
                self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            careless.objects[self.path] = body
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


@pytest.mark.parametrize(("ignores", "told"), [("all", "IfNoneMatch"), ("If-Match", "IfMatch")])
async def test_a_server_that_ignores_conditions_is_found_out(ignores: str, told: str) -> None:
    """Upon such a server two runs would pay for one video: exit 3 before anything is submitted."""
    told = rf"ignores conditional writes \({told}\)"
    with serving(CarelessS3(ignores)) as storage, pytest.raises(LedgerError, match=told) as caught:
        await Ledger(storage, SealedSettings(I2V_BUCKET="b-1")).prepare()
    assert caught.value.exit_code == 3


async def test_marks_come_and_go(ledger: Ledger, sandbox: Sandbox) -> None:
    """One mark for an image version and its job, however often it is put or taken away."""
    record = (await ledger.read_or_new(KEY, IMAGE, REQUEST)).record.model_copy(update={"state": JobState.STORED})
    for _ in range(2):
        await ledger.put_open_marker(IMAGE, KEY)
    assert sandbox.keys("jobs/open/") == [f"jobs/open/{keys.digest12('a.jpg')}-{keys.digest12('e')}-{KEY}"]
    for _ in range(2):
        await ledger.delete_open_marker(record)
    assert sandbox.keys("jobs/open/") == []


async def test_money_and_times_come_back_exactly(ledger: Ledger) -> None:
    """A record that was written and read again is the same to the last digit."""
    held = await ledger.read_or_new(KEY, IMAGE, REQUEST)
    price = Decimal("0.1920000000000000000000001")
    edit = lambda job: transitions.claim(job, token="A", run_id="r", image=IMAGE, price_usd=price, now=NOW)  # noqa: E731
    written = await ledger.change(held, edit)
    assert written
    assert (await ledger.read_existing(KEY)).record == written.record
    assert written.record.attempts[0].price_usd == price
