"""What a person can do about an image (`advise`) or a job (`advise_job`), with the command to type.

Every page, alert and command takes its advice from here. `tests/integration/cli/test_advice.py` runs each kind.
"""

from dataclasses import dataclass
from enum import StrEnum

from i2v.advised_commands import command, program, run_arguments
from i2v.ledger.job import JobRecord, JobState
from i2v.reports.recent import RecentItem
from i2v.reports.run_report import Outcome

STATE_AT_END = {Outcome.REFUSED: JobState.REFUSED, Outcome.FAILED: JobState.FAILED, Outcome.UNKNOWN: JobState.UNKNOWN}
"""The job's state when the item ended, by outcome."""


class Situation(StrEnum):
    """What a person is advised about: a job by its state, or an image that has no job."""

    READY = "ready"
    CLAIMED = "claimed"
    SUBMITTED = "submitted"
    STORED = "stored"
    REFUSED = "refused"
    FAILED = "failed"
    UNKNOWN = "unknown"
    FORGOTTEN = "forgotten"
    UNVERIFIED = "unverified video"
    OPEN_TOO_LONG = "open too long"
    UNREADABLE = "unreadable record"
    NOT_TRIED = "not tried"
    NO_PROMPT = "no valid prompt"
    INVALID_IMAGE = "invalid image"
    BROKEN = "failed without a job"


TEXTS = {
    Situation.READY: "Not charged. To submit it:",
    Situation.CLAIMED: "A run is submitting it now. If that run is gone, this marks it unknown in a few minutes:",
    Situation.SUBMITTED: "Charged, and rendering. To store it when it is ready, at no extra charge:",
    Situation.STORED: "Done: the video is stored. For another version, charged again:",
    Situation.REFUSED: "Change the image or the prompt. To retry it as it is, charged again by the next run:",
    Situation.FAILED: "Fix the cause, then retry it; the next run is charged again:",
    Situation.UNKNOWN: "Possibly charged. Find its task in the provider's list; if it is missing, use --resubmit or "
    "--drop instead:",
    Situation.FORGOTTEN: "Erased by a person. To make it again, name its image; charged again:",
    Situation.UNVERIFIED: "The provider delivered the same damaged file twice. Keep it, or use --resubmit instead:",
    Situation.OPEN_TOO_LONG: "Charged, and open for more than a day. Check whether the provider still has it:",
    Situation.UNREADABLE: "Its record cannot be read. To see why:",
    Situation.NOT_TRIED: "Not charged. Fix the cause, then run it again:",
    Situation.NO_PROMPT: "Not charged. Give it a prompt, for example:",
    Situation.INVALID_IMAGE: "Not charged. Replace the image, then run it again:",
    Situation.BROKEN: "Fix the cause, then run it again:",
}
RESOLUTIONS = {
    Situation.REFUSED: ("--resubmit",),
    Situation.FAILED: ("--resubmit",),
    Situation.UNKNOWN: ("--adopt", "TASKID"),
    Situation.UNVERIFIED: ("--keep",),
}
"""The option of `i2v jobs resolve` that resolves a job."""


@dataclass(frozen=True, slots=True)
class Advice:
    """A sentence and, if there is one, the command to type after it."""

    text: str
    command: str = ""


def advise(item: RecentItem, state: JobState | None) -> Advice | None:
    """Return what a person can do, by the job's current state or, if it is `None`, by the item's outcome."""
    if item.outcome is Outcome.SUBMITTED:
        return about(Situation.SUBMITTED)
    if item.outcome is Outcome.NOT_TRIED:
        return about(Situation.NOT_TRIED, again=item.again)
    if item.outcome not in STATE_AT_END:
        return None
    if item.job and state is not JobState.FORGOTTEN:
        return about(Situation((state or STATE_AT_END[item.outcome]).value), item.job, again=item.again)
    situation = Situation.BROKEN
    if state is JobState.FORGOTTEN:
        situation = Situation.FORGOTTEN
    elif item.outcome is Outcome.REFUSED:
        situation = Situation.NO_PROMPT if item.needs_prompt else Situation.INVALID_IMAGE
    return about(situation, again=item.again)


def advise_job(record: JobRecord) -> Advice:
    """Return what a person can do about a job."""
    attempt, request = record.attempt, record.request
    is_stored = record.state is JobState.STORED
    is_unverified = attempt is not None and attempt.is_unverified
    again = run_arguments(
        record.image.label,
        prompt=request.prompt.replace("{", "{{").replace("}", "}}"),
        override_prompts=True,
        mode=request.mode,
        duration=request.duration,
        take=request.take + is_stored,
        label=record.label,
    )
    unknown = record.image.label.startswith("http") or record.forgotten_at  # a URL's query is not recorded
    situation = Situation.UNVERIFIED if is_unverified else Situation(record.state.value)
    return about(situation, record.key, again="" if unknown else again)


def about(situation: Situation, job: str = "", *, again: str = "") -> Advice:
    """Return the advice; `again` has the arguments that run the image again, empty if they are not known."""
    text = TEXTS[situation]
    match situation:
        case Situation.CLAIMED | Situation.SUBMITTED:
            return Advice(text, command("reconcile"))
        case Situation.REFUSED | Situation.FAILED | Situation.UNKNOWN | Situation.UNVERIFIED:
            return Advice(text, command("jobs", "resolve", job[:12], *RESOLUTIONS[situation]))
        case Situation.OPEN_TOO_LONG | Situation.UNREADABLE:
            return Advice(text, command("jobs", "show", job[:12]))
        case _ if again:
            return Advice(text, f"{program()} {again}")
        case Situation.STORED | Situation.READY if job:
            return Advice("To see the job:", command("jobs", "show", job[:12]))
        case _:
            return Advice(f"{text.rpartition('.')[0]}. Run it again with the same request.".lstrip(". "))
