"""From a job's record to an image's line of the report: outcome, reason, and what this run paid."""

from __future__ import annotations

from decimal import Decimal

import pytest

from i2v.errors import FetchError, NotTried, Refused
from i2v.inputs.prompts import RequestOptions
from i2v.ledger import transitions
from i2v.ledger.attempt import EndKind, Reason, StoredVideo
from i2v.ledger.job import JobRecord, JobState
from i2v.media.images import ImageRef
from i2v.pipeline import outcomes
from i2v.pipeline.context import RunContext
from i2v.pipeline.validate import ResolvedImage, ValidationResult
from i2v.pipeline.video_order import Order
from i2v.reports.run_report import Outcome
from i2v.request import Request
from i2v.s3_uri import S3Uri
from tests.support.job_records import FACTS, IMAGE, NOW, PRICE, VIDEO, applied, claim_as
from tests.support.memory_provider import claim_by_hand
from tests.support.memory_storage import MemoryStorage, memory_run

NOTHING = Decimal(0)
REASON = Reason(code="NSFW", message="NSFW: not this")
ORDER = Order(IMAGE, Request(prompt="zoom"), PRICE)
NEW = JobRecord(key=ORDER.key, image=IMAGE, request=ORDER.request, created_at=NOW, updated_at=NOW)


def claimed(record: JobRecord = NEW, run_id: str = "run-1") -> JobRecord:
    """Return the job claimed by this run."""
    return claim_as(record, f"claim {record.next_number}", run_id=run_id)


def submitted(record: JobRecord, task_id: str = "task_1") -> JobRecord:
    """Return the job with the task of its POST."""
    assert record.attempt
    return applied(transitions.record_task(record, record.attempt.claim, task_id, NOW))


def finished(record: JobRecord, kind: EndKind, *, most: int | None = None) -> JobRecord:
    """Return the job after its task failed; with `most` the failure is transient."""
    assert record.task_id
    return applied(transitions.end_task(record, record.task_id, kind, REASON, NOW, max_attempts=most))


def stored(record: JobRecord, video: StoredVideo = VIDEO) -> JobRecord:
    """Return the job with its video published."""
    assert record.task_id
    return applied(transitions.store(record, record.task_id, video, NOW))


def rejected(kind: EndKind) -> JobRecord:
    """Return the job after its POST returned this."""
    return applied(transitions.reject(claimed(), "claim 1", kind, REASON, NOW))


LOST = applied(transitions.mark_lost(claimed(), "claim 1", REASON, NOW))
RELEASED = applied(transitions.release(claimed(), "claim 1", NOW))
AGAIN = finished(submitted(claimed()), EndKind.FAILED, most=2)
LATE = applied(transitions.record_task(claimed(applied(transitions.resubmit(LOST))), "claim 1", "task_1", NOW))
"""The first answer came late, after a person had the job submitted again and the second was sent."""
BOTH = applied(transitions.record_task(LATE, "claim 2", "task_2", NOW))
CASES = {
    "new": (NEW, "not_tried", 0, 0),
    "claimed": (claimed(), "unknown", 0, 1),
    "lost": (LOST, "unknown", 0, 1),
    "released": (RELEASED, "not_tried", 0, 0),
    "submitted": (submitted(claimed()), "submitted", 1, 0),
    "stored": (stored(submitted(claimed())), "stored", 1, 0),
    "task refused": (finished(submitted(claimed()), EndKind.REFUSED), "refused", 1, 1),
    "submit refused": (rejected(EndKind.REFUSED), "refused", 0, 0),
    "task failed": (finished(submitted(claimed()), EndKind.FAILED), "failed", 1, 1),
    "submit failed": (rejected(EndKind.FAILED), "failed", 1, 1),
    "failed for now": (AGAIN, "not_tried", 1, 1),
    "stored at the second attempt": (stored(submitted(claimed(AGAIN), "task_2")), "stored", 2, 1),
    "late answer beside a newer claim": (LATE, "submitted", 1, 1),
    "both submitted": (BOTH, "submitted", 2, 0),
    "first stored, second open": (stored(BOTH), "stored", 2, 0),
}


@pytest.fixture
def run() -> RunContext:
    """Return the run whose report it is."""
    return memory_run(MemoryStorage())


@pytest.mark.parametrize(("record", "outcome", "paid", "at_risk"), CASES.values(), ids=CASES.keys())
def test_each_state_becomes_a_line(run: RunContext, record: JobRecord, outcome: str, paid: int, at_risk: int) -> None:
    """Every submitted attempt costs its full price; an attempt without a video or a response is at risk."""
    line = outcomes.of_job(run, ORDER, record, None, cached=False)
    assert (line.outcome, line.cost_usd, line.at_risk_usd) == (outcome, paid * PRICE, at_risk * PRICE)
    assert (line.image, line.job, line.task_id) == (IMAGE.label, ORDER.key, record.task_id)


def test_every_state_has_an_outcome() -> None:
    """Each job state maps to an outcome."""
    assert set(outcomes.OUTCOMES) == set(JobState)


def test_a_job_paid_by_another_run_costs_nothing(run: RunContext) -> None:
    """A job that this run attached to and stored is `stored` at cost 0."""
    line = outcomes.of_job(run, ORDER, stored(submitted(claimed(run_id="run-0"))), VIDEO.uri, cached=False)
    assert (line.outcome, line.cost_usd, line.at_risk_usd) == (Outcome.STORED, NOTHING, NOTHING)


def test_only_this_runs_attempts_are_counted(run: RunContext) -> None:
    """If another run's attempt failed and ours was stored, we paid once and nothing is at risk."""
    mixed = submitted(claimed(finished(submitted(claimed(run_id="run-0")), EndKind.FAILED, most=2)), "task_2")
    line = outcomes.of_job(run, ORDER, stored(mixed), VIDEO.uri, cached=False)
    assert (line.cost_usd, line.at_risk_usd) == (PRICE, NOTHING)


def test_equal_images_are_charged_once(run: RunContext) -> None:
    """Images with equal content share one job, whose price is reported for the first of them."""
    job = stored(submitted(claimed()))
    lines = [outcomes.of_job(run, ORDER, job, VIDEO.uri, cached=False) for _ in range(3)]
    assert [line.cost_usd for line in lines] == [PRICE, NOTHING, NOTHING]


def test_a_cached_video_is_reported_as_cached(run: RunContext) -> None:
    """The line of a cached image names its video."""
    line = outcomes.of_job(run, ORDER, stored(submitted(claimed(run_id="run-0"))), VIDEO.uri, cached=True)
    assert (line.outcome, line.video) == (Outcome.CACHED, str(VIDEO.uri))


def test_a_line_has_its_reason(run: RunContext) -> None:
    """The reason is the provider's message, that the job is open, or the video's flags; a plain success has none."""
    flagged = stored(submitted(claimed()), VIDEO.model_copy(update={"flags": ("one", "two")}))
    reasons = [
        outcomes.of_job(run, ORDER, record, None, cached=False).reason
        for record in (LOST, submitted(claimed()), flagged, stored(submitted(claimed())))
    ]
    assert reasons[0] == "NSFW: not this"
    assert "without paying again" in (reasons[1] or "")
    assert reasons[2:] == ["one; two", None]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Refused("too small", "Use a larger one", "short_side"), "refused"),
        (NotTried("Not submitted: paused"), "not_tried"),
        (FetchError("404 at https://h.example/a"), "failed"),
    ],
)
def test_an_error_becomes_a_line(run: RunContext, error: FetchError, outcome: str) -> None:
    """The reason of a failed image is the error with its hint; only an image with an order was valid."""
    line = outcomes.of_error(run, "s3://b-1/a.jpg", error)
    assert (line.outcome, line.reason, line.job, line.cost_usd) == (outcome, str(error), None, NOTHING)
    assert not line.valid
    assert outcomes.of_error(run, "s3://b-1/a.jpg", error, ORDER).valid


def test_a_later_error_keeps_the_cost(run: RunContext) -> None:
    """If a later step fails, the line has the error as its reason and the job's cost."""
    line = outcomes.of_failed_job(run, ORDER, submitted(claimed()), FetchError("the disk is full"))
    assert (line.outcome, line.reason, line.cost_usd, line.task_id) == ("failed", "the disk is full", PRICE, "task_1")


def test_an_invalid_image_is_refused_with_its_reason(run: RunContext) -> None:
    """A refusal by validation has no cost and no job."""
    image = ResolvedImage(ref=ImageRef.parse("s3://b-1/images/a.jpg"), name="a.jpg", options=RequestOptions(), etag="e")
    line = outcomes.refused(
        run,
        image,
        ValidationResult(etag="e", at=S3Uri("b-1", "images/a.jpg"), refusal="too small"),
        Request(prompt="x"),
    )
    assert (line.outcome, line.reason, line.job, line.valid) == ("refused", "too small", None, False)


async def test_a_dry_run_plans_unpaid_jobs(run: RunContext) -> None:
    """A dry run reports the price of a new job once for equal images, and writes nothing."""
    lines = [await outcomes.preview(run, ORDER) for _ in range(2)]
    assert [(line.outcome, line.cost_usd) for line in lines] == [("planned", PRICE), ("planned", NOTHING)]
    assert isinstance(run.storage, MemoryStorage)
    assert run.storage.bucket.objects == {}


async def test_a_dry_run_reports_existing_jobs(run: RunContext) -> None:
    """A claimed job is planned at no cost, and a stored one is cached."""
    await claim_by_hand(run.ledger, ORDER)
    assert (await outcomes.preview(run, ORDER)).cost_usd == NOTHING
    job = await run.ledger.read_existing(ORDER.key)
    job = await run.ledger.change(job, lambda record: transitions.record_task(record, "t", "task_1", NOW)) or job
    await run.ledger.change(job, lambda record: transitions.store(record, "task_1", VIDEO, NOW))
    line = await outcomes.preview(run, ORDER)
    assert (line.outcome, line.video, line.cost_usd) == (Outcome.CACHED, str(VIDEO.uri), NOTHING)


def test_a_task_by_callback_says_what_it_waits_for(run: RunContext) -> None:
    """The reader learns that nothing has to be done, and who asks if no callback comes."""
    job = submitted(claim_as(NEW, "claim 1", run_id="run-1", delivery="callback"))
    assert "waiting for the callback" in (outcomes.of_job(run, ORDER, job, None, cached=False).reason or "")


def test_an_orders_key_is_its_job_key() -> None:
    """An order's key is the job key of the image's content and the request."""
    assert ORDER.key == ORDER.request.job_key(FACTS.sha256)
