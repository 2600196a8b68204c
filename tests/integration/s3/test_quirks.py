"""Runs against S3 servers that behave otherwise: each works, or stops unpaid with words that name the cause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

import pytest

from i2v.doctor.checks import examine
from i2v.doctor.findings import Level
from i2v.errors import I2vError, StorageError
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.ledger.ledger_info import LedgerInfo, LedgerInfoStore
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.run import open_run
from i2v.s3.etags import EtagForm
from i2v.s3.preconditions import prove_conditional_writes
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from sandbox import Sandbox
from tests.support.fault_proxy import FaultProxy, FaultRule
from tests.support.orders import put_photo
from tests.support.s3_quirks import QuirkProxy

MINUTE = 60
CONDITIONS = "honors them (docs/s3.md)"
WORKS = ["quoted", "quoted_400", "bare", "ignores_quoted", "weak", "region", "path", "content_md5"]
FORMS = {
    "plain": EtagForm.QUOTED,
    "quoted": EtagForm.QUOTED,
    "weak": EtagForm.QUOTED,
    "bare": EtagForm.BARE,
    "ignores_quoted": EtagForm.BARE,
}
STOPS = {
    "no_conditions": ("does not implement conditional writes", CONDITIONS),
    "only_none_match": ("refuses an object's own ETag in If-Match: S3 returned 501", CONDITIONS),
    "ignores_conditions": ("ignores conditional writes (IfNoneMatch)", CONDITIONS),
    "ignores_if_match": ("ignores conditional writes (IfMatch)", CONDITIONS),
    "never_matches": ("refuses an object's own ETag in If-Match: S3 returned 412", CONDITIONS),
    "always_409": ("refuses an object's own ETag in If-Match: S3 returned 409", CONDITIONS),
    "never_creates": ("although nothing changed there: S3 returned 412", "docs/s3.md lists servers"),
    "clock": ("clock is wrong", "NTP"),
    "expired": ("credentials have expired", "Renew"),
    "demands_kms": ("denied PutObject", "the bucket's policy (docs/s3.md)"),
    "slow_down": ("limits the request rate", "Run again later"),
    "web_page": ("does not answer as S3 does", "login page"),
    "web_page_503": ("does not answer as S3 does", "login page"),
    "not_found": ("does not exist", "AWS_ENDPOINT_URL with its path"),
    "no_etag": ("has no ETag header", "AWS_ENDPOINT_URL"),
    "no_last_modified": ("has no Last-Modified header", "AWS_ENDPOINT_URL"),
}
"""What the error says, and what its hint says."""


@dataclass
class World:
    """A sandbox whose S3 is reached through the proxy."""

    sandbox: Sandbox
    settings: Settings

    async def run(self) -> str:
        """Run two images in a minute; return the report in words, or the error that stopped the run."""
        try:
            async with asyncio.timeout(MINUTE), open_run(self.settings, str(uuid4())) as run:
                items = await find_items(f"s3://{self.sandbox.bucket}/images/", run.storage, run.settings)
                report, stopped = await generate(run, items, RequestOptions(prompt="it moves"), Steps())
        except I2vError as error:
            return str(error)
        return str(stopped or report.summary)


OpenWorld = Callable[[str], World]


@pytest.fixture
def behind(
    sandbox: Sandbox, aws: None, settings: Settings, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> OpenWorld:
    """Put a proxy of this mode in front of S3, for i2v and for the provider."""

    def open_world(mode: str) -> World:
        proxy = QuirkProxy(sandbox.aws.address, mode)
        request.addfinalizer(proxy.stop)
        proxy.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        sandbox.provider.set_options(s3_address=proxy.address, render="shared")
        for number in range(2):
            put_photo(sandbox, f"{number}.jpg", number)
        hosts = settings.private_hosts | {proxy.address}
        return World(sandbox, settings.model_copy(update={"private_hosts": hosts}))

    return open_world


@pytest.mark.parametrize("mode", WORKS)
async def test_a_server_works(behind: OpenWorld, mode: str) -> None:
    """Whatever form of ETag, region, path or header the server wants: both videos are stored."""
    world = behind(mode)
    assert (await world.run()).startswith("2 stored")
    with Storage() as storage:
        faults = [finding for finding in await examine(world.settings, storage) if finding.level is Level.FAULT]
    assert faults == []


@pytest.mark.parametrize(("mode", "form"), FORMS.items())
async def test_the_proof_keeps_the_form_that_works(
    behind: OpenWorld, sandbox: Sandbox, mode: str, form: EtagForm
) -> None:
    """A form counts only if the right etag is accepted in it and a wrong one rejected."""
    behind(mode)
    uri = S3Uri(sandbox.bucket, "jobs/x")
    with Storage() as storage:
        etag = await storage.put(uri, b"1", metadata={"a": "b"})
        await prove_conditional_writes(storage, uri)
        assert storage.etag_form is form
        assert ((await storage.get(uri)).etag, dict((await storage.get(uri)).metadata)) == (etag, {"a": "b"})


async def test_the_proof_survives_a_lost_answer(sandbox: Sandbox, s3_proxy: FaultProxy) -> None:
    """boto3 repeats a write whose answer was lost and gets 412 for its own: that is not taken for a refused form."""
    uri = S3Uri(sandbox.bucket, "jobs/x")
    with Storage() as storage:
        await storage.put(uri, b"1")
        s3_proxy.add(FaultRule("fail", "PUT", "/jobs/x", status=412, code="PreconditionFailed", skip=2))
        await prove_conditional_writes(storage, uri)
        assert storage.etag_form is EtagForm.QUOTED


@pytest.mark.parametrize("mode", STOPS)
async def test_a_server_that_cannot_work_costs_nothing(behind: OpenWorld, mode: str) -> None:
    """The run stops within a minute, unpaid; the error and the doctor say why, and what to do."""
    world, (cause, remedy) = behind(mode), STOPS[mode]
    said = await world.run()
    assert cause in said
    assert remedy in said
    assert world.sandbox.provider.tasks == {}


async def test_one_odd_image_stops_no_other(behind: OpenWorld) -> None:
    """A response without the fields that i2v needs ends as one line for that image; the other is stored."""
    assert (await behind("image_without_etag").run()).startswith("1 stored · 1 failed")


async def test_a_bucket_that_demands_kms_works(behind: OpenWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """With I2V_S3_EXTRA_ARGS every write carries the key, so that the bucket's policy accepts it."""
    world = behind("demands_kms")
    monkeypatch.setenv("I2V_S3_EXTRA_ARGS", '{"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "our-key"}')
    assert (await world.run()).startswith("2 stored")
    monkeypatch.delenv("I2V_S3_EXTRA_ARGS")
    with Storage() as storage, pytest.raises(StorageError, match="denied PutObject"):
        await LedgerInfoStore(storage, world.settings).set_paused(True)


@pytest.mark.parametrize("mode", ["never_matches", "always_409"])
async def test_a_change_that_is_always_refused_ends(behind: OpenWorld, sandbox: Sandbox, mode: str) -> None:
    """A command that makes no proof, such as i2v pause, does not read and write an unchanged document for ever."""
    world = behind(mode)
    info = LedgerInfo(host=sandbox.provider.address, account="default")
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key="jobs/ledger.json", Body=info.model_dump_json().encode())
    with Storage() as storage, pytest.raises(StorageError, match="although nothing changed there"):
        await asyncio.wait_for(LedgerInfoStore(storage, world.settings).set_paused(True), 10)


@pytest.mark.parametrize("mode", ["quoted_400", "bare", "weak"])
async def test_a_change_without_a_proof_finds_the_form(behind: OpenWorld, sandbox: Sandbox, mode: str) -> None:
    """A command that makes no proof tries the other forms of an etag before it gives up."""
    world = behind(mode)
    info = LedgerInfo(host=sandbox.provider.address, account="default")
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key="jobs/ledger.json", Body=info.model_dump_json().encode())
    with Storage() as storage:
        assert await LedgerInfoStore(storage, world.settings).set_paused(True)
    assert sandbox.read_json("jobs/ledger.json")["paused"]


DOCTOR_KNOWS = [mode for mode in STOPS if mode not in {"not_found", "demands_kms"}]


@pytest.mark.parametrize("mode", DOCTOR_KNOWS)
async def test_the_doctor_names_cause_and_remedy(behind: OpenWorld, mode: str) -> None:
    """A fault has the cause in its message and the remedy in its hint, and never sends the user to the doctor again."""
    world, (cause, remedy) = behind(mode), STOPS[mode]
    with Storage() as storage:
        faults = [finding for finding in await examine(world.settings, storage) if finding.level is Level.FAULT]
    assert any(cause in fault.message and remedy in fault.hint for fault in faults), faults
    assert not any("doctor" in fault.hint for fault in faults)
    assert world.sandbox.provider.tasks == {}
