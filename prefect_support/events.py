"""The Prefect events that a run emits: `EventEmitter`. Automations match them; docs/events.md lists them.

Emitting never waits for Prefect and never fails a run: Prefect's own worker sends the events.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.events import emit_event

from i2v.batches.merged_report import MergedReport
from i2v.cli.prefect.ui_links import flow_run_url
from i2v.ledger.job import JobRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.events import Event, ImageDone, JobSubmitted, RunEnded
from i2v.reports.run_report import ItemReport, Outcome, Report

log = logging.getLogger(__name__)
EMITTED = {Outcome.STORED, Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN}
"""Outcomes that have an event each; the run's own event counts the others."""
MOST_NAMED = 10
"""Images that the run's event names because they need a person."""
REASON_CHARS = 200


class EventEmitter:
    """Emits the events of one run; a dry run has none."""

    def __init__(self, run: RunContext) -> None:
        self._run = run

    def on_event(self, event: Event) -> None:
        """Emit the Prefect event for a library event, if there is one."""
        match event:
            case JobSubmitted(record):
                self._submitted(record)
            case ImageDone(item) if item.outcome in EMITTED and item.is_new_outcome:
                self._done(item)
            case RunEnded(report) if report.items:
                self._finished(report)
            case _:
                pass

    def _submitted(self, record: JobRecord) -> None:
        attempt = record.attempt
        cost_usd = float(attempt.price_usd) if attempt else 0.0
        payload = {"task_id": record.task_id, "cost_usd": cost_usd, "extra": dict(record.extra)}
        self._emit("i2v.job.submitted", f"i2v.job.{record.key}", record.image.label, payload)

    def _done(self, item: ItemReport) -> None:
        resource = f"i2v.job.{item.job}" if item.job else f"i2v.image.{item.image}"
        self._emit(f"i2v.job.{item.outcome}", resource, item.image, {**item.row, "run_id": self._run.run_id})

    def _finished(self, report: Report) -> None:
        sums = MergedReport.of_report(report)
        if self._run.is_shard:
            self._emit("i2v.shard.finished", f"i2v.run.{self._run.run_id}", report.summary, {"counts": _counts(sums)})
            self._near_limits()
        else:
            self.run_finished(report.summary, sums, report.needs_person)

    def run_finished(self, summary: str, sums: MergedReport, needs_person: Sequence[ItemReport]) -> None:
        """Emit the event of a finished run or batch, and one for each limit that is nearly spent."""
        images = sums.counts.total()
        payload = {
            "sentence": summary,
            "images": images,
            "counts": _counts(sums),
            "spent_usd": float(sums.charges.charged),
            "possibly_charged_usd": float(sums.charges.possibly),
            "at_risk_usd": float(sums.at_risk_usd),
            "label": self._run.label,
            "needs_person_count": sums.needs_person,
            "needs_person": [_for_person(item) for item in needs_person[:MOST_NAMED]],
            "url": flow_run_url(self._run.run_id),
        }
        labels = {"i2v.images": str(images)}
        self._emit("i2v.run.finished", f"i2v.run.{self._run.run_id}", summary, payload, labels)
        self._near_limits()

    def _near_limits(self) -> None:
        for limit, spent in self._run.budget.near_limits:
            amounts = {"spent_usd": float(spent), "cap_usd": float(limit.usd)}
            payload = {"limit": limit.name, "label": limit.label, "period": limit.period, **amounts}
            jobs = str(self._run.settings.jobs)
            self._emit("i2v.budget.near", self._ledger, jobs, payload, labels={"i2v.limit": limit.name})

    @property
    def _ledger(self) -> str:
        return f"i2v.ledger.{self._run.settings.jobs.bucket}"

    def _emit(
        self, event: str, resource: str, name: str, payload: dict[str, Any], labels: Mapping[str, str] | None = None
    ) -> None:
        if self._run.dry_run:
            return
        related = [{"prefect.resource.id": self._ledger, "prefect.resource.role": "ledger"}]
        try:
            emit_event(
                event,
                resource={"prefect.resource.id": resource, "prefect.resource.name": name, **(labels or {})},
                related=related if resource != self._ledger else [],
                payload=payload,
            )
        except Exception as error:  # noqa: BLE001 - an event must never fail a run
            log.debug("event %s was not emitted: %r", event, error)


def _counts(sums: MergedReport) -> dict[str, int]:
    return {outcome.value: sums.counts[outcome] for outcome in Outcome if sums.counts[outcome]}


def _for_person(item: ItemReport) -> dict[str, str]:
    reason = " ".join((item.reason or "").split())
    return {"image": item.image, "outcome": item.outcome.text, "reason": reason[:REASON_CHARS]}
