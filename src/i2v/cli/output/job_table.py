"""Jobs of the ledger, as tables and as `--json`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.table import Table
from rich.text import Text

from i2v.cli.output.console import stdout
from i2v.ledger.attempt import Attempt, EndKind
from i2v.ledger.job import JobRecord, JobState
from i2v.money import money_text, sum_charges
from i2v.reports.advice import advise_job

MAX_ROWS = 100
STYLES = {JobState.FAILED: "red", JobState.UNKNOWN: "red", JobState.SUBMITTED: "yellow", JobState.CLAIMED: "yellow"}
STYLES |= {JobState.STORED: "green", JobState.REFUSED: "magenta"}
END_WORDS = {
    EndKind.UNPAID: "not charged, released",
    EndKind.REFUSED: "refused",
    EndKind.FAILED: "failed",
    EndKind.LOST: "answer lost, possibly charged,",
    EndKind.DROPPED: "dropped by a person",
    EndKind.STORED: "stored",
}


def as_object(record: JobRecord) -> dict[str, Any]:
    """Return the record for `--json`, with money as numbers."""
    attempts = [{**each.model_dump(mode="json"), "price_usd": float(each.price_usd)} for each in record.attempts]
    amounts = {"cost_usd": float(record.cost_usd), "possibly_charged_usd": float(record.charges.possibly)}
    return {**record.model_dump(mode="json"), "attempts": attempts, **amounts}


def age(moment: datetime) -> str:
    """Return how long ago it was, in the largest suitable unit."""
    seconds = max(timedelta(0), datetime.now(UTC) - moment).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def next_step(record: JobRecord) -> str:
    """Return what a person can do about the job, with the command to type."""
    advice = advise_job(record)
    return f"{advice.text} {advice.command}".rstrip()


def print_jobs(records: Sequence[JobRecord]) -> None:
    """Print the newest jobs as a table, and the totals of all."""
    console = stdout()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("key", "state", "image", "request", "cost", "age", "reason"):
        table.add_column(
            name, justify="right" if name in {"cost", "age"} else "left", no_wrap=True, overflow="ellipsis"
        )
    for record in records[:MAX_ROWS]:
        table.add_row(
            record.key[:12],
            Text(record.state, style=STYLES.get(record.state, "")),
            record.image.name,
            str(record.request),
            str(record.charges),
            age(record.created_at),
            " ".join(record.reason.message.split()) if record.reason else "",
        )
    if records:
        console.print(table)
    if len(records) > MAX_ROWS:
        console.print(f"… and {len(records) - MAX_ROWS} older: filter with --state or --since, or use --json")
    counts = Counter(record.state for record in records)
    words = [f"{counts[state]} {state}" for state in JobState if counts[state]]
    total = sum_charges(record.charges for record in records)
    console.print(" · ".join([*(words or ["no jobs"]), str(total)]), style="bold")


def print_job(record: JobRecord) -> None:
    """Print the details of one job, and what to do next."""
    console = stdout()
    for name, value in _details(record):
        console.print(Text.assemble((f"{name:>9}  ", "bold"), value), soft_wrap=True)


def _details(record: JobRecord) -> Iterator[tuple[str, str]]:
    facts = record.image.facts
    yield "job", record.key
    yield "state", f"{record.state}, for {age(record.updated_at)}; created {_time(record.created_at)}"
    if record.reason:
        yield "reason", f"{record.reason.code}: {record.reason.message}"
    yield "image", f"{record.image.label}  ({facts.format}, {facts.width} x {facts.height} px, {facts.size:,} bytes)"
    yield "request", str(record.request)
    yield "prompt", record.request.prompt
    if record.label:
        yield "label", record.label
    for name, value in record.extra.items():
        yield "extra", f"{name}: {value}"
    for attempt in record.attempts:
        yield f"attempt {attempt.number}", "; ".join(_attempt_story(attempt))
    yield "cost", str(record.charges)
    if video := record.video:
        yield "video", f"{video.uri}  ({video.width} x {video.height} px, {video.seconds:g} s, {video.size:,} bytes)"
        yield "poster", str(video.poster)
        yield "manifest", str(video.manifest)
        for flag in video.flags:
            yield "note", flag
    yield "next", next_step(record)


def _attempt_story(attempt: Attempt) -> Iterator[str]:
    """Tell what happened to an attempt, in order."""
    by = " by callback" if attempt.delivery == "callback" else ""
    price = money_text(attempt.price_usd)
    yield f"claimed{by} {_time(attempt.claimed_at)} at ${price} by run {attempt.run_id or 'unknown'}"
    if attempt.task_id:
        late = " (the answer came late)" if attempt.reopened else ""
        at = f" {_time(attempt.submitted_at)}" if attempt.submitted_at else ""
        yield f"submitted{at} as task {attempt.task_id}{late}"
    if attempt.provider_state:
        yield f"reported by the provider in the state {attempt.provider_state!r}, which i2v does not know"
    yield _end_of(attempt)
    if attempt.kept:
        yield "its unverified video kept by a person"
    if attempt.resubmitted:
        yield "resubmitted by a person"


def _end_of(attempt: Attempt) -> str:
    end = attempt.end
    if end is None:
        return "rendering at the provider" if attempt.task_id else "waiting for the answer to its submit"
    reason = f": {end.reason.message}" if end.reason else ""
    return f"{END_WORDS[end.kind]} {_time(end.at)}{reason}"


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
