"""Documents of format 1 that are damaged, and the documents beside the job records: days and runs."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2v.errors import LedgerError
from i2v.ledger import keys
from i2v.ledger.day_spend import DaySpend, DaySpendStore
from i2v.ledger.documents import parse_document
from i2v.ledger.job import FORMAT, JobRecord, JobState
from i2v.ledger.run_record import RunRecord
from tests.support.format_1_records import FAILED_FOR, KEY, LITERAL, URI, VIDEO_JSON, old_attempt, old_record, read
from tests.support.job_records import NOW
from tests.support.memory_storage import MemoryStorage
from tests.support.settings import SealedSettings

LOST = old_attempt()
SETTINGS = SealedSettings(I2V_BUCKET="b-1")


@pytest.mark.parametrize(
    "old",
    [
        {"format": 1},
        {"format": 1, "state": "refused"},
        {"format": 1, "state": "ready", "attempts": [{}]},
        {"format": 1, "state": "ready", "attempts": "x"},
        {"format": 1, "state": "ready", "attempts": [1]},
        {"format": 1, "state": "ready", "attempts": {"a": 1}},
        old_record("ready", last=0, last_attempt="1"),
        old_record("failed", old_attempt(fail="x")),
        {**old_record("ready"), "state": []},
        old_record("stored", old_attempt(task_id="task_a", other_task_ids=5), video=VIDEO_JSON),
    ],
    ids=str,
)
def test_a_damaged_record_is_a_ledger_error(old: dict[str, Any]) -> None:
    """One bad record is an error of its own, never another exception that would end everything else."""
    with pytest.raises(LedgerError, match=f"{KEY}.json cannot be read"):
        read(old)


@pytest.mark.parametrize(
    "old",
    [
        old_record("sleeping", LOST),
        old_record("submitted", LOST),
        old_record("submitted"),
        old_record("unknown"),
        old_record("failed"),
        old_record("stored", video=VIDEO_JSON),
        old_record("failed", LOST),
        old_record("refused", LOST),
    ],
    ids=["no state", "no task", "no attempt", "unknown", "failed", "stored", "not failed", "not refused"],
)
def test_a_record_that_contradicts_itself_is_not_ready(old: dict[str, Any]) -> None:
    """No version wrote such a record. Reading it as ready would pay for it again."""
    with pytest.raises(LedgerError, match="cannot be read"):
        read(old)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["ready", "refused", "stored", "x", "1", KEY]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(sorted(old_attempt())), inner, max_size=4)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(json.loads(LITERAL))), JSON_VALUES, max_size=4))
def test_no_content_raises_anything_else(damage: dict[str, Any]) -> None:
    """Whatever is in a record of format 1: it is read, or it is a `LedgerError`."""
    body = json.dumps({**old_record("unknown", LOST, reason=FAILED_FOR), **damage, "format": 1}).encode()
    try:
        record = parse_document(JobRecord, body, URI)
    except LedgerError:
        return
    assert record.state in {str(damage.get("state", "unknown")), JobState.SUBMITTED}


async def test_a_day_of_format_1_is_read_and_rewritten() -> None:
    """What runs had reserved by then counts as spent; the next reservation writes format 2."""
    storage = MemoryStorage()
    old = {"format": 1, "day": "2026-11-22", "writer": "w", "reserved_usd": {"run-1": "6.144", "run-2": "0.33"}}
    uri = keys.daily_spend_uri(SETTINGS, "2026-11-22")
    await storage.put(uri, json.dumps(old).encode())
    store = DaySpendStore(storage, SETTINGS)
    found = await store.read("2026-11-22")
    assert found.content.total_usd == Decimal("6.474")
    assert {entry.run_id: entry.paid_usd for entry in found.content.entries.values()} == {
        "run-1": Decimal("6.144"),
        "run-2": Decimal("0.33"),
    }
    assert await store.write(found.content, found.etag)
    assert json.loads((await storage.get(uri)).body)["format"] == FORMAT
    assert (await store.read("2026-11-22")).content.total_usd == Decimal("6.474")


@pytest.mark.parametrize("sums", [[], [1], "x", 5, {"r": "x"}, {"r": None}], ids=str)
def test_a_damaged_day_is_a_ledger_error(sums: object) -> None:
    """Nothing is spent on a day whose document cannot be read."""
    body = json.dumps({"format": 1, "day": "2026-11-22", "reserved_usd": sums}).encode()
    with pytest.raises(LedgerError, match="cannot be read"):
        parse_document(DaySpend, body, URI)


def test_a_run_of_format_1_is_read() -> None:
    """Reconcile asks it whether the run still lives; `days` is no longer needed."""
    old = {"format": 1, "run_id": "r", "started_at": "2026-11-22T12:00:00Z", "touched_at": "2026-11-22T12:01:00Z"}
    record = parse_document(RunRecord, json.dumps({**old, "days": ["2026-11-22"], "ended_at": None}).encode(), URI)
    assert (record.run_id, record.started_at, record.ended_at) == ("r", NOW, None)
