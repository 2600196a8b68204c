"""The events that a run emits: `EventEmitter`. Automations match them; docs/events.md lists them.

Nothing here waits for Prefect or may fail a run: an event is handed to Prefect's own worker and forgotten.
"""

from __future__ import annotations

import logging
from typing import Any

from prefect.events import emit_event

from i2v.ledger.job import JobRecord
from i2v.pipeline.run import Run
from i2v.reports.run_report import ItemReport, Outcome, Report

log = logging.getLogger(__name__)
TOLD = {Outcome.STORED, Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN}
"""What became of an image that is an event; what was there already, or was not tried, is in the run's own."""


class EventEmitter:
    """Emits events for one run; a dry run has none."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def opened(self, run: Run) -> None:
        """Nothing has happened yet."""

    def counted(self, images: int) -> None:
        """The run's end tells how many."""

    def step(self, step: str, job: str) -> None:
        """Steps are task runs."""

    def submitted(self, record: JobRecord) -> None:
        """A job was paid."""
        attempt = record.attempt
        paid = {"task_id": record.task_id, "cost_usd": float(attempt.price_usd) if attempt else 0.0}
        self._emit("i2v.job.submitted", f"i2v.job.{record.key}", record.image.label, paid)

    def done(self, item: ItemReport) -> None:
        """An image has ended."""
        if item.outcome not in TOLD or not item.is_new_outcome:
            return
        resource = f"i2v.job.{item.job}" if item.job else f"i2v.image.{item.image}"
        told = {**item.row, "run_id": self._run.run_id}
        self._emit(f"i2v.job.{item.outcome}", resource, item.image, told)

    def ended(self, report: Report) -> None:
        """The run has its report; and the day's cap may be nearly spent."""
        if not report.items:
            return
        counts = {outcome.value: count for outcome in Outcome if (count := report.count(outcome))}
        told = {"sentence": report.summary, "counts": counts, "spent_usd": float(report.spent_usd)}
        told |= {"at_risk_usd": float(report.at_risk_usd), "label": self._run.record.label}
        self._emit("i2v.run.finished", f"i2v.run.{self._run.run_id}", report.summary, told)
        if near := self._run.budget.near_cap_usd:
            spent, cap = near
            told = {"spent_usd": float(spent), "cap_usd": float(cap)}
            self._emit("i2v.budget.near", self._ledger, str(self._run.settings.jobs), told)

    @property
    def _ledger(self) -> str:
        return f"i2v.ledger.{self._run.settings.jobs.bucket}"

    def _emit(self, event: str, resource: str, name: str, payload: dict[str, Any]) -> None:
        if self._run.dry_run:
            return
        related = [{"prefect.resource.id": self._ledger, "prefect.resource.role": "ledger"}]
        try:
            emit_event(
                event,
                resource={"prefect.resource.id": resource, "prefect.resource.name": name},
                related=related if resource != self._ledger else [],
                payload=payload,
            )
        except Exception as error:  # noqa: BLE001 - an event is never worth a run
            log.debug("event %s was not sent: %r", event, error)
