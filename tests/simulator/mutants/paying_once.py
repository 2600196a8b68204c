"""Mutants that pay twice: promises 1 and 2."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from i2v.errors import AnswerLost, Busy, ProviderError
from i2v.ledger import documents, ledger, transitions
from i2v.ledger.attempt import Attempt
from i2v.ledger.job import JobRecord
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.payment import accepted_or_lost, check_and_pay
from i2v.pipeline.submit import LEASE_OVER
from i2v.pipeline.video_order import Order
from i2v.recovery.reconcile import Settler
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from tests.simulator.mutants.replacing import Mutant, replace, write_unconditionally


def post_without_claim() -> None:
    """1: the POST is sent although the claim was not written."""

    async def claim(run: RunContext, job: VersionedRecord, order: Order, claim: Any) -> VersionedRecord:
        attempt = Attempt(
            number=claim.number,
            claim=claim.token,
            run_id=run.run_id,
            claimed_at=job.record.updated_at,
            price_usd=order.price_usd,
            day=claim.day,
        )
        made = transitions.claim(job.record, order.image, attempt)
        return VersionedRecord(made or job.record, job.etag)

    replace(check_and_pay, "_claim", claim)


def claim_without_condition() -> None:
    """1: records are written without a condition, so that two runs claim one job."""
    original = documents.write_document

    async def write(storage: Storage, document: BaseModel, uri: S3Uri, etag: str | None) -> str:
        write = write_unconditionally if isinstance(document, JobRecord) else original
        return await write(storage, document, uri, etag)

    replace(ledger, "write_document", write)


def no_limit_after_claim() -> None:
    """1: a POST may start long after its claim, when the lease is over."""
    replace(check_and_pay, "_problem", lambda _run, _claim: None)


def lease_ignored() -> None:
    """1: reconcile takes a claim for lost before its lease is over."""
    original = Settler._is_owned

    async def is_owned(self: Settler, job: VersionedRecord, attempt: Attempt) -> bool:
        return not attempt.is_claimed and await original(self, job, attempt)

    async def settle_claim(self: Settler, job: VersionedRecord, attempt: Attempt) -> VersionedRecord:
        def lose(record: JobRecord) -> JobRecord | None:
            return transitions.mark_lost(record, attempt.claim, LEASE_OVER, record.updated_at)

        return await self._run.ledger.change(job, lose) or job

    replace(Settler, "_is_owned", is_owned)
    replace(Settler, "_settle_claim", settle_claim)


def repeat_after_lost_answer() -> None:
    """2: a submit whose answer was lost is sent again."""
    original = accepted_or_lost.record_error

    async def record_error(
        run: RunContext, claimed: VersionedRecord, order: Order, claim: str, error: ProviderError
    ) -> VersionedRecord:
        again = Busy(error.message, code=error.code) if isinstance(error, AnswerLost) else error
        return await original(run, claimed, order, claim, again)

    replace(check_and_pay, "record_error", record_error)


def pay_around_unknown() -> None:
    """2: an attempt whose answer was lost lets a run pay for another."""
    replace(Attempt, "is_unknown", property(lambda _self: False))


MUTANTS: tuple[Mutant, ...] = (
    post_without_claim,
    claim_without_condition,
    no_limit_after_claim,
    lease_ignored,
    repeat_after_lost_answer,
    pay_around_unknown,
)
