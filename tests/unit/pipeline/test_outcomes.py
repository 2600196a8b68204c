"""From a job's record to an image's line: the outcome, the reason, and what this run paid."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from i2v.errors import FetchError, NotTried, Refused
from i2v.inputs.prompts import RequestOptions
from i2v.ledger import transitions
from i2v.ledger.job import JobRecord, JobState, Reason
from i2v.media.images import ImageRef
from i2v.pipeline import outcomes
from i2v.pipeline.context import RunContext
from i2v.pipeline.order import Order
from i2v.pipeline.validate import ResolvedImage, ValidationResult
from i2v.reports.run_report import Outcome
from i2v.request import Request
from i2v.s3_uri import S3Uri
from tests.support.memory_storage import MemoryStorage, memory_run
from tests.unit.ledger.test_job import FACTS, IMAGE, VIDEO

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PRICE = Decimal("0.192")
NOTHING = Decimal(0)
WHY = Reason(code="NSFW", message="NSFW: not this")
ORDER = Order(IMAGE, Request(prompt="zoom"), PRICE)
FRESH = JobRecord(key=ORDER.key, image=IMAGE, request=ORDER.request, created_at=NOW, updated_at=NOW)


def claimed(record: JobRecord = FRESH, run_id: str = "run-1") -> JobRecord:
    """The job in this run's hands."""
    token = f"claim {record.last_attempt + 1}"
    made = transitions.claim(record, token=token, run_id=run_id, image=IMAGE, price_usd=PRICE, now=NOW)
    assert made
    return made


def submitted(record: JobRecord, task_id: str = "task_1") -> JobRecord:
    """Its POST brought a task."""
    assert record.attempt
    made = transitions.record_task(record, record.attempt.claim, task_id, NOW)
    assert made
    return made


def ended(record: JobRecord, state: JobState) -> JobRecord:
    """Its task failed."""
    made = transitions.end_task(record, record.task_id or "", state, WHY, NOW)
    assert made
    return made


def stored(record: JobRecord) -> JobRecord:
    """Its video is published."""
    made = transitions.store(record, record.task_id or "", VIDEO, NOW)
    assert made
    return made


LOST = transitions.mark_unknown(claimed(), "claim 1", WHY) or FRESH
CASES = [
    (FRESH, "not_tried", 0, 0),
    (claimed(), "unknown", 0, 1),
    (LOST, "unknown", 0, 1),
    (submitted(claimed()), "submitted", 1, 0),
    (stored(submitted(claimed())), "stored", 1, 0),
    (ended(submitted(claimed()), JobState.REFUSED), "refused", 1, 1),
    (ended(submitted(claimed()), JobState.FAILED), "failed", 1, 1),
    (ended(submitted(claimed()), JobState.READY), "not_tried", 1, 1),
    (stored(submitted(claimed(ended(submitted(claimed()), JobState.READY)), "task_2")), "stored", 2, 1),
]


@pytest.fixture
def run() -> RunContext:
    """The run whose report it is."""
    return memory_run(MemoryStorage())


@pytest.mark.parametrize(("record", "outcome", "paid", "at_risk"), CASES, ids=[case[1] for case in CASES])
def test_a_job_becomes_a_line(run: RunContext, record: JobRecord, outcome: str, paid: int, at_risk: int) -> None:
    """Every attempt that was taken counts in full; at risk is what gave no video, or whose answer is lost."""
    line = outcomes.of_job(run, ORDER, record, None, cached=False)
    assert (line.outcome, line.cost_usd, line.at_risk_usd) == (outcome, paid * PRICE, at_risk * PRICE)
    assert (line.image, line.job, line.task_id) == (IMAGE.label, ORDER.key, record.task_id)


def test_every_state_has_an_outcome() -> None:
    """No job leaves the report without a word."""
    assert set(outcomes.OUTCOMES) == set(JobState)


def test_what_another_run_paid_costs_this_run_nothing(run: RunContext) -> None:
    """Attached and then stored is `stored` at cost 0."""
    line = outcomes.of_job(run, ORDER, stored(submitted(claimed(run_id="run-0"))), VIDEO.uri, cached=False)
    assert (line.outcome, line.cost_usd, line.at_risk_usd) == (Outcome.STORED, NOTHING, NOTHING)


def test_only_this_runs_attempts_are_its_own(run: RunContext) -> None:
    """One attempt of another run failed, ours made the video: ours is paid once and not at risk."""
    mixed = submitted(claimed(ended(submitted(claimed(run_id="run-0")), JobState.READY)), "task_2")
    line = outcomes.of_job(run, ORDER, stored(mixed), VIDEO.uri, cached=False)
    assert (line.cost_usd, line.at_risk_usd) == (PRICE, NOTHING)


def test_equal_images_share_a_cost(run: RunContext) -> None:
    """Two images of one content are one job: its price is told once, at the first."""
    job = stored(submitted(claimed()))
    lines = [outcomes.of_job(run, ORDER, job, VIDEO.uri, cached=False) for _ in range(3)]
    assert [line.cost_usd for line in lines] == [PRICE, NOTHING, NOTHING]


def test_a_cached_video_says_so(run: RunContext) -> None:
    """It was there before, and the line still names it."""
    line = outcomes.of_job(run, ORDER, stored(submitted(claimed(run_id="run-0"))), VIDEO.uri, cached=True)
    assert (line.outcome, line.video) == (Outcome.CACHED, str(VIDEO.uri))


def test_a_line_tells_why(run: RunContext) -> None:
    """The provider's word, that it is still open, or how the delivery differs; nothing where all is well."""
    flagged = stored(submitted(claimed()))
    flagged = flagged.model_copy(update={"video": VIDEO.model_copy(update={"flags": ("one", "two")})})
    told = [
        outcomes.of_job(run, ORDER, record, None, cached=False).reason
        for record in (LOST, submitted(claimed()), flagged, stored(submitted(claimed())))
    ]
    assert told[0] == "NSFW: not this"
    assert "without paying again" in (told[1] or "")
    assert told[2:] == ["one; two", None]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Refused("too small", "Use a larger one", "short_side"), "refused"),
        (NotTried("Not submitted: paused"), "not_tried"),
        (FetchError("404 at https://h.example/a"), "failed"),
    ],
)
def test_an_error_becomes_a_line(run: RunContext, error: FetchError, outcome: str) -> None:
    """What stopped an image is its reason, with the hint; an image without an order was not valid."""
    line = outcomes.of_error(run, "s3://b-1/a.jpg", error)
    assert (line.outcome, line.reason, line.job, line.cost_usd) == (outcome, str(error), None, NOTHING)
    assert not line.valid
    assert outcomes.of_error(run, "s3://b-1/a.jpg", error, ORDER).valid


def test_what_was_paid_is_told_where_a_later_step_failed(run: RunContext) -> None:
    """The error is the reason, the money is the job's."""
    line = outcomes.of_failed_job(run, ORDER, submitted(claimed()), FetchError("the disk is full"))
    assert (line.outcome, line.reason, line.cost_usd, line.task_id) == ("failed", "the disk is full", PRICE, "task_1")


def test_a_refused_image_is_told_with_its_rule(run: RunContext) -> None:
    """Validation's own words, at no cost and without a job."""
    seen = ResolvedImage(ref=ImageRef.parse("s3://b-1/images/a.jpg"), name="a.jpg", options=RequestOptions(), etag="e")
    line = outcomes.refused(
        run, seen, ValidationResult(etag="e", at=S3Uri("b-1", "images/a.jpg"), refusal="too small"), Request(prompt="x")
    )
    assert (line.outcome, line.reason, line.job, line.valid) == ("refused", "too small", None, False)


async def test_a_dry_run_plans_only_what_is_unpaid(run: RunContext) -> None:
    """A new job would cost its price, once for equal images; nothing is written."""
    lines = [await outcomes.preview(run, ORDER) for _ in range(2)]
    assert [(line.outcome, line.cost_usd) for line in lines] == [("planned", PRICE), ("planned", NOTHING)]
    assert isinstance(run.storage, MemoryStorage)
    assert run.storage.bucket.objects == {}


async def test_a_dry_run_knows_what_is_there(run: RunContext) -> None:
    """What is stored, open or refused is told as it is, at no cost."""
    held = await run.ledger.read_or_new(ORDER.key, IMAGE, ORDER.request)
    mine = "another"
    held = (
        await run.ledger.change(
            held, lambda job: transitions.claim(job, token=mine, run_id="run-0", image=IMAGE, price_usd=PRICE, now=NOW)
        )
        or held
    )
    assert (await outcomes.preview(run, ORDER)).cost_usd == NOTHING
    held = await run.ledger.change(held, lambda job: transitions.record_task(job, mine, "task_1", NOW)) or held
    await run.ledger.change(held, lambda job: transitions.store(job, "task_1", VIDEO, NOW))
    line = await outcomes.preview(run, ORDER)
    assert (line.outcome, line.video, line.cost_usd) == (Outcome.CACHED, str(VIDEO.uri), NOTHING)


def test_the_facts_are_the_order_s() -> None:
    """The job's key is of the image's content and the request."""
    assert ORDER.key == ORDER.request.job_key(FACTS.sha256)
