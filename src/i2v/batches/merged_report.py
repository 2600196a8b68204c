"""The sums of a batch's reports, without its items: `MergedReport`. It decides how the batch ends."""

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

from i2v.errors import Stopped
from i2v.ledger.attempt import Reason
from i2v.money import ZERO, Charges
from i2v.pipeline.submit_brake import INTERRUPTED, LIMIT, STOPPED
from i2v.reports.run_report import FAILING_OUTCOMES, ItemReport, Outcome, Report, summarize


def is_limit(item: ItemReport, stopped: Reason | None) -> bool:
    """Return whether an image was not tried because its run stopped at a spending limit before its first submit."""
    return item.outcome is Outcome.NOT_TRIED and stopped is not None and stopped.code == LIMIT


@dataclass(frozen=True, slots=True)
class MergedReport:
    """What is known of all shards, or of one."""

    counts: Counter[Outcome] = field(default_factory=Counter)
    charges: Charges = field(default_factory=Charges)
    at_risk_usd: Decimal = ZERO
    left_by_limit: int = 0
    needs_person: int = 0
    """How many images only a person can help."""
    stopped: tuple[Reason, ...] = ()
    """Why shards stopped submitting early, each reason once."""
    submitted_nothing: bool = True
    """Whether each shard stopped before its first submit."""

    @classmethod
    def of_report(cls, report: Report, stopped: Reason | None = None) -> Self:
        """Return the sums of one run's report."""
        return cls(
            counts=Counter(item.outcome for item in report.items),
            charges=report.charges,
            at_risk_usd=report.at_risk_usd,
            left_by_limit=sum(item.limit_reached or is_limit(item, stopped) for item in report.items),
            needs_person=len(report.needs_person),
            stopped=(stopped,) if stopped else (),
            submitted_nothing=stopped is not None and stopped.code in {STOPPED, LIMIT},
        )

    def __add__(self, other: Self) -> Self:
        return type(self)(
            counts=self.counts + other.counts,
            charges=self.charges + other.charges,
            at_risk_usd=self.at_risk_usd + other.at_risk_usd,
            left_by_limit=self.left_by_limit + other.left_by_limit,
            needs_person=self.needs_person + other.needs_person,
            stopped=tuple(dict.fromkeys((*self.stopped, *other.stopped))),
            submitted_nothing=self.submitted_nothing and other.submitted_nothing,
        )

    def summary(self, inputs: Report | None = None, *, awaits_callbacks: bool = False) -> str:
        """One line, as that of a run's report."""
        more = [inputs.skipped_rows] if inputs and inputs.bad_rows else []
        money, left = str(self.charges), self.left_by_limit
        return summarize(self.counts, *more, money, left_by_limit=left, awaits_callbacks=awaits_callbacks)

    def succeeded(self, *, awaits_callbacks: bool) -> bool:
        """Whether no image has a failing outcome."""
        failing = FAILING_OUTCOMES - ({Outcome.SUBMITTED} if awaits_callbacks else set())
        return not any(self.counts[outcome] for outcome in failing)

    def completed(self, *, awaits_callbacks: bool, is_partial: bool) -> bool:
        """Whether the batch did what it was asked for; a partial one may leave what its limit left."""
        left = Counter({Outcome.NOT_TRIED: self.left_by_limit}) if is_partial else Counter[Outcome]()
        rest = MergedReport(counts=self.counts - left)
        return rest.succeeded(awaits_callbacks=awaits_callbacks)

    @property
    def is_interrupted(self) -> bool:
        """Whether a run was interrupted."""
        return any(reason.code == INTERRUPTED for reason in self.stopped)

    @property
    def error(self) -> Stopped | None:
        """The error of a batch of which every shard stopped before its first submit."""
        reason = self.reason
        return Stopped(reason.message) if reason and reason.code == STOPPED else None

    @property
    def reason(self) -> Reason | None:
        """Why the batch stopped early; its code is `STOPPED` if each shard stopped before its first submit."""
        if not self.stopped:
            return None
        code = STOPPED if self.submitted_nothing else "shard"
        return Reason(code=code, message=self.stopped[0].message)

    def for_json(self, inputs: Report) -> dict[str, Any]:
        """Return the object of `--json` without its items; `inputs` has what is to be said of the inputs."""
        return inputs.for_json() | {
            **{outcome.value: self.counts[outcome] for outcome in Outcome},
            "spent_usd": float(self.charges.charged),
            "possibly_charged_usd": float(self.charges.possibly),
            "at_risk_usd": float(self.at_risk_usd),
        }
