"""The result of a run: `Report`, with an `ItemReport` for each image. `--json` and the run's record contain it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_jsonable_python

from i2v.errors import BadRow, shown_rows
from i2v.ledger.job import JobState
from i2v.money import ZERO, Charges, money_text, sum_charges
from i2v.reports.limit_usage import LimitUsage
from i2v.request import Request


class Outcome(StrEnum):
    """The result of an image."""

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
        """The outcome as shown to people."""
        return self.value.replace("_", " ")


FAILING_OUTCOMES = frozenset({Outcome.FAILED, Outcome.UNKNOWN, Outcome.NOT_TRIED, Outcome.SUBMITTED})
"""Outcomes that end a run as Failed; `submitted` only if the run does not await callbacks."""


RECORDED = {
    "at_risk_usd",
    "flags",
    "limit_reached",
    "needs_prompt",
    "request",
    "seconds",
    "state",
    "valid",
    "video_sha256",
}
"""What a run's record has of an item beside its `--json`."""


class ItemReport(BaseModel):
    """The result of one image. `cost_usd` is what this run was charged, or would be if the outcome is planned."""

    model_config = ConfigDict(frozen=True)

    image: str
    outcome: Outcome
    job: str | None = None
    task_id: str | None = None
    video: str | None = None
    cost_usd: Decimal = ZERO
    possibly_charged_usd: Decimal = ZERO
    """What this run was possibly charged: the answer to a submit was lost. Not part of `cost_usd`."""
    reason: str | None = None
    extra: Mapping[str, str] = Field(default={}, exclude=True)
    """The image's custom columns in this run; of a job that reconcile settled, those in its record."""
    job_charges: Charges = Field(default=Charges(), exclude=True)
    """What all runs were charged for its job."""
    at_risk_usd: Decimal = Field(default=ZERO, exclude=True)
    """Charged or possibly charged, without a video."""
    seconds: float | None = Field(default=None, exclude=True)
    """From the start of the run to the end of this image."""
    flags: tuple[str, ...] = Field(default=(), exclude=True)
    limit_reached: bool = Field(default=False, exclude=True)
    """Whether it was not tried because a spending limit was reached."""
    valid: bool = Field(default=True, exclude=True)
    """Whether the image passed validation."""
    request: Request | None = Field(default=None, exclude=True)
    prompt_source: str | None = Field(default=None, exclude=True)
    """Where the prompt is from: column, metadata, sidecar, flag, prefix or default."""
    again: str = Field(default="", exclude=True)
    """The arguments of the command that runs this image again, quoted for a shell; empty if they are not known."""
    needs_prompt: bool = Field(default=False, exclude=True)
    """Whether it was refused for its prompt or metadata."""
    overridden: tuple[str, ...] = Field(default=(), exclude=True)
    """The names of the run's options that the image's own replace."""
    video_sha256: str | None = Field(default=None, exclude=True)
    attached: bool = Field(default=False, exclude=True)
    """Whether this run attached to a job that another run had paid for."""
    saved_usd: Decimal = Field(default=ZERO, exclude=True)
    """What it would have cost without the ledger."""
    folder: str = Field(default="", exclude=True)
    """The image's folder under the videos prefix."""
    state: JobState | None = Field(default=None, exclude=True)
    """The job's state, if known."""
    is_new_outcome: bool = Field(default=True, exclude=True)
    """Whether this run produced the outcome, rather than found it in the ledger."""

    @property
    def charges(self) -> Charges:
        """What this run was charged, or would be if the outcome is planned."""
        return Charges(self.cost_usd, self.possibly_charged_usd)

    @property
    def needs_person(self) -> bool:
        """Whether only a person can help it."""
        unverified = self.outcome is Outcome.STORED and any(flag.startswith("unverified: ") for flag in self.flags)
        return self.outcome in {Outcome.FAILED, Outcome.UNKNOWN} or self.needs_prompt or unverified

    @property
    def row(self) -> dict[str, Any]:
        """The image as a flat object for downstream tables: request, video and cost."""
        request = self.request.model_dump(mode="json") if self.request else {}
        return {
            "image": self.image,
            "outcome": self.outcome.value,
            **{name: request.get(name) for name in ("prompt", "mode", "duration", "take")},
            "prompt_source": self.prompt_source,
            "video": self.video,
            "sha256": self.video_sha256,
            "cost_usd": float(self.cost_usd),
            "possibly_charged_usd": float(self.possibly_charged_usd),
            "job": self.job,
            "task_id": self.task_id,
            "reason": self.reason,
            "extra": dict(self.extra),
        }

    def shown_prompt(self, max_chars: int) -> str:
        """Return the prompt and its source, e.g. `it moves (metadata)`; empty if there is none."""
        prompt = " ".join(self.request.prompt.split()) if self.request else ""
        shown = prompt if len(prompt) <= max_chars else f"{prompt[: max_chars - 1]}…"
        return f"{shown} ({self.prompt_source})" if self.prompt_source else shown

    def for_json(self) -> dict[str, Any]:
        """Return the object of `--json`, with money as a number."""
        prompt = {"prompt": self.request.prompt if self.request else None, "prompt_source": self.prompt_source}
        money = {name: float(getattr(self, name)) for name in ("cost_usd", "possibly_charged_usd")}
        return self.model_dump(mode="json") | money | prompt | {"extra": dict(self.extra)}

    def for_record(self) -> dict[str, Any]:
        """Return the object of `--json`, and beside it what `from_record` needs besides."""
        fields = type(self).model_fields
        more = {name: value for name in RECORDED if (value := getattr(self, name)) != fields[name].default}
        return self.for_json() | dict(to_jsonable_python(more))

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> Self:
        """Return the item of a run's record."""
        return cls.model_validate({name: value for name, value in data.items() if name in cls.model_fields})


class Report(BaseModel):
    """All images of one run."""

    model_config = ConfigDict(frozen=True)

    items: tuple[ItemReport, ...] = ()
    stopped: str | None = None
    """Why the run stopped submitting early."""
    awaits_callbacks: bool = False
    is_partial: bool = False
    """Whether the run was to spend up to its limit."""
    limits: tuple[LimitUsage, ...] = ()
    """Of a dry run: what the limits that cover it have left."""
    other_files: Mapping[str, int] = {}
    """How many files under the prefixes are not named like images, by ending."""
    bad_rows: tuple[BadRow, ...] = ()
    """The rows of batch files that were skipped."""

    def count(self, outcome: Outcome) -> int:
        """Return how many images have this outcome."""
        return sum(item.outcome is outcome for item in self.items)

    @property
    def charges(self) -> Charges:
        """What this run was charged."""
        return sum_charges(item.charges for item in self.items if item.outcome is not Outcome.PLANNED)

    @property
    def spent_usd(self) -> Decimal:
        """What this run was charged for attempts that the provider accepted."""
        return self.charges.charged

    @property
    def planned_usd(self) -> Decimal:
        """What a dry run's images would cost."""
        return sum((item.cost_usd for item in self.items if item.outcome is Outcome.PLANNED), ZERO)

    @property
    def at_risk_usd(self) -> Decimal:
        """What was charged or possibly charged, without a video."""
        return sum((item.at_risk_usd for item in self.items), ZERO)

    @property
    def succeeded(self) -> bool:
        """Whether no image has a failing outcome; refused images do not fail a run."""
        failing = FAILING_OUTCOMES - {Outcome.SUBMITTED} if self.awaits_callbacks else FAILING_OUTCOMES
        return not any(item.outcome in failing for item in self.items)

    @property
    def completed(self) -> bool:
        """Whether the run did what it was asked for: it succeeded, or a partial run left only what its limit left."""
        left = self.model_copy(update={"items": tuple(item for item in self.items if not item.limit_reached)})
        return self.succeeded or (self.is_partial and left.succeeded)

    @property
    def needs_person(self) -> list[ItemReport]:
        """The images that only a person can help: failed, unknown, without a valid prompt, or with a doubtful video."""
        return [item for item in self.items if item.needs_person]

    @property
    def nothing_valid(self) -> bool:
        """Whether no image passed validation."""
        return not any(item.valid for item in self.items)

    @property
    def summary(self) -> str:
        """One line, e.g. `997 stored · 2 refused · 1 unknown · $191.81`."""
        counts = Counter(item.outcome for item in self.items)
        left = sum(item.limit_reached for item in self.items)
        money = f"would cost ${money_text(self.planned_usd)}" if counts[Outcome.PLANNED] else str(self.charges)
        skipped = [self.skipped_rows] if self.bad_rows else []
        return summarize(counts, *skipped, money, left_by_limit=left, awaits_callbacks=self.awaits_callbacks)

    @property
    def skipped_rows(self) -> str:
        """How many rows were skipped, in words."""
        lines = len({(row.file, row.line) for row in self.bad_rows})
        return f"{lines:,} bad row{'' if lines == 1 else 's'} skipped"

    @property
    def others(self) -> str:
        """The other files in words, e.g. `3 other files (2 .heic, 1 .webp)`; empty if there are none."""
        counts = Counter(self.other_files)
        endings = ", ".join(f"{count:,} {ending}" for ending, count in counts.most_common(8))
        return f"{counts.total():,} other file{'s' if counts.total() > 1 else ''} ({endings})" if counts else ""

    @property
    def notes(self) -> list[str]:
        """What contradicts the caller, such as options that images replace by their own, and what limits have left."""
        kept = [item for item in self.items if item.overridden]
        rows = [item for item in kept if item.prompt_source == "column"]
        images = [item for item in kept if item.prompt_source != "column"]
        own = f"{_keep_their_own('image', images)}; --override-prompts uses yours" if images else ""
        skipped = f"{self.skipped_rows}: {shown_rows(self.bad_rows)}" if self.bad_rows else ""
        left = [usage.in_words for usage in self.limits]
        return [note for note in (own, _keep_their_own("row", rows) if rows else "", skipped, *left) if note]

    def with_typed(self, typed: Mapping[str, object]) -> "Report":
        """Return the report whose notes also count images that replace an option typed at its default."""
        items = tuple(item.model_copy(update={"overridden": _overridden(item, typed)}) for item in self.items)
        return self.model_copy(update={"items": items}) if typed else self

    @property
    def rows_jsonl(self) -> bytes:
        """The rows of all images as JSON Lines."""
        return b"".join(json.dumps(item.row, ensure_ascii=False).encode() + b"\n" for item in self.items)

    def for_json(self) -> dict[str, Any]:
        """Return the object of `--json`: counts by outcome, sums and items, with money as numbers."""
        items = [item.for_json() for item in self.items]
        return {
            **{outcome.value: self.count(outcome) for outcome in Outcome},
            "spent_usd": float(self.spent_usd),
            "possibly_charged_usd": float(self.charges.possibly),
            "at_risk_usd": float(self.at_risk_usd),
            **({"other_files": dict(self.other_files)} if self.other_files else {}),
            **({"limits": [usage.for_json() for usage in self.limits]} if self.limits else {}),
            **({"bad_rows": [row._asdict() for row in self.bad_rows]} if self.bad_rows else {}),
            "items": items,
        }

    def for_record(self) -> dict[str, Any]:
        """Return the object for the run's record."""
        return self.for_json() | {"items": [item.for_record() for item in self.items]}


def summarize(counts: Mapping[Outcome, int], *more: str, left_by_limit: int = 0, awaits_callbacks: bool = False) -> str:
    """Return the counts in words, and what else is given."""
    texts = {outcome: outcome.text for outcome in Outcome}
    if awaits_callbacks:
        texts[Outcome.SUBMITTED] = "submitted, awaiting callback"
    if left_by_limit:
        some = f"{left_by_limit:,} by the " if left_by_limit < counts.get(Outcome.NOT_TRIED, 0) else ""
        texts[Outcome.NOT_TRIED] += f" ({some}spending limit)"
    parts = [f"{counts[outcome]} {texts[outcome]}" for outcome in Outcome if counts.get(outcome)]
    return " · ".join([*(parts or ["no images"]), *more])


def _overridden(item: ItemReport, typed: Mapping[str, object]) -> tuple[str, ...]:
    differs = {name for name, value in typed.items() if item.request and getattr(item.request, name) != value}
    return (*item.overridden, *(differs - {*item.overridden}))


def _keep_their_own(noun: str, items: Sequence[ItemReport]) -> str:
    """Return e.g. `3 images keep their own prompt and mode`."""
    names = [name for name in Request.model_fields if any(name in item.overridden for item in items)]
    names.sort(key=lambda name: name != "prompt")
    one = len(items) == 1
    subject = f"1 {noun} keeps its own" if one else f"{len(items):,} {noun}s keep their own"
    return f"{subject} {' and '.join(names)}"
