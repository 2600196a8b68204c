"""Promises 1 to 3 where S3 fails: at each request of a run, for a moment or for good, before or after it was done."""

from __future__ import annotations

import asyncio
import hashlib
import json
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
from i2v.recovery.reconcile import reconcile
from i2v.reports.run_report import ItemReport, Outcome
from i2v.s3.client import ATTEMPTS
from i2v.s3.storage import Storage
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.fault_proxy import FaultRule
from tests.support.kill_points import RECONCILE, RUN
from tests.support.kill_rounds import AFTER_LEASE_SECONDS, BAD, GOOD, SHORT_LEASE
from tests.support.proxied_sandbox import ProxiedSandbox, UploadedImage
from tests.support.settings import MakeSettings

pytestmark = pytest.mark.timeout(300)
S3_POINTS = [name for name, point in RUN.items() if point.proxy == "s3"]
WRITES = [name for name in S3_POINTS if RUN[name].changes]
CONDITIONAL = ["day", "page", "video", "job-claimed", "job-submitted", "job-stored", "job-refused"]

Faults = list[tuple[FaultRule, list[str]]]
PASSING: dict[str, Faults] = {
    "its answer is lost": [(FaultRule("drop", when="after"), S3_POINTS)],
    "it is done, and answered with 500": [(FaultRule("fail", when="after"), S3_POINTS)],
    "it comes too fast, twice": [(FaultRule("fail", status=503, code="SlowDown", times=2), S3_POINTS)],
    "another is writing": [(FaultRule("fail", status=409, code="ConditionalRequestConflict"), CONDITIONAL)],
}
LASTING: dict[str, Faults] = {
    "it is refused": [(FaultRule("fail", status=403, code="AccessDenied"), S3_POINTS)],
    "it fails, or its answer is lost, as often as it is tried": [
        (FaultRule("fail", times=ATTEMPTS), WRITES),
        (FaultRule("drop", when="after", times=ATTEMPTS), WRITES),
    ],
}


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProxiedSandbox]:
    """The sandbox behind fault proxies, for runs in this process."""
    with ProxiedSandbox(sandbox, tmp_path) as world:
        world.provider.add_fault(on="task", kind="fails", code="NSFW", image=BAD, times=None)
        for name, value in world.env.items():
            monkeypatch.setenv(name, value)
        yield world


@dataclass(frozen=True)
class Case:
    """One image in a bucket of its own, in which S3 fails at one point."""

    point: str
    world: ProxiedSandbox
    settings: Settings
    picture: UploadedImage
    rule: FaultRule
    session: boto3.Session

    @classmethod
    def make(
        cls, world: ProxiedSandbox, make_settings: MakeSettings, session: boto3.Session, point: str, fault: FaultRule
    ) -> Self:
        """Put the image and the rule."""
        bucket = world.sandbox.new_bucket()
        name = BAD if point in {"job-refused", "verdict", "unmark"} else GOOD[0]
        picture = world.put(name, random.randrange(1 << 30))  # noqa: S311
        kind = {**RUN, **RECONCILE}[point].rule
        rule = replace(fault, method=kind.method, target=f"^/{bucket}\\b.*{kind.target}", body=kind.body)
        settings = make_settings(**world.env, **SHORT_LEASE)
        return cls(point, world, settings, picture, world.s3.add(rule), session)

    async def run(self, run_id: str) -> ItemReport | I2vError:
        """What a run makes of the image, or the error that ended it."""
        try:
            async with open_run(self.settings, run_id, storage=self._storage()) as run:
                items = await find_items(f"s3://{self.settings.bucket}/images/", run.storage, run.settings)
                report, stopped = await generate(run, items, RequestOptions(prompt="a slow zoom"), Steps())
        except I2vError as error:
            return error
        return stopped or report.items[0]

    async def reconcile(self) -> None:
        """Settle what is left."""
        async with open_run(self.settings, "later", storage=self._storage()) as run:
            await reconcile(run)

    def _storage(self) -> Storage:
        return Storage(session=self.session)

    def objects(self, prefix: str) -> dict[str, bytes]:
        """What lies in the bucket."""
        client, bucket = self.world.sandbox.s3(), str(self.settings.bucket)
        listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        return {item["Key"]: client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in listed}

    def record(self) -> JobRecord | None:
        """The job's record."""
        names = re.compile(r"jobs/[0-9a-f]{64}\.json")
        found = [body for key, body in self.objects("jobs/").items() if names.fullmatch(key)]
        return JobRecord.model_validate_json(found[0]) if found else None

    def check_recorded(self) -> None:
        """Whatever was submitted is in the ledger, once and with its task id."""
        tasks = self.world.task_ids(self.picture)
        record = self.record()
        known = frozenset[str]().union(*(a.task_ids for a in record.attempts)) if record else frozenset()
        assert len(tasks) <= 1, self.point
        assert tasks == known, self.point

    def check_told(self, end: ItemReport | I2vError) -> None:
        """The error says what to do, and what was paid is told with it."""
        if isinstance(end, I2vError):
            assert end.hint, self.point
            assert self.world.task_ids(self.picture) == set(), self.point
        elif self.point in {"job-submitted", "unmark-many", "recent-read", "recent", "lines"}:
            assert end.outcome is Outcome.STORED
        else:
            assert end.outcome is Outcome.FAILED, f"{self.point}: {end}"
            assert re.search(r"s3://.*(i2v doctor|AWS_)", end.reason or ""), f"{self.point}: {end}"
            assert {end.task_id} - {None} == self.world.task_ids(self.picture), self.point
            assert end.cost_usd == len(self.world.task_ids(self.picture)) * Decimal("0.192"), self.point

    def check_ended(self) -> None:
        """The image was billed once, has its whole answer, and nothing is open."""
        self.check_recorded()
        assert len(self.world.task_ids(self.picture)) == 1, self.point
        assert self.objects("jobs/open/") == {}, self.point
        answers = self.objects("videos/")
        if self.picture.name == BAD:
            assert [key.partition(".jpg/")[2].partition(".")[2] for key in answers] == ["refused.json"], self.point
            return
        assert [key.rpartition(".")[2] for key in answers] == ["jpg", "json", "mp4"], self.point
        _, manifest, video = answers.values()
        assert json.loads(manifest)["video"]["sha256"] == hashlib.sha256(video).hexdigest(), self.point


MakeCases = Callable[[Faults], list[Case]]


@pytest.fixture
def make_cases(world: ProxiedSandbox, make_settings: MakeSettings) -> MakeCases:
    """What makes a case for each point; all speak to S3 through one session, since one costs more than a run."""
    session = boto3.Session()

    def make(faults: Faults) -> list[Case]:
        pairs = [(point, rule) for rule, points in faults for point in points]
        return [Case.make(world, make_settings, session, point, rule) for point, rule in pairs]

    return make


async def run_all(cases: list[Case], run_id: str) -> list[tuple[Case, ItemReport | I2vError]]:
    """All at once, each in its own bucket."""
    ends = await asyncio.gather(*(case.run(run_id) for case in cases))
    cases[0].world.wait_until_idle()
    cases[0].world.provider.billed()  # waits until the emulator knows all images
    return list(zip(cases, ends, strict=True))


@pytest.mark.parametrize("fault", PASSING)
async def test_what_passes_by_itself_is_not_noticed(make_cases: MakeCases, fault: str) -> None:
    """Whatever S3 loses, repeats or refuses for a moment, the image is billed once and answered, and nobody is told."""
    for case, end in await run_all(make_cases(PASSING[fault]), "first"):
        assert case.rule.hits == case.rule.times, case.point
        assert isinstance(end, ItemReport), f"{case.point}: {end}"
        assert end.outcome is (Outcome.REFUSED if case.picture.name == BAD else Outcome.STORED), f"{case.point}: {end}"
        case.check_ended()


@pytest.mark.parametrize("fault", LASTING)
async def test_what_stays_broken_costs_nothing_twice(
    make_cases: MakeCases, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where S3 fails for good, what was submitted is recorded, the error says what to do, and the next run ends it."""
    cases = make_cases(LASTING[fault])
    for case, end in await run_all(cases, "first"):
        assert case.rule.hits == case.rule.times, case.point
        case.check_recorded()
        case.check_told(end)
        if case.point == "job-submitted":
            (task_id,) = case.world.task_ids(case.picture)
            assert f"PAID task {task_id} is not recorded yet, retrying" in caplog.text
    await asyncio.sleep(AFTER_LEASE_SECONDS)
    await asyncio.gather(*(case.reconcile() for case in cases))
    for case, end in await run_all(cases, "second"):
        assert isinstance(end, ItemReport), f"{case.point}: {end}"
        case.check_ended()


async def test_a_task_id_outlives_an_s3_that_is_gone(make_cases: MakeCases, caplog: pytest.LogCaptureFixture) -> None:
    """S3 goes away while the provider takes the order: the task id is logged at once and written when S3 is back."""
    (case,) = make_cases([(FaultRule("delay", when="after"), ["job-claimed"])])
    world = case.world
    world.api.add(FaultRule("delay", "POST", when="after", seconds=1))
    running = asyncio.create_task(case.run("first"))
    await asyncio.to_thread(world.provider.wait, lambda: bool(world.provider.tasks))
    gone = world.s3.add(FaultRule("drop", target=r"/jobs/(?!runs/)|/videos/", times=ATTEMPTS))
    end = await running
    (task_id,) = world.provider.tasks
    assert gone.hits == gone.times
    assert f"PAID task {task_id} is not recorded yet, retrying" in caplog.text
    assert isinstance(end, ItemReport)
    assert (end.outcome, end.task_id) == (Outcome.STORED, task_id)
    case.check_ended()


async def test_a_lost_answer_that_cannot_be_written_is_never_paid_again(make_cases: MakeCases) -> None:
    """The provider's answer is lost, and S3 is gone too: the run says so, and later ones hold the job unknown."""
    (case,) = make_cases([(FaultRule("fail", status=403, code="AccessDenied"), ["job-unknown"])])
    case.world.provider.add_fault(on="submit", kind="lost_answer")
    end = await case.run("first")
    assert case.rule.hits == 1
    assert isinstance(end, ItemReport)
    assert (end.outcome, end.at_risk_usd) == (Outcome.UNKNOWN, Decimal("0.192"))
    await asyncio.sleep(AFTER_LEASE_SECONDS)
    again = await case.run("second")
    assert isinstance(again, ItemReport)
    assert (again.outcome, again.cost_usd) == (Outcome.UNKNOWN, Decimal(0))
    assert len(case.world.provider.request_log.find("submit")) == 1
