"""Step 2, the one that pays: attach to a job, or pay for one attempt if none is under way.

What decides about the payment happens right before the POST (`i2v.pipeline.payment.check_and_pay`). A submit is never
repeated after a lost answer.
"""

import logging
import random
from datetime import UTC, datetime

from i2v.advised_commands import command
from i2v.clock import boot_time
from i2v.errors import Busy, NothingSent, NotTried
from i2v.ledger import transitions
from i2v.ledger.attempt import Reason
from i2v.ledger.job import JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.events import StepStarted
from i2v.pipeline.payment.check_and_pay import pay
from i2v.pipeline.video_order import Order
from i2v.telemetry.spans import describe_job, traced

log = logging.getLogger(__name__)
CLAIM_CHECK_SECONDS = 3.0
LEASE_OVER = Reason(code="lease_over", message="a process claimed this job and recorded no submit: possibly charged")
BACKOFF_FIRST_SECONDS, BACKOFF_MOST_SECONDS = 1.0, 60.0


@traced("submit", describe_job)
async def submit(run: RunContext, order: Order) -> VersionedRecord:
    """Attach to the order's job if it is under way or has ended; otherwise pay for one attempt.

    Return the job, in any state but ready or claimed; a forgotten one only if no person named its image. After an error
    nothing was paid: `NotTried` if the run's submits are stopped, a limit forbids this one, or the ledger is too slow;
    `Refused` if the image was erased; `ProviderError` if the provider rejected the account or the address, or was busy
    or unreachable too long; `StorageError` if the ledger cannot be read or written.
    """
    give_up_at = boot_time() + run.settings.submit_patience_seconds
    backoff = BACKOFF_FIRST_SECONDS
    while True:
        job = await run.ledger.read_or_new(order.key, order.image, order.request, order.label)
        if job.record.state is JobState.CLAIMED:
            await _wait_for_claim(run, job)
            continue
        if not order.may_pay(job.record):
            return job
        try:
            if paid := await run.shielded.run(pay(run, job, order)):
                return paid
            wait = random.uniform(0, 0.1)  # noqa: S311 - jitter
        except (Busy, NothingSent) as error:
            wait = max(error.retry_after or 0.0, backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            if boot_time() + wait > give_up_at or run.brake.stopped:
                raise
            log.info("%s: %s; retrying in %.0f s", order.log_name, error.message, wait, extra=order.log_context())
            run.emit(StepStarted("waiting", order.key))
            backoff = min(backoff * 2, BACKOFF_MOST_SECONDS)
        if boot_time() + wait > give_up_at:
            raise NotTried(
                "Not submitted: the job could not be claimed in time", f"Check how fast S3 answers: {command('doctor')}"
            )
        await run.brake.sleep(wait)


async def _wait_for_claim(run: RunContext, job: VersionedRecord) -> None:
    """Wait briefly for another run's claim to change; once its lease is over, mark it as possibly charged."""
    attempt, lease = job.record.attempt, run.settings.lease_seconds
    if attempt is not None and job.age_seconds > lease:
        now = datetime.now(UTC)
        await run.ledger.change(job, lambda record: transitions.mark_lost(record, attempt.claim, LEASE_OVER, now))
        return
    if run.brake.interrupted:
        raise NotTried("interrupted while another run was submitting this job")
    await run.brake.sleep(min(CLAIM_CHECK_SECONDS, max(0.1, lease - job.age_seconds + 0.1)))
