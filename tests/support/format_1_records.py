"""Job records of format 1, as an older i2v left them: `old_record`, `old_attempt` and `LITERAL`."""

from __future__ import annotations

import json
from typing import Any

from i2v.ledger.documents import parse_document
from i2v.ledger.job import JobRecord
from i2v.s3_uri import S3Uri
from tests.support.job_records import VIDEO

KEY = "a" * 64
URI = S3Uri("b-1", f"jobs/{KEY}.json")
FAILED_FOR = {"code": "why", "message": "because"}
DROPPED_FOR = {"code": "dropped", "message": "dropped by a person"}
VIDEO_JSON = json.loads(VIDEO.model_dump_json(exclude={"image_changed"}))
LITERAL = """{"format": 1, "key": "aa", "state": "submitted", "revision": 3, "writer": "0123456789abcdef",
"image": {"label": "s3://b-1/images/a.jpg", "name": "a.jpg", "at": "s3://b-1/images/a.jpg", "etag": "e",
"version_id": null, "facts": {"sha256": "55", "size": 9, "format": "JPEG", "width": 640, "height": 480}},
"request": {"mode": "standard", "duration": 6, "prompt": "zoom", "take": 1}, "label": null,
"created_at": "2026-11-22T12:00:00Z", "updated_at": "2026-11-22T12:00:00Z", "attempts": [{"number": 1, "claim": "A",
"run_id": "r", "claimed_at": "2026-11-22T12:00:00Z", "price_usd": "0.192", "task_id": "task_a", "other_task_ids": [],
"submitted_at": "2026-11-22T12:00:01Z", "created_at": null, "ended_at": null, "fail": null}], "last_attempt": 1,
"extra_attempts": 0, "reason": null, "video": null}"""
"""As the first version wrote it: never change it."""


def old_attempt(number: int = 1, task_id: str | None = None, **more: Any) -> dict[str, Any]:
    """Return an attempt as format 1 had it."""
    return {
        "number": number,
        "claim": "ABC"[number - 1],
        "run_id": "r",
        "claimed_at": "2026-11-22T12:00:00Z",
        "price_usd": "0.192",
        "delivery": "poll",
        "task_id": task_id,
        "other_task_ids": [],
        "submitted_at": "2026-11-22T12:00:01Z" if task_id else None,
        "created_at": None,
        "ended_at": "2026-11-22T12:30:00Z" if "fail" in more else None,
        "fail": None,
        "revived": False,
        **more,
    }


def old_record(
    state: str, *attempts: dict[str, Any], last: int = 0, reason: dict[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    """Return a record as format 1 had it; `last` is its last attempt's number if that was removed."""
    return {
        **json.loads(LITERAL),
        "key": KEY,
        "state": state,
        "revision": 7,
        "attempts": list(attempts),
        "last_attempt": last or (attempts[-1]["number"] if attempts else 0),
        "reason": reason,
        **more,
    }


def read(record: dict[str, Any]) -> JobRecord:
    """Read a record as the ledger does."""
    return parse_document(JobRecord, json.dumps(record).encode(), URI)
