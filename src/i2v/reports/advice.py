"""What to do about what did not work, with the command to type: `advise`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import assert_never

from i2v.ledger.job import JobState
from i2v.reports.recent import RecentItem
from i2v.reports.run_report import Outcome

STATES = {Outcome.REFUSED: JobState.REFUSED, Outcome.FAILED: JobState.FAILED, Outcome.UNKNOWN: JobState.UNKNOWN}
"""What the ledger said when the item ended so."""


@dataclass(frozen=True, slots=True)
class Advice:
    """A sentence, and the command that goes with it."""

    words: str
    command: str = ""


UNDER_WAY = Advice("It is paid and under way. What is ready is stored, without paying again, by:", "i2v reconcile")


def advise(item: RecentItem, now: JobState | None) -> Advice | None:
    """What a person can do, by the job's state of now; where that is not known, by how the item ended."""
    if item.outcome is Outcome.SUBMITTED:
        return UNDER_WAY
    if item.outcome is Outcome.NOT_TRIED:
        return Advice("Nothing is owed. When the cause is gone:", _again(item))
    if item.outcome not in STATES:
        return None
    if item.job is None:
        return _without_job(item)
    return _of_job(now or STATES[item.outcome], item.job[:12])


def _again(item: RecentItem) -> str:
    flags = ["--mode", "pro"] if item.mode == "pro" else ["--duration", "10"] if item.duration == 10 else []  # noqa: PLR2004 - seconds, as in --duration
    return shlex.join(["i2v", "run", item.image, *flags])


def _without_job(item: RecentItem) -> Advice:
    if item.outcome is Outcome.REFUSED:
        return Advice("Nothing was paid. Put a better image or prompt there, then:", _again(item))
    return Advice("When the cause is gone:", _again(item))


def _of_job(state: JobState, key: str) -> Advice:
    show, resolve = f"i2v jobs show {key}", f"i2v jobs resolve {key}"
    match state:
        case JobState.REFUSED:
            return Advice("Change the image or the prompt. If the provider erred:", f"{resolve} --resubmit")
        case JobState.FAILED:
            return Advice("When the cause is gone; the next run pays again:", f"{resolve} --resubmit")
        case JobState.UNKNOWN:
            return Advice(
                "It may be paid. Where the provider lists its task (else --resubmit or --drop):",
                f"{resolve} --adopt TASKID",
            )
        case JobState.STORED:
            return Advice("It has its video since:", show)
        case JobState.READY:
            return Advice("Nothing is owed any more; the next run makes it.", show)
        case JobState.CLAIMED | JobState.SUBMITTED:
            return Advice("It is under way again:", show)
        case _:
            assert_never(state)
