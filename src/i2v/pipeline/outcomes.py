"""From a job's record to an image's line in the report."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from i2v.errors import I2vError, LimitReached, NotTried, Refused
from i2v.inputs.prompts import PromptSource
from i2v.ledger import keys
from i2v.ledger.job import JobRecord, JobState
from i2v.money import ZERO, Charges, sum_charges
from i2v.pipeline.context import RunContext
from i2v.pipeline.payment.check_and_pay import FORGOTTEN_RULE, forgotten
from i2v.pipeline.validate import ResolvedImage, ValidationResult
from i2v.pipeline.video_order import Order
from i2v.reports.run_report import ItemReport, Outcome
from i2v.request import Request
from i2v.s3_uri import S3Uri

OUTCOMES = {
    JobState.STORED: Outcome.STORED,
    JobState.REFUSED: Outcome.REFUSED,
    JobState.FAILED: Outcome.FAILED,
    JobState.UNKNOWN: Outcome.UNKNOWN,
    JobState.SUBMITTED: Outcome.SUBMITTED,
    JobState.CLAIMED: Outcome.UNKNOWN,
    JobState.READY: Outcome.NOT_TRIED,
    JobState.FORGOTTEN: Outcome.REFUSED,
}


FORGOTTEN = "erased: not made again unless you name the image itself"


def of_job(run: RunContext, order: Order, record: JobRecord, video: S3Uri | None, *, cached: bool) -> ItemReport:
    """Report an image whose job is known. What this run paid for a job counts once, at its first image."""
    paid, at_risk = _money(run, record)
    attached = (
        not cached and record.cost_usd > 0 and all(one.run_id != run.run_id for one in record.attempts if one.cost_usd)
    )
    is_free = not paid and (cached or (attached and record.state in {JobState.SUBMITTED, JobState.STORED}))
    return ItemReport(
        image=order.image.label,
        outcome=Outcome.CACHED if cached else OUTCOMES[record.state],
        job=record.key,
        task_id=record.task_id,
        video=str(video) if video else None,
        cost_usd=paid.charged,
        possibly_charged_usd=paid.possibly,
        job_charges=record.charges,
        at_risk_usd=at_risk,
        reason=_reason(record),
        seconds=_seconds(run),
        flags=record.video.flags if record.video else (),
        **_request_facts(order),
        state=record.state,
        video_sha256=record.video.sha256 if record.video else None,
        attached=attached,
        saved_usd=order.price_usd if is_free else ZERO,
        folder=order.image.name.rpartition("/")[0],
    )


def of_error(run: RunContext, image: str, error: I2vError, order: Order | None = None) -> ItemReport:
    """Report an image that an error stopped before this run had a job for it."""
    outcome = Outcome.FAILED
    if isinstance(error, Refused):
        outcome = Outcome.REFUSED
    elif isinstance(error, NotTried):
        outcome = Outcome.NOT_TRIED
    is_forgotten = isinstance(error, Refused) and error.rule == FORGOTTEN_RULE
    return ItemReport(
        image=image,
        outcome=outcome,
        job=order.key if order and not is_forgotten else None,
        state=JobState.FORGOTTEN if is_forgotten else None,
        is_new_outcome=not is_forgotten,
        reason=str(error),
        seconds=_seconds(run),
        limit_reached=isinstance(error, LimitReached),
        valid=order is not None,
        **(_request_facts(order) if order else {}),
    )


def of_failed_job(run: RunContext, order: Order, record: JobRecord, error: I2vError) -> ItemReport:
    """Report an image whose job was under way in this run when an error came, with what was paid."""
    line = of_job(run, order, record, None, cached=False)
    failure = of_error(run, order.image.label, error, order)
    return line.model_copy(update={"outcome": failure.outcome, "reason": failure.reason})


def _request_facts(order: Order) -> dict[str, Any]:
    same = ("request", "prompt_source", "again", "overridden", "extra")
    return {name: getattr(order, name) for name in same}


def refused(run: RunContext, image: ResolvedImage, validation: ValidationResult, request: Request) -> ItemReport:
    """Report an image that validation refused; nothing was paid."""
    return ItemReport(
        image=image.ref.label,
        outcome=Outcome.REFUSED,
        reason=validation.refusal,
        valid=False,
        seconds=_seconds(run),
        request=request,
        prompt_source=image.options.prompt_source or PromptSource.COLUMN,
        extra=dict(image.options.extra),
    )


async def preview(run: RunContext, order: Order) -> ItemReport:
    """Report what a run would do with a valid image; pay nothing and change nothing."""
    job = await run.ledger.read(order.key)
    if job is None or order.may_pay(job.record):
        version = keys.version_of(order.image.name, order.image.etag)
        if not order.by_name and (at := await run.ledger.forgotten.since(version)):
            raise forgotten(order.image.label, at)
        price, _ = run.not_yet_reported(order.key, Charges(order.price_usd), ZERO)
        return ItemReport(
            image=order.image.label,
            outcome=Outcome.PLANNED,
            job=order.key,
            cost_usd=price.charged,
            **_request_facts(order),
        )
    video = job.record.video.uri if job.record.video else None
    return of_job(run, order, job.record, video, cached=job.record.state is JobState.STORED)


def _money(run: RunContext, record: JobRecord) -> tuple[Charges, Decimal]:
    """Return what this run paid for a job and how much of it is at risk, beyond what another image's line has."""
    own = [attempt for attempt in record.attempts if attempt.run_id == run.run_id]
    at_risk = sum((attempt.at_risk_usd for attempt in own), ZERO)
    return run.not_yet_reported(record.key, sum_charges(attempt.charges for attempt in own), at_risk)


def _reason(record: JobRecord) -> str | None:
    state = record.attempt.provider_state if record.attempt else None
    note = f"the provider reported the state {state!r}, which i2v does not know" if state else None
    return "; ".join(filter(None, (_known_reason(record), note))) or None


def _known_reason(record: JobRecord) -> str | None:
    if record.state is JobState.FORGOTTEN or record.reason:
        return record.reason.message if record.reason and not record.forgotten_at else FORGOTTEN
    if record.state is JobState.SUBMITTED and record.attempt and record.attempt.delivery == "callback":
        return "waiting for the callback; without one, reconcile polls the provider"
    if record.state is JobState.SUBMITTED:
        return "not rendered yet; the next run or reconcile stores it without paying again"
    if record.state is JobState.CLAIMED:
        return "its submit's outcome could not be recorded: it becomes unknown once its lease is over"
    if record.video and record.video.flags:
        return "; ".join(record.video.flags)
    return None


def _seconds(run: RunContext) -> float:
    return (datetime.now(UTC) - run.started_at).total_seconds()
