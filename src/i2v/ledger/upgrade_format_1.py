"""Job records of format 1, which kept one state beside the attempts: `upgrade_record` turns one into format 2.

`JobRecord` rejects the result if its state is another one. Such a record is rewritten in format 2 at its next change.
Delete this module once no ledger has records of format 1.
"""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
_DROPPED = "dropped"


def upgrade_record(data: Json) -> Json:
    """Return a record of format 1, as parsed JSON, in format 2."""
    attempts = list(_attempts(data))
    kept = {name: data[name] for name in _KEPT if name in data}
    return {**kept, "format": 2, "was_format_1": True, "attempts": attempts}


_KEPT = ("key", "revision", "writer", "image", "request", "label", "created_at", "updated_at")


def _attempts(data: Json) -> Iterator[Json]:
    """Yield the attempts with their ends, then what format 1 kept elsewhere."""
    old: list[Json] = list(data.get("attempts") or ())
    newest = old[-1]["number"] if old else 0
    number = max(data.get("last_attempt") or 0, newest)
    removed = number > newest or (data["state"] == "refused" and not old)  # format 1 removed free attempts
    for attempt in old:
        decides = attempt is old[-1] and not (removed and data["state"] == "refused")
        yield _attempt(attempt, attempt.get("task_id"), _end(data, attempt, decides=decides))
    if removed:
        number = max(number, 1)
        yield _removed_attempt(data, number)
    for attempt in old:
        for task_id in attempt.get("other_task_ids") or ():
            number += 1
            yield _attempt({**attempt, "number": number, "claim": f"{attempt['claim']}+{number}"}, task_id, None)


def _removed_attempt(data: Json, number: int) -> Json:
    """Return an attempt that was released or rejected, and not charged."""
    at, is_refused = data["updated_at"], data["state"] == "refused"
    kind, reason = ("refused", data.get("reason")) if is_refused else ("unpaid", None)
    end = {"kind": kind, "at": at, "revision": data.get("revision", 0) if is_refused else 0, "reason": reason}
    return {"number": number, "claim": "", "run_id": "", "claimed_at": at, "price_usd": "0", "end": end}


def _attempt(attempt: Json, task_id: str | None, end: Json | None) -> Json:
    names = ("number", "claim", "run_id", "claimed_at", "price_usd", "delivery", "submitted_at", "created_at")
    kept = {name: attempt[name] for name in names if name in attempt}
    resubmitted = bool(end and end.pop("resubmitted", False))
    return {
        **kept,
        "day": str(attempt["claimed_at"])[:10],
        "task_id": task_id,
        "reopened": bool(attempt.get("revived")),
        "resubmitted": resubmitted,
        "end": end,
    }


def _end(data: Json, attempt: Json, *, decides: bool) -> Json | None:
    """Return the end of an attempt, `None` if it is open. An earlier task without an end is polled again."""
    state, reason = (data["state"], data.get("reason")) if decides else ("", None)
    fail, at = attempt.get("fail"), attempt.get("ended_at") or data["updated_at"]
    end: Json = {"at": at, "revision": data.get("revision", 0) if decides else 0}
    if state == "stored":
        return {**end, "kind": "stored", "video": data["video"]}
    if fail:
        kind = "dropped" if fail["code"] == _DROPPED else "refused" if state == "refused" else "failed"
        again = {"retry": True} if reason else {"resubmitted": True}  # a person's resubmit took the reason away
        return {**end, "kind": kind, "reason": fail, **(again if state == "ready" else {})}
    if attempt.get("task_id") or state == "claimed":
        return None
    return {**end, "kind": "lost", "reason": reason, "resubmitted": state in {"", "ready"}}
