"""What a person can do about an image (`advise`) or a job (`advise_job`), with the command to type.

Every page, alert and command takes its advice from here.
"""

import shlex
from dataclasses import dataclass, replace

from i2v.ledger.job import JobState
from i2v.reports.recent import RecentItem
from i2v.reports.run_report import Outcome

STATE_AT_END = {Outcome.REFUSED: JobState.REFUSED, Outcome.FAILED: JobState.FAILED, Outcome.UNKNOWN: JobState.UNKNOWN}
"""The job's state when the item ended, by outcome."""

JOB_ADVICE = {
    JobState.READY: ("Not charged. The next run of this image submits it.", ""),
    JobState.CLAIMED: ("A run is submitting it now. If that run is gone, the job becomes unknown.", ""),
    JobState.SUBMITTED: (
        "Charged and in progress. The next run of this image, or i2v reconcile, stores it without paying again.",
        "",
    ),
    JobState.STORED: ("Done: the video is stored. For another version, run it with --take 2.", ""),
    JobState.REFUSED: (
        "Change the image or the prompt. If the provider made a mistake, retry it; the next run is charged again:",
        "--resubmit",
    ),
    JobState.FAILED: ("Fix the cause, then retry it; the next run is charged again:", "--resubmit"),
    JobState.UNKNOWN: (
        "Possibly charged. Find its task in the provider's list; if it is missing, use --resubmit or --drop instead:",
        "--adopt TASKID",
    ),
}
"""What a person can do about a job, by its state, and the option of `i2v jobs resolve` that does it."""


@dataclass(frozen=True, slots=True)
class Advice:
    """A sentence and, if there is one, the command to type after it."""

    text: str
    command: str = ""


IN_PROGRESS = Advice("Charged and in progress. To store it when it is ready, at no extra charge:", "i2v reconcile")


def advise(item: RecentItem, state: JobState | None) -> Advice | None:
    """Return what a person can do, by the job's current state or, if it is `None`, by the item's outcome."""
    if item.outcome is Outcome.SUBMITTED:
        return IN_PROGRESS
    if item.outcome is Outcome.NOT_TRIED:
        return Advice("Not charged. Fix the cause, then run it again:", _run_again(item))
    if item.outcome not in STATE_AT_END:
        return None
    if item.job is None:
        text = "Not charged. Replace the image or the prompt" if item.outcome is Outcome.REFUSED else "Fix the cause"
        return Advice(f"{text}, then run it again:", _run_again(item))
    advice = advise_job(state or STATE_AT_END[item.outcome], item.job)
    return advice if advice.command else replace(advice, command=f"i2v jobs show {item.job[:12]}")


def _run_again(item: RecentItem) -> str:
    flags = ["--mode", "pro"] if item.mode == "pro" else ["--duration", "10"] if item.duration == 10 else []  # noqa: PLR2004 - seconds, as in --duration
    return shlex.join(["i2v", "run", item.image, *flags])


UNVERIFIED = (
    "The provider delivered the same damaged file twice. Keep it, or use --resubmit instead:",
    "--keep",
)


def advise_job(state: JobState, key: str, *, is_unverified: bool = False) -> Advice:
    """Return what a person can do about a job in this state; no command if there is nothing to do."""
    text, option = UNVERIFIED if is_unverified else JOB_ADVICE[state]
    return Advice(text, f"i2v jobs resolve {key[:12]} {option}" if option else "")
