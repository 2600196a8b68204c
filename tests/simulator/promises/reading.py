"""How the simulator reads the ledger: the one place that knows the format of records, markers, days and tasks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from i2v.ledger.budget import DailySpend
from i2v.ledger.job import JobRecord, JobState
from i2v.ledger.run_record import RunRecord
from tests.simulator.models.bucket import Bucket

_RECORD = re.compile(r"jobs/([0-9a-f]{64})\.json")
_MARKER = re.compile(r"jobs/open/[0-9a-f]{12}-[0-9a-f]{12}-([0-9a-f]{64})(?:-([0-9]+)(r?))?")
OPEN = frozenset({"claimed", "submitted", "unknown"})


@dataclass(frozen=True)
class AttemptView:
    """One attempt of a job."""

    number: int
    claim: str
    run_id: str
    price: Decimal
    day: str
    """Empty in format 1."""
    task_ids: frozenset[str]
    end: str
    """Empty while it has none; else unpaid, refused, failed, lost, dropped or stored."""
    is_counted: bool
    """Whether the ledger counts it as spent."""


@dataclass(frozen=True)
class JobView:
    """One job as the ledger has it."""

    key: str
    state: str
    attempts: tuple[AttemptView, ...]
    video_task: str
    """The task whose video is stored, empty if unknown."""
    video_key: str
    flags: tuple[str, ...]
    image_sha256: str
    label: str

    @property
    def is_open(self) -> bool:
        """Whether it must have a marker."""
        return self.state in OPEN

    @property
    def task_ids(self) -> frozenset[str]:
        """All task ids of all attempts."""
        return frozenset(task for attempt in self.attempts for task in attempt.task_ids)


def parse_record(body: bytes) -> JobView:
    """Read a job record."""
    record = JobRecord.model_validate_json(body)
    attempts = []
    for one in record.attempts:
        is_latest = one is record.attempts[-1]
        end = ""
        if one.fail:
            end = "dropped" if one.fail.code == "dropped" else "failed"
        elif is_latest and record.state is JobState.STORED:
            end = "stored"
        elif not one.task_ids and (not is_latest or record.state is not JobState.CLAIMED):
            end = "lost"
        attempts.append(
            AttemptView(
                one.number, one.claim, one.run_id, one.price_usd, "", one.task_ids, end, one.spent_usd == one.price_usd
            )
        )
    return JobView(
        key=record.key,
        state=record.state.value,
        attempts=tuple(attempts),
        video_task=(record.task_id or "") if record.video else "",
        video_key=record.video.uri.key if record.video else "",
        flags=record.video.flags if record.video else (),
        image_sha256=record.image.facts.sha256,
        label=record.image.label,
    )


def jobs(bucket: Bucket) -> dict[str, JobView]:
    """Return all jobs by key."""
    return {
        match[1]: parse_record(found.body)
        for name, found in bucket.objects.items()
        if (match := _RECORD.fullmatch(name))
    }


def job(bucket: Bucket, key: str) -> JobView | None:
    """Return one job."""
    found = bucket.objects.get(f"jobs/{key}.json")
    return parse_record(found.body) if found else None


def record_key(name: str) -> str:
    """Return the job key if an object is a record, else an empty text."""
    match = _RECORD.fullmatch(name)
    return match[1] if match else ""


def markers(bucket: Bucket) -> Iterator[tuple[str, int, str]]:
    """Yield each open marker as job key, attempt (0 if it names none) and object name."""
    for name in bucket.objects:
        if match := _MARKER.fullmatch(name):
            yield match[1], int(match[2] or 0), name


def has_marker(bucket: Bucket, key: str) -> bool:
    """Return whether a job has a marker."""
    return any(job_key == key for job_key, _, _ in markers(bucket))


def reserved(bucket: Bucket, day: str) -> dict[str, Decimal]:
    """Return what each run has reserved on a day."""
    found = bucket.objects.get(f"jobs/days/{day}.json")
    return DailySpend.model_validate_json(found.body).reserved_usd if found else {}


def paused(bucket: Bucket) -> bool:
    """Return whether submits are paused."""
    found = bucket.objects.get("jobs/ledger.json")
    return bool(found and json.loads(found.body).get("paused"))


def run_record(bucket: Bucket, run_id: str) -> RunRecord | None:
    """Return a run's record."""
    found = bucket.objects.get(f"jobs/runs/{run_id}.json")
    return RunRecord.model_validate_json(found.body) if found else None


def parked_tasks(bucket: Bucket) -> dict[str, str]:
    """Return the job key by task id, from `jobs/tasks/`."""
    found = {}
    for name, one in bucket.objects.items():
        if name.startswith("jobs/tasks/"):
            page = json.loads(one.body)
            found[page["task_id"]] = page["job"]
    return found
