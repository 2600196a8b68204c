"""Promises 1 to 3 when S3 fails: at each request of a run, once or permanently, before or after it took effect.

Each request fails in each way that matters for its kind; with `I2V_EVERY_FAULT=1`, in every way.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Self

import boto3
import pytest

from i2v.errors import I2vError
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.ledger.job import JobRecord
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.run import open_run
from i2v.reports.run_report import ItemReport, Outcome
from i2v.s3.client import ATTEMPTS
from i2v.s3.storage import Storage
from i2v.settings import Settings
from sandbox import Sandbox
from tests.support.fault_proxy import FaultRule
from tests.support.kill_points import BUCKET, RECONCILE, RUN
from tests.support.kill_rounds import AFTER_LEASE_SECONDS, BAD, GOOD, SHORT_LEASE
from tests.support.proxied_sandbox import ProxiedSandbox, UploadedImage
from tests.support.reconciling import reconcile
from tests.support.settings import MakeSettings

pytestmark = pytest.mark.timeout(300)
S3_POINTS = [name for name, point in RUN.items() if point.proxy == "s3" and name != "address-tried"]
"""`test_address_probe.py` is about the other; its faults would reach the provider too."""
WRITES = [name for name in S3_POINTS if RUN[name].changes]
READS = [name for name in S3_POINTS if name not in WRITES]
WITHOUT_EFFECT = ["task-page", "job-submitted", "markers-deleted", "recent-page-read", "recent-page", "run-rows"]
WITHOUT_EFFECT += ["bucket-head"]
"""Tried until they succeed, or only logged; a bucket's region is also known from other requests. A day whose answer was
lost is read back."""
CONDITIONAL = ["day", "ledger-info", "video", "job-claimed", "job-submitted", "job-stored", "job-refused"]
EVERY = os.environ.get("I2V_EVERY_FAULT") == "1"

Faults = list[tuple[FaultRule, list[str]]]
TEMPORARY: dict[str, Faults] = {
    "the response is lost": [(FaultRule("drop", when="after"), S3_POINTS)],
    "500 after the write": [(FaultRule("fail", when="after"), S3_POINTS if EVERY else WRITES)],
    "SlowDown twice": [(FaultRule("fail", status=503, code="SlowDown", times=2), S3_POINTS if EVERY else READS)],
    "conflict": [(FaultRule("fail", status=409, code="ConditionalRequestConflict"), CONDITIONAL)],
}
PERMANENT: dict[str, Faults] = {
    "access denied": [(FaultRule("fail", status=403, code="AccessDenied"), S3_POINTS)],
    "all boto3 attempts fail": [
        (FaultRule("fail", times=ATTEMPTS), WRITES if EVERY else CONDITIONAL),
        (FaultRule("drop", when="after", times=ATTEMPTS), WRITES),
    ],
}


@pytest.fixture
def world(
    sandbox: Sandbox, aws_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ProxiedSandbox]:
    """The sandbox behind fault proxies, with the environment set for runs in this process."""
    with ProxiedSandbox(sandbox, tmp_path) as world:
        world.provider.add_fault(on="task", kind="fails", code="NSFW", image=BAD, times=None)
        for name, value in world.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(aws_config))
        monkeypatch.setattr(Settings, "claim_to_post_seconds", 60.0)  # a part of a short lease is too little
        monkeypatch.setattr(Settings, "post_seconds", 120.0)
        yield world


@dataclass(frozen=True)
class Case:
    """One image in its own bucket, where S3 fails at one point."""

    point: str
    world: ProxiedSandbox
    settings: Settings
    image: UploadedImage
    rule: FaultRule
    session: boto3.Session

    @classmethod
    def make(
        cls, world: ProxiedSandbox, make_settings: MakeSettings, session: boto3.Session, point: str, fault: FaultRule
    ) -> Self:
        """Put the image and add the fault rule."""
        bucket = world.sandbox.new_bucket()
        name = BAD if point in {"job-refused", "verdict"} else GOOD[0]
        image = world.put(name, random.randrange(1 << 30))  # noqa: S311
        kind = {**RUN, **RECONCILE}[point].rule
        target = f"^/{bucket}$" if kind.target == BUCKET else f"^/{bucket}\\b.*{kind.target}"
        rule = replace(fault, method=kind.method, target=target, body=kind.body)
        settings = make_settings(**world.env).model_copy(update=SHORT_LEASE)
        return cls(point, world, settings, image, world.s3.add(rule), session)

    async def run(self, run_id: str) -> ItemReport | I2vError:
        """Run generate and return the image's line of the report, or the error that ended the run."""
        try:
            async with open_run(self.settings, run_id, storage=self._storage()) as run:
                items = await find_items(f"s3://{self.settings.bucket}/images/", run.storage, run.settings)
                report, stopped = await generate(run, items, RequestOptions(prompt="a slow zoom"), Steps())
        except I2vError as error:
            return error
        return stopped or report.items[0]

    async def reconcile(self) -> None:
        """Settle the open job."""
        async with open_run(self.settings, "later", storage=self._storage()) as run:
            await reconcile(run)

    def _storage(self) -> Storage:
        return Storage(session=self.session)

    def objects(self, prefix: str, names: str = ".*") -> dict[str, bytes]:
        """Return the bodies of the bucket's objects by key."""
        client, bucket = self.world.sandbox.s3(), str(self.settings.bucket)
        listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        keys = [item["Key"] for item in listed if re.fullmatch(names, item["Key"].removeprefix(prefix))]
        return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def record(self) -> JobRecord | None:
        """Return the job's record, or `None`."""
        found = list(self.objects("jobs/", r"[0-9a-f]{64}\.json").values())
        return JobRecord.model_validate_json(found[0]) if found else None

    def check_recorded(self) -> None:
        """Check that a submitted task is in the ledger, once and with its task id."""
        tasks = self.world.task_ids(self.image)
        record = self.record()
        known = {a.task_id for a in record.attempts if a.task_id} if record else set()
        assert len(tasks) <= 1, self.point
        assert tasks == known, self.point

    def check_reported(self, result: ItemReport | I2vError) -> None:
        """Check that the error has a hint, and that the report has the task id and its cost."""
        if isinstance(result, I2vError):
            assert result.hint, self.point
            assert self.world.task_ids(self.image) == set(), self.point
        elif self.point in WITHOUT_EFFECT or (self.point == "day" and self.rule.when == "after"):
            assert result.outcome is Outcome.STORED
        else:
            assert result.outcome is Outcome.FAILED, f"{self.point}: {result}"
            assert re.search(r"s3://.*(i2v doctor|AWS_)", result.reason or ""), f"{self.point}: {result}"
            assert {result.task_id} - {None} == self.world.task_ids(self.image), self.point
            assert result.cost_usd == len(self.world.task_ids(self.image)) * Decimal("0.192"), self.point

    def check_finished(self) -> None:
        """Check that the image was billed once, all its outputs are published, and no marker is open."""
        self.check_recorded()
        assert len(self.world.task_ids(self.image)) == 1, self.point
        assert self.objects("jobs/open/") == {}, self.point
        outputs = self.objects("videos/")
        if self.image.name == BAD:
            assert [key.partition(".jpg/")[2].partition(".")[2] for key in outputs] == ["refused.json"], self.point
            return
        assert [key.rpartition(".")[2] for key in outputs] == ["jpg", "json", "mp4"], self.point
        _, manifest, video = outputs.values()
        assert json.loads(manifest)["video"]["sha256"] == hashlib.sha256(video).hexdigest(), self.point


MakeCases = Callable[[Faults], list[Case]]


@pytest.fixture
def make_cases(world: ProxiedSandbox, make_settings: MakeSettings) -> MakeCases:
    """Return a function that makes a case for each point. All share a session, since creating one takes longest."""
    session = boto3.Session()

    def make(faults: Faults) -> list[Case]:
        pairs = [(point, rule) for rule, points in faults for point in points]
        return [Case.make(world, make_settings, session, point, rule) for point, rule in pairs]

    return make


async def run_all(cases: list[Case], run_id: str) -> list[tuple[Case, ItemReport | I2vError]]:
    """Run all cases at the same time, each in its own bucket."""
    results = await asyncio.gather(*(case.run(run_id) for case in cases))
    cases[0].world.wait_until_idle()
    cases[0].world.provider.billed()  # waits until the emulator has read all images
    return list(zip(cases, results, strict=True))


@pytest.mark.parametrize("fault", TEMPORARY)
async def test_a_temporary_fault_has_no_effect(make_cases: MakeCases, fault: str) -> None:
    """Whatever S3 loses, repeats or rejects once, the image is billed once and gets its result, without an error."""
    for case, result in await run_all(make_cases(TEMPORARY[fault]), "first"):
        assert case.rule.hits == case.rule.times, case.point
        assert isinstance(result, ItemReport), f"{case.point}: {result}"
        assert result.outcome is (Outcome.REFUSED if case.image.name == BAD else Outcome.STORED), (
            f"{case.point}: {result}"
        )
        case.check_finished()


@pytest.mark.parametrize("fault", PERMANENT)
async def test_a_permanent_fault_never_costs_twice(
    make_cases: MakeCases, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If S3 keeps failing, the task is recorded, the error has a hint, and the next run finishes the image."""
    cases = make_cases(PERMANENT[fault])
    for case, result in await run_all(cases, "first"):
        assert case.rule.hits == case.rule.times, case.point
        case.check_recorded()
        case.check_reported(result)
        if case.point == "job-submitted":
            (task_id,) = case.world.task_ids(case.image)
            assert f"PAID task {task_id} is not recorded yet, retrying" in caplog.text
    await asyncio.sleep(AFTER_LEASE_SECONDS)
    await asyncio.gather(*(case.reconcile() for case in cases))
    for case, result in await run_all(cases, "second"):
        assert isinstance(result, ItemReport), f"{case.point}: {result}"
        case.check_finished()


async def test_a_task_id_survives_an_s3_outage(make_cases: MakeCases, caplog: pytest.LogCaptureFixture) -> None:
    """If S3 fails during a submit, the task id is logged at once and recorded when S3 is back."""
    (case,) = make_cases([(FaultRule("delay", when="after"), ["job-claimed"])])
    world = case.world
    world.api.add(FaultRule("delay", "POST", when="after", seconds=1))
    running = asyncio.create_task(case.run("first"))
    await asyncio.to_thread(world.provider.wait, lambda: bool(world.provider.tasks))
    outage = world.s3.add(FaultRule("drop", target=r"/jobs/(?!runs/|tasks/)|/videos/", times=ATTEMPTS))
    result = await running
    (task_id,) = world.provider.tasks
    assert outage.hits == outage.times
    assert f"PAID task {task_id} is not recorded yet, retrying" in caplog.text
    assert isinstance(result, ItemReport)
    assert (result.outcome, result.task_id) == (Outcome.STORED, task_id)
    case.check_finished()


async def test_a_lost_submit_that_cannot_be_recorded_is_not_repeated(make_cases: MakeCases) -> None:
    """If the response is lost and S3 fails too, this run and later ones report the job as unknown."""
    (case,) = make_cases([(FaultRule("fail", status=403, code="AccessDenied"), ["job-unknown"])])
    case.world.provider.add_fault(on="submit", kind="lost_answer")
    result = await case.run("first")
    assert case.rule.hits == 1
    assert isinstance(result, ItemReport)
    assert (result.outcome, result.at_risk_usd) == (Outcome.UNKNOWN, Decimal("0.192"))
    await asyncio.sleep(AFTER_LEASE_SECONDS)
    again = await case.run("second")
    assert isinstance(again, ItemReport)
    assert (again.outcome, again.cost_usd) == (Outcome.UNKNOWN, Decimal(0))
    assert len(case.world.provider.request_log.find("submit")) == 1
