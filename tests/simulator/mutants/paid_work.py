"""Mutants that lose what was paid: promise 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from i2v.errors import I2vError
from i2v.ledger import keys
from i2v.ledger.attempt import Attempt
from i2v.ledger.job import JobRecord
from i2v.ledger.ledger import Ledger, VersionedRecord
from i2v.ledger.open_markers import OpenMarkerCleaner
from i2v.ledger.task_pages import TaskPages
from i2v.pipeline import store
from i2v.pipeline.context import RunContext
from i2v.pipeline.payment import accepted_or_lost, check_and_pay
from i2v.recovery import leftover_markers, reconcile
from i2v.recovery.reconcile import Settler
from tests.simulator.mutants.replacing import Mutant, do_nothing, replace


def late_task_id_dropped() -> None:
    """3: a task id that arrives after its attempt was given up is not recorded."""
    original = accepted_or_lost.record_task_id

    async def record_task_id(run: RunContext, claimed: VersionedRecord, claim: str, task_id: str) -> VersionedRecord:
        newest = await run.ledger.read_existing(claimed.record.key)
        attempt = newest.record.attempt_for_claim(claim)
        if attempt and attempt.end:
            return newest
        return await original(run, claimed, claim, task_id)

    replace(check_and_pay, "record_task_id", record_task_id)


def task_id_written_once() -> None:
    """3: the write of a task id is not tried again."""

    async def once(write: Callable[[], Any], _problem: str) -> Any:
        try:
            return await write()
        except Exception as error:
            raise I2vError(str(error)) from error

    replace(accepted_or_lost, "_until_written", once)


def earlier_task_not_asked() -> None:
    """3: only the newest attempt's task is asked for."""
    original = Settler._ask

    async def ask(self: Settler, job: VersionedRecord, attempt: Attempt, known: Any) -> Any:
        return (job, None) if attempt is not job.record.attempts[-1] else await original(self, job, attempt, known)

    replace(Settler, "_ask", ask)


def no_marker() -> None:
    """3: the open marker is not put before the claim."""
    replace(Ledger, "put_open_marker", do_nothing)


def wrong_marker_deleted() -> None:
    """3: with an attempt's marker those of the job's other attempts are deleted."""
    original = OpenMarkerCleaner.add

    async def add(self: OpenMarkerCleaner, record: JobRecord, attempt: Attempt | None) -> None:
        await original(self, record, attempt)
        if attempt and attempt.is_settled:
            for other in record.attempts:
                uri = keys.open_marker_uri(self._ledger.settings, record.image, record.key, other.number)
                self._markers[uri] = None

    async def settled(_run: RunContext, record: Any, _marker: Any) -> bool:
        return record is None or any(attempt.is_settled for attempt in record.attempts)

    replace(OpenMarkerCleaner, "add", add)
    replace(leftover_markers, "_is_settled", settled)


def callback_ignored() -> None:
    """3: a callback does not bring the task of a lost answer."""

    async def adopt(_run: RunContext, job: VersionedRecord, _hint: Any) -> tuple[VersionedRecord, None]:
        return job, None

    replace(reconcile, "adopt_from_callback", adopt)


def page_not_written_later() -> None:
    """3: the page of a task that could not be written at once is never written."""
    replace(TaskPages, "put_missing", do_nothing)
    replace(TaskPages, "ensure", do_nothing)
    replace(TaskPages, "is_missing", lambda _self, _attempt: False)


def damaged_delivery_not_kept() -> None:
    """3: a delivery that is damaged for ever is never taken."""

    async def never(*_: Any) -> bool:
        return False

    replace(store, "_came_before", never)


MUTANTS: tuple[Mutant, ...] = (
    late_task_id_dropped,
    task_id_written_once,
    earlier_task_not_asked,
    no_marker,
    wrong_marker_deleted,
    callback_ignored,
    page_not_written_later,
    damaged_delivery_not_kept,
)
