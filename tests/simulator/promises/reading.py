"""How the simulator reads the ledger: the one place that knows the format of records, markers, days and runs.

It reads the JSON itself and not with the library's models, so that a fault there is no fault here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from i2v.s3_uri import S3Uri
from tests.simulator.models.bucket import Bucket

Json = dict[str, Any]
_RECORD = re.compile(r"jobs/([0-9a-f]{64})\.json")
_MARKER = re.compile(r"jobs/open/[0-9a-f]{12}-[0-9a-f]{12}-([0-9a-f]{64})-([0-9]+)r?")
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
    task_ids: frozenset[str]
    end: str
    """Empty while it has none; else unpaid, refused, failed, lost, dropped or stored."""
    is_settled: bool
    """Whether it needs no marker."""
    is_counted: bool
    """Whether the ledger counts it as spent."""
    is_reopened: bool = False
    """Whether its task id came after it had ended."""
    reason: str = ""
    """The code of why it ended."""
    video_key: str = ""
    """Where its video is."""
    flags: tuple[str, ...] = ()
    is_forgotten: bool = False


@dataclass(frozen=True)
class JobView:
    """One job as the ledger has it."""

    key: str
    state: str
    attempts: tuple[AttemptView, ...]
    image_sha256: str
    image: str
    """Its address, or `forgotten/<digest>`."""
    etag: str
    """The image's."""

    @property
    def is_open(self) -> bool:
        """Whether it must have a marker."""
        return not all(attempt.is_settled for attempt in self.attempts)

    @property
    def videos(self) -> list[str]:
        """Where the videos of its attempts are."""
        return [attempt.video_key for attempt in self.attempts if attempt.video_key]

    @property
    def task_ids(self) -> frozenset[str]:
        """All task ids of all attempts."""
        return frozenset(task for attempt in self.attempts for task in attempt.task_ids)


def stem(video_key: str) -> str:
    """Return what the names of a video, its poster and its manifest begin with."""
    return video_key.removesuffix(".mp4").removesuffix(".unverified")


def parse_record(body: bytes) -> JobView:
    """Read a job record."""
    data = json.loads(body)
    attempts = tuple(map(_attempt, data["attempts"]))
    return JobView(
        key=data["key"],
        state=data["state"],
        attempts=attempts,
        image_sha256=data["image"]["facts"]["sha256"],
        image=data["image"]["label"],
        etag=data["image"]["etag"],
    )


def _attempt(one: Json) -> AttemptView:
    end = one["end"]["kind"] if one["end"] else ""
    return AttemptView(
        number=one["number"],
        claim=one["claim"],
        run_id=one["run_id"],
        price=Decimal(one["price_usd"]),
        day=one["day"],
        task_ids=frozenset(filter(None, [one["task_id"]])),
        end=end,
        is_settled=bool(end) and (end != "lost" or one["resubmitted"] or one["forgotten"]),
        is_counted=bool(one["task_id"]) or end in {"failed", "dropped"},
        is_reopened=one["reopened"],
        is_forgotten=one["forgotten"],
        reason=((one["end"] or {}).get("reason") or {}).get("code", ""),
        **_video((one["end"] or {}).get("video")),
    )


def _video(video: Json | None) -> Json:
    return {"video_key": video["uri"].split("/", 3)[3], "flags": tuple(video["flags"])} if video else {}


def jobs(bucket: Bucket) -> dict[str, JobView]:
    """Return all jobs by key."""
    return {
        match[1]: parse_record(found.body)
        for uri, found in bucket.objects.items()
        if (match := _RECORD.fullmatch(uri.key)) and match[1] != GARBAGE
    }


def job(bucket: Bucket, key: str) -> JobView | None:
    """Return one job."""
    found = bucket.find(f"jobs/{key}.json") if key != GARBAGE else None
    return parse_record(found.body) if found else None


def record_key(name: str) -> str:
    """Return the job key if an object is a record, else an empty text."""
    match = _RECORD.fullmatch(name)
    return match[1] if match else ""


def markers(bucket: Bucket) -> Iterator[tuple[str, int]]:
    """Yield each open marker as job key and attempt."""
    for name in bucket.names():
        if (match := _MARKER.fullmatch(name)) and match[1] != GARBAGE:
            yield match[1], int(match[2])


def has_marker(bucket: Bucket, key: str, number: int) -> bool:
    """Return whether an attempt has a marker."""
    return (key, number) in markers(bucket)


def task_page(bucket: Bucket, task_id: str) -> str:
    """Return the key of the job that has a task by its page, empty if there is none."""
    found = bucket.find(f"jobs/tasks/{hashlib.sha256(task_id.encode()).hexdigest()}")
    return str(json.loads(found.body)["job"]) if found else ""


def reserved(bucket: Bucket, day: str) -> dict[str, Decimal]:
    """Return what each run has reserved or paid on a day."""
    found = bucket.find(f"jobs/days/{day}.json")
    data: Json = json.loads(found.body) if found else {}
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for entry in data.get("entries", {}).values():
        held = (Decimal(one["usd"]) for one in entry["reserved"].values())
        sums[entry["run_id"]] += sum(held, Decimal(entry["paid_usd"]))
    return sums


def reserved_in_all(bucket: Bucket, run_id: str) -> Decimal:
    """Return what a run has reserved or paid on all days."""
    prefix = "jobs/days/"
    days = [name.removeprefix(prefix).removesuffix(".json") for name in bucket.names() if name.startswith(prefix)]
    return sum((reserved(bucket, day).get(run_id, ZERO) for day in days), ZERO)


def put_spend(bucket: Bucket, day: str, label: str, usd: Decimal) -> None:
    """Put a day on which another run has spent, a week ago by S3's clock."""
    entry = {"run_id": "before", "label": label, "paid_usd": str(usd), "reserved": {}}
    uri = S3Uri("b-1", f"jobs/days/{day}.json")
    bucket.put(uri, json.dumps({"format": 2, "day": day, "entries": {"before:1": entry}}).encode(), "", {}, "")
    found = bucket.objects[uri]
    bucket.objects[uri] = replace(found, last_modified=found.last_modified - timedelta(days=7))


def ledger_info(bucket: Bucket) -> Json:
    """Return `jobs/ledger.json`, empty if there is none."""
    found = bucket.find("jobs/ledger.json")
    info: Json = json.loads(found.body) if found else {}
    return info


def run_record(bucket: Bucket, run_id: str) -> Json:
    """Return a run's record, empty if there is none."""
    found = bucket.find(f"jobs/runs/{run_id}.json")
    record: Json = json.loads(found.body) if found else {}
    return record
