"""How the simulator reads the ledger: the one place that knows the format of records, markers, days and runs.

It reads the JSON itself and not with the library's models, so that a fault there is no fault here.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tests.simulator.models.bucket import Bucket

Json = dict[str, Any]
_RECORD = re.compile(r"jobs/([0-9a-f]{64})\.json")
_MARKER = re.compile(r"jobs/open/[0-9a-f]{12}-[0-9a-f]{12}-([0-9a-f]{64})(?:-([0-9]+)r?)?")
ZERO = Decimal(0)
GARBAGE = "0" * 64
"""The key of a record that cannot be read."""


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
    is_settled: bool
    """Whether it needs no marker."""
    is_counted: bool
    """Whether the ledger counts it as spent."""


@dataclass(frozen=True)
class JobView:
    """One job as the ledger has it."""

    key: str
    state: str
    attempts: tuple[AttemptView, ...]
    video_key: str
    """Where its video is, empty if it has none."""
    flags: tuple[str, ...]
    image_sha256: str

    @property
    def is_open(self) -> bool:
        """Whether it must have a marker."""
        return not all(attempt.is_settled for attempt in self.attempts)

    @property
    def task_ids(self) -> frozenset[str]:
        """All task ids of all attempts."""
        return frozenset(task for attempt in self.attempts for task in attempt.task_ids)


def parse_record(body: bytes) -> JobView:
    """Read a job record."""
    data = json.loads(body)
    attempts = tuple((_attempt if data["format"] > 1 else _attempt_1)(data, one) for one in data["attempts"])
    ends = [one.get("end") or {} for one in data["attempts"]]
    videos = [end["video"] for end in sorted(ends, key=lambda end: end.get("revision", 0)) if end.get("video")]
    video = data.get("video") or next(iter(videos), None)
    return JobView(
        key=data["key"],
        state=data["state"],
        attempts=attempts,
        video_key=video["uri"].split("/", 3)[3] if video else "",
        flags=tuple(video["flags"]) if video else (),
        image_sha256=data["image"]["facts"]["sha256"],
    )


def _attempt(_data: Json, one: Json) -> AttemptView:
    end = one["end"]["kind"] if one["end"] else ""
    return AttemptView(
        number=one["number"],
        claim=one["claim"],
        run_id=one["run_id"],
        price=Decimal(one["price_usd"]),
        day=one["day"],
        task_ids=frozenset(filter(None, [one["task_id"]])),
        end=end,
        is_settled=bool(end) and (end != "lost" or one["resubmitted"]),
        is_counted=bool(one["task_id"]) or end in {"failed", "dropped"},
    )


def _attempt_1(data: Json, one: Json) -> AttemptView:
    task_ids = frozenset(filter(None, [one["task_id"], *one["other_task_ids"]]))
    is_latest, end = one is data["attempts"][-1], ""
    if one["fail"]:
        end = "dropped" if one["fail"]["code"] == "dropped" else "failed"
    elif is_latest and data["state"] == "stored":
        end = "stored"
    elif not task_ids and (not is_latest or data["state"] != "claimed"):
        end = "lost"
    return AttemptView(
        number=one["number"],
        claim=one["claim"],
        run_id=one["run_id"],
        price=Decimal(one["price_usd"]),
        day="",
        task_ids=task_ids,
        end=end,
        is_settled=not is_latest or data["state"] not in {"claimed", "submitted", "unknown"},
        is_counted=bool(task_ids or one["fail"]),
    )


def jobs(bucket: Bucket) -> dict[str, JobView]:
    """Return all jobs by key."""
    return {
        match[1]: parse_record(found.body)
        for name, found in bucket.objects.items()
        if (match := _RECORD.fullmatch(name)) and match[1] != GARBAGE
    }


def job(bucket: Bucket, key: str) -> JobView | None:
    """Return one job."""
    found = bucket.objects.get(f"jobs/{key}.json") if key != GARBAGE else None
    return parse_record(found.body) if found else None


def record_key(name: str) -> str:
    """Return the job key if an object is a record, else an empty text."""
    match = _RECORD.fullmatch(name)
    return match[1] if match else ""


def markers(bucket: Bucket) -> Iterator[tuple[str, int]]:
    """Yield each open marker as job key and attempt, 0 if it names none (format 1)."""
    for name in bucket.objects:
        if (match := _MARKER.fullmatch(name)) and match[1] != GARBAGE:
            yield match[1], int(match[2] or 0)


def has_marker(bucket: Bucket, key: str, number: int) -> bool:
    """Return whether an attempt has a marker."""
    return any(job_key == key and attempt in {0, number} for job_key, attempt in markers(bucket))


def reserved(bucket: Bucket, day: str) -> dict[str, Decimal]:
    """Return what each run has reserved or paid on a day."""
    found = bucket.objects.get(f"jobs/days/{day}.json")
    data: Json = json.loads(found.body) if found else {}
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for run_id, usd in data.get("reserved_usd", {}).items():
        sums[run_id] += Decimal(usd)
    for entry in data.get("entries", {}).values():
        held = (Decimal(one["usd"]) for one in entry["reserved"].values())
        sums[entry["run_id"]] += sum(held, Decimal(entry["paid_usd"]))
    return sums


def reserved_in_all(bucket: Bucket, run_id: str) -> Decimal:
    """Return what a run has reserved or paid on all days."""
    prefix = "jobs/days/"
    days = [name.removeprefix(prefix).removesuffix(".json") for name in bucket.objects if name.startswith(prefix)]
    return sum((reserved(bucket, day).get(run_id, ZERO) for day in days), ZERO)


def ledger_info(bucket: Bucket) -> Json:
    """Return `jobs/ledger.json`, empty if there is none."""
    found = bucket.objects.get("jobs/ledger.json")
    info: Json = json.loads(found.body) if found else {}
    return info


def run_record(bucket: Bucket, run_id: str) -> Json:
    """Return a run's record, empty if there is none."""
    found = bucket.objects.get(f"jobs/runs/{run_id}.json")
    record: Json = json.loads(found.body) if found else {}
    return record
