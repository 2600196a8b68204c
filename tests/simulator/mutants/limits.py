"""Mutants that spend more than is allowed: promise 6."""

from __future__ import annotations

from decimal import Decimal
from functools import wraps
from typing import Any

from i2v.clock import today_utc
from i2v.errors import AnswerLost, ProviderError
from i2v.ledger import day_spend, transitions
from i2v.ledger.abandoned_reservations import AbandonedReservations
from i2v.ledger.budget import Budget
from i2v.ledger.ledger import VersionedRecord
from i2v.ledger.ledger_info import LedgerInfoStore
from i2v.ledger.shared_limits import OtherDays, SharedLimits
from i2v.pipeline import poll
from i2v.pipeline.context import RunContext
from i2v.pipeline.payment import accepted_or_lost, check_and_pay
from i2v.pipeline.payment.first_submits import FirstSubmits
from i2v.pipeline.video_order import Order
from tests.simulator.mutants.replacing import Mutant, do_nothing, replace, write_unconditionally


def no_reservation() -> None:
    """6: nothing is reserved before a POST."""

    async def reserve(*_: Any) -> str:
        return today_utc()

    replace(Budget, "reserve", reserve)


def reservation_without_condition() -> None:
    """6: two runs overwrite each other's reservations."""
    replace(day_spend, "write_document", write_unconditionally)


def lost_answer_is_free() -> None:
    """6: the price of a submit whose answer was lost is given back."""
    original = accepted_or_lost.record_error

    async def record_error(
        run: RunContext, claimed: VersionedRecord, order: Order, claim: str, error: ProviderError
    ) -> VersionedRecord:
        if isinstance(error, AnswerLost):
            run.budget.release(claim)
        return await original(run, claimed, order, claim, error)

    replace(check_and_pay, "record_error", record_error)


def midnight_ignored() -> None:
    """6: a process counts all its submits on the day on which it started."""
    original = Budget.__init__

    @wraps(original)
    def init(self: Budget, *args: Any, **more: Any) -> None:
        day = today_utc()
        original(self, *args, **{**more, "today": lambda *_: day})

    replace(Budget, "__init__", init)
    replace(check_and_pay, "_problem", lambda _run, _claim: None)


def retry_forgets_its_spend() -> None:
    """6: a run that is started again may spend its limit again."""
    original = Budget._available

    def available(self: Budget, spend: Any) -> Any:
        others = {name: one for name, one in spend.entries.items() if one.run_id != self._run_id}
        return original(self, spend.model_copy(update={"entries": others}))

    replace(Budget, "_available", available)


def twin_is_taken_for_dead() -> None:
    """6: a run that is started again gives back at once what its other process has reserved and not claimed."""
    replace(AbandonedReservations, "_is_over", lambda *_: True)


def other_days_free() -> None:
    """6: a month's limit counts the current day alone."""
    replace(OtherDays, "usd_under", lambda *_: Decimal(0))


def labels_forgotten() -> None:
    """6: what a run spends is not written under its label."""
    original = Budget.__init__

    @wraps(original)
    def init(self: Budget, *args: Any, **more: Any) -> None:
        original(self, *args, **{**more, "limits": more["limits"]._replace(label="")})

    replace(Budget, "__init__", init)


def other_day_not_read_again() -> None:
    """6: around midnight a process does not see what others reserve on the other day."""

    async def hold(*_: Any) -> bool:
        return True

    replace(SharedLimits, "hold_at_midnight", hold)


def pause_ignored() -> None:
    """6: a running process does not see the pause flag."""
    replace(LedgerInfoStore, "check_pause", do_nothing)


def too_many_attempts() -> None:
    """6: a job is paid again after each transient failure, without an end."""
    replace(transitions, "attempts_left", lambda _record, _most: True)


def permanent_failure_paid_again() -> None:
    """6: a job is paid again after a failure that is not transient."""
    original = poll.classify_failure

    def classify(run: RunContext, status: Any) -> Any:
        kind, reason, _ = original(run, status)
        return kind, reason, run.settings.max_attempts

    replace(poll, "classify_failure", classify)


def first_submits_unlimited() -> None:
    """6: a bucket that the provider has not fetched from gets any number of submits."""
    original = FirstSubmits.__init__

    def init(self: FirstSubmits, ledger: Any, brake: Any, _limit: int) -> None:
        original(self, ledger, brake, 0)

    replace(FirstSubmits, "__init__", init)


MUTANTS: tuple[Mutant, ...] = (
    no_reservation,
    reservation_without_condition,
    lost_answer_is_free,
    midnight_ignored,
    retry_forgets_its_spend,
    twin_is_taken_for_dead,
    other_days_free,
    labels_forgotten,
    other_day_not_read_again,
    pause_ignored,
    too_many_attempts,
    permanent_failure_paid_again,
    first_submits_unlimited,
)
