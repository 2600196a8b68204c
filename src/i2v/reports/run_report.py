"""What became of each image, and of the money: `Report`, a run's result, its record and what `--json` prints."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from i2v.ledger.job import JobState
from i2v.money import ZERO, money_text
from i2v.request import Request


class Outcome(StrEnum):
    """How an image ended."""

    STORED = "stored"
    CACHED = "cached"
    REFUSED = "refused"
    FAILED = "failed"
    UNKNOWN = "unknown"
    SUBMITTED = "submitted"
    NOT_TRIED = "not_tried"
    PLANNED = "planned"

    @property
    def text(self) -> str:
        """As a person reads it."""
        return {"submitted": "still open", "not_tried": "not tried"}.get(self.value, self.value)


FAILING_OUTCOMES = frozenset({Outcome.FAILED, Outcome.UNKNOWN, Outcome.NOT_TRIED, Outcome.SUBMITTED})
"""Outcomes that end a run Failed; `submitted` only where nothing is to call back."""


class ItemReport(BaseModel):
    """One image's end. `cost_usd` is what this run paid, also where it failed; if planned, what it would pay."""

    model_config = ConfigDict(frozen=True)

    image: str
    outcome: Outcome
    job: str | None = None
    task_id: str | None = None
    video: str | None = None
    cost_usd: Decimal = ZERO
    reason: str | None = None
    at_risk_usd: Decimal = Field(default=ZERO, exclude=True)
    """May have been billed without giving a video."""
    seconds: float | None = Field(default=None, exclude=True)
    """From the run's start to the end of this image."""
    flags: tuple[str, ...] = Field(default=(), exclude=True)
    valid: bool = Field(default=True, exclude=True)
    """Whether the image passed validation, so that it could have been submitted."""
    request: Request | None = Field(default=None, exclude=True)
    """What was asked of the provider, where that is known."""
    video_sha256: str | None = Field(default=None, exclude=True)
    attached: bool = Field(default=False, exclude=True)
    """Whether another run had paid, and this one took its job up."""
    saved_usd: Decimal = Field(default=ZERO, exclude=True)
    """What it would have cost, had the ledger not had it."""
    folder: str = Field(default="", exclude=True)
    """Of the image, as its answers lie below the videos prefix."""

    state: JobState | None = Field(default=None, exclude=True)
    """What the ledger says of its job, where that is known."""
    is_new_outcome: bool = Field(default=True, exclude=True)
    """Whether this run brought it about, and did not find it so."""

    @property
    def row(self) -> dict[str, Any]:
        """The image's line for tables downstream: it, what was asked, its video, its cost in US dollars."""
        request = self.request.model_dump(mode="json") if self.request else {}
        return {
            "image": self.image,
            "outcome": self.outcome.value,
            **{name: request.get(name) for name in ("prompt", "mode", "duration", "take")},
            "video": self.video,
            "sha256": self.video_sha256,
            "cost_usd": float(self.cost_usd),
            "job": self.job,
            "task_id": self.task_id,
            "reason": self.reason,
        }


class Report(BaseModel):
    """All images of one run."""

    model_config = ConfigDict(frozen=True)

    items: tuple[ItemReport, ...] = ()
    stopped: str | None = None
    """Why the run's submits were stopped early."""
    awaits_callbacks: bool = False

    def count(self, outcome: Outcome) -> int:
        """How many images ended so."""
        return sum(item.outcome is outcome for item in self.items)

    @property
    def spent_usd(self) -> Decimal:
        """What this run paid for attempts that the provider took."""
        return sum((item.cost_usd for item in self.items if item.outcome is not Outcome.PLANNED), ZERO)

    @property
    def planned_usd(self) -> Decimal:
        """What a dry run's images would cost."""
        return sum((item.cost_usd for item in self.items if item.outcome is Outcome.PLANNED), ZERO)

    @property
    def at_risk_usd(self) -> Decimal:
        """What may have been billed without giving a video."""
        return sum((item.at_risk_usd for item in self.items), ZERO)

    @property
    def succeeded(self) -> bool:
        """Whether nothing failed, is unknown, was not tried or is open; refusals are outcomes."""
        trouble = FAILING_OUTCOMES - {Outcome.SUBMITTED} if self.awaits_callbacks else FAILING_OUTCOMES
        return not any(item.outcome in trouble for item in self.items)

    @property
    def nothing_valid(self) -> bool:
        """Whether no image passed validation, so that nothing could be submitted."""
        return not any(item.valid for item in self.items)

    @property
    def summary(self) -> str:
        """The run in words: `997 stored · 2 refused · 1 unknown · $191.81`."""
        counts = Counter(item.outcome for item in self.items)
        words = {outcome: outcome.text for outcome in Outcome}
        if self.awaits_callbacks:
            words[Outcome.SUBMITTED] = "submitted, awaited by callback"
        parts = [f"{counts[outcome]} {words[outcome]}" for outcome in Outcome if counts[outcome]]
        money = f"${money_text(self.spent_usd)}"
        if counts[Outcome.PLANNED]:
            money = f"would cost ${money_text(self.planned_usd)}"
        return " · ".join([*(parts or ["no images"]), money])

    @property
    def rows_jsonl(self) -> bytes:
        """The images as JSON lines."""
        return b"".join(json.dumps(item.row, ensure_ascii=False).encode() + b"\n" for item in self.items)

    def for_json(self) -> dict[str, Any]:
        """The object of `--json`: counts by outcome, sums, and the items; money as numbers."""
        items = [{**item.model_dump(mode="json"), "cost_usd": float(item.cost_usd)} for item in self.items]
        counts = {outcome.value: self.count(outcome) for outcome in Outcome}
        return {
            **counts,
            "spent_usd": float(self.spent_usd),
            "at_risk_usd": float(self.at_risk_usd),
            "items": items,
        }
