"""`jobs/ledger.json`: whose ledger it is, the pause flag, and whether the server and this version may write to it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import pytest
from botocore.config import Config

from i2v.errors import LedgerError, Paused, UsageError
from i2v.ledger import documents, keys
from i2v.ledger.day_spend import DaySpendStore
from i2v.ledger.job import FORMAT
from i2v.ledger.ledger import Ledger
from i2v.ledger.ledger_info import LedgerInfo
from i2v.ledger.run_record import new_run, read_run
from i2v.s3.storage import Storage
from i2v.settings import Settings
from sandbox import Sandbox
from tests.integration.ledger.conftest import MEMORY_SETTINGS
from tests.support.aws_sessions import made_up_session
from tests.support.memory_provider import claim_by_hand, put_order
from tests.support.memory_storage import MemoryBucket, MemoryStorage
from tests.support.settings import MakeSettings, SealedSettings


async def test_prepare_creates_the_info_once(ledger: Ledger, sandbox: Sandbox, settings: Settings) -> None:
    """The first run creates `ledger.json`; later runs find it unchanged."""
    pages = [await ledger.info.prepare() for _ in range(3)]
    host = settings.base_url.split("/")[2]
    assert pages == [LedgerInfo(host=host, account="default")] * 3
    assert sandbox.read_json("jobs/ledger.json") == {
        "format": FORMAT,
        "host": host,
        "account": "default",
        "paused": False,
        "fetched_from": [],
        "has_forgotten": False,
    }


async def test_sixteen_first_runs_create_one_info(storage: Storage, settings: Settings) -> None:
    """No run fails because another was faster."""
    pages = await asyncio.gather(*(Ledger(storage, settings).info.prepare() for _ in range(16)))
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
    await Ledger(storage, make_settings(**sandbox.env)).info.prepare()
    before = sandbox.read("jobs/ledger.json")
    with pytest.raises(UsageError, match=r"belongs to .*not to .*I2V_JOBS_PREFIX") as caught:
        await Ledger(storage, make_settings(**{**sandbox.env, **other})).info.prepare()
    assert caught.value.exit_code == 2
    assert sandbox.read("jobs/ledger.json") == before


async def test_the_ledger_stores_host_and_port_of_its_provider(
    storage: Storage, sandbox: Sandbox, make_settings: MakeSettings
) -> None:
    """In lower case and without the path, so that another way to write the same address is no other provider."""
    written = make_settings(**{**sandbox.env, "APIXO_BASE_URL": "https://API.example:8443/v1"})
    assert (await Ledger(storage, written).info.prepare()).host == "api.example:8443"
    again = make_settings(**{**sandbox.env, "APIXO_BASE_URL": "https://api.example:8443/v2/"})
    assert (await Ledger(storage, again).info.prepare()).host == "api.example:8443"


async def test_a_pause_lasts_until_resumed(ledger: Ledger, storage: Storage, settings: Settings) -> None:
    """Every run gets an error that says how to resume; `prepare` does not end the pause."""
    await ledger.info.prepare()
    await ledger.info.raise_if_paused()
    assert [await ledger.info.set_paused(True), await ledger.info.set_paused(True)] == [True, False]
    await Ledger(storage, settings).info.prepare()
    with pytest.raises(Paused, match="i2v resume"):
        await Ledger(storage, settings).info.raise_if_paused()
    assert await ledger.info.set_paused(False)
    await ledger.info.raise_if_paused()


async def test_a_pause_before_the_first_run_creates_the_info(ledger: Ledger) -> None:
    """`ledger.json` does not exist yet and is created."""
    assert await ledger.info.set_paused(True)
    assert (await ledger.info.prepare()).paused


async def test_a_missing_bucket_stops_the_run(storage: Storage, make_settings: MakeSettings) -> None:
    """Exit 3: nothing is submitted, and the error says why."""
    nowhere = make_settings(I2V_BUCKET="no-such-bucket-here")
    with pytest.raises(LedgerError, match=r"nothing is submitted: The bucket of .* does not exist"):
        await Ledger(storage, nowhere).info.prepare()


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
    client = made_up_session().client("s3", endpoint_url=url, config=config)
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
        await Ledger(storage, SealedSettings(I2V_BUCKET="b-1")).info.prepare()
    assert caught.value.exit_code == 3


async def test_a_bucket_that_was_fetched_from_is_remembered(ledger: Ledger, storage: Storage) -> None:
    """For good, once, and beside what else is in the info."""
    await ledger.info.prepare()
    await ledger.info.set_paused(True)
    for bucket in ("b-1", "b-2", "b-1"):
        await ledger.info.add_fetched_bucket(bucket)
    info = await Ledger(storage, ledger.settings).info.prepare()
    assert (info.fetched_from, info.paused) == (("b-1", "b-2"), True)


async def test_sixteen_changes_of_the_info_are_all_kept(ledger: Ledger) -> None:
    """A pause is not lost because a run remembers a bucket at that moment."""
    await ledger.info.prepare()
    await asyncio.gather(
        ledger.info.set_paused(True), *(ledger.info.add_fetched_bucket(f"b-{number}") for number in range(16))
    )
    info = await ledger.info.read()
    assert info
    assert (info.paused, set(info.fetched_from)) == (True, {f"b-{number}" for number in range(16)})


async def test_a_ledger_of_format_1_is_taken_over(ledger: Ledger, sandbox: Sandbox) -> None:
    """The first run of this version writes the new format, and keeps owner and pause flag."""
    await ledger.info.prepare()
    info = {**sandbox.read_json("jobs/ledger.json"), "format": 1, "paused": True}
    del info["fetched_from"]
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key="jobs/ledger.json", Body=json.dumps(info).encode())
    assert (await ledger.info.prepare()).paused
    assert sandbox.read_json("jobs/ledger.json") == {**info, "format": FORMAT, "fetched_from": []}


class OlderVersion:
    """What an i2v of format 1 does with each document of format 2."""

    def __init__(self, ledger: Ledger, run_id: str, day: str, job: str) -> None:
        self.reads: dict[str, Callable[[], Any]] = {
            "start of a run": ledger.info.prepare,
            "pause": lambda: ledger.info.set_paused(True),
            "pause flag": ledger.info.raise_if_paused,
            "job": lambda: ledger.read(job),
            "day": lambda: DaySpendStore(ledger.storage, ledger.settings).read(day),
            "run record": lambda: read_run(ledger.storage, ledger.settings, run_id),
        }


@pytest.mark.parametrize("what", ["start of a run", "pause", "pause flag", "job", "day", "run record"])
async def test_an_older_i2v_stops_before_it_pays(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot know what the new format means: exit 3, and the message says what to do."""
    bucket = MemoryBucket()
    ledger, order = Ledger(MemoryStorage(bucket), MEMORY_SETTINGS), put_order(bucket)
    await ledger.info.prepare()
    await claim_by_hand(ledger, order)
    days = DaySpendStore(ledger.storage, ledger.settings)
    await days.write((await days.read("2026-11-22")).content, "")
    await documents.write_document(ledger.storage, new_run("r"), keys.run_uri(ledger.settings, "r"), None)
    before = dict(bucket.objects)
    monkeypatch.setattr(documents, "FORMAT", FORMAT - 1)
    older = OlderVersion(ledger, "r", "2026-11-22", order.key)
    with pytest.raises(
        LedgerError, match=rf"has format {FORMAT}, this i2v reads up to {FORMAT - 1}.*Upgrade i2v"
    ) as caught:
        await older.reads[what]()
    assert caught.value.exit_code == 3
    assert bucket.objects == before
