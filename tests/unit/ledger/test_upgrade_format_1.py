"""Records of format 1: whatever an older i2v left is read to the state that it had, and written in format 2."""

from __future__ import annotations

import json
from typing import Any

import pytest

from i2v.ledger import transitions
from i2v.ledger.attempt import EndKind
from i2v.ledger.job import FORMAT, JobRecord, JobState
from i2v.ledger.ledger import Ledger
from i2v.ledger.transitions import validate_change
from tests.support.format_1_records import (
    DROPPED_FOR,
    FAILED_FOR,
    KEY,
    LITERAL,
    URI,
    VIDEO_JSON,
    old_attempt,
    old_record,
    read,
)
from tests.support.job_records import IMAGE, LATER, NOW, PRICE, VIDEO, claim_as, new_attempt, task_of
from tests.support.memory_storage import MemoryStorage
from tests.support.settings import SealedSettings

SETTINGS = SealedSettings(I2V_BUCKET="b-1")


def ends(record: JobRecord) -> list[str]:
    """Return how each attempt ended; `open` if it has not."""
    return [one.end.kind.value if one.end else "open" for one in record.attempts]


LOST, FAILED = old_attempt(), old_attempt(task_id="task_a", fail=FAILED_FOR)
STATES = {
    "ready and never claimed": (old_record("ready"), "ready", [], 0),
    "claimed": (old_record("claimed", LOST), "claimed", ["open"], 1),
    "submitted": (old_record("submitted", old_attempt(task_id="task_a")), "submitted", ["open"], 1),
    "stored": (old_record("stored", old_attempt(task_id="task_a"), video=VIDEO_JSON), "stored", ["stored"], 1),
    "unknown": (old_record("unknown", LOST, reason=FAILED_FOR), "unknown", ["lost"], 1),
    "refused by its task": (old_record("refused", FAILED, reason=FAILED_FOR), "refused", ["refused"], 1),
    "refused for free": (old_record("refused", last=1, reason=FAILED_FOR), "refused", ["refused"], 0),
    "failed": (old_record("failed", FAILED, reason=FAILED_FOR), "failed", ["failed"], 1),
    "failed instead of a task id": (
        old_record("failed", old_attempt(fail=FAILED_FOR), reason=FAILED_FOR),
        "failed",
        ["failed"],
        1,
    ),
    "dropped": (old_record("failed", old_attempt(fail=DROPPED_FOR), reason=DROPPED_FOR), "failed", ["dropped"], 1),
    "dropped with its task": (
        old_record("failed", old_attempt(task_id="task_a", fail=DROPPED_FOR), reason=DROPPED_FOR),
        "failed",
        ["dropped"],
        1,
    ),
    "released": (old_record("ready", last=1), "ready", ["unpaid"], 0),
    "released after a failure": (old_record("ready", FAILED, last=2), "ready", ["failed", "unpaid"], 1),
    "released after a lost answer": (old_record("ready", LOST, last=2), "ready", ["lost", "unpaid"], 1),
    "ready after a transient failure": (old_record("ready", FAILED, reason=FAILED_FOR), "ready", ["failed"], 1),
    "resubmitted after a lost answer": (old_record("ready", LOST), "ready", ["lost"], 1),
    "resubmitted after a failure": (old_record("ready", FAILED, extra_attempts=1), "ready", ["failed"], 1),
    "resubmitted after a drop": (old_record("ready", old_attempt(fail=DROPPED_FOR)), "ready", ["dropped"], 1),
    "refused for free after a failure": (
        old_record("refused", FAILED, last=2, reason=FAILED_FOR),
        "refused",
        ["failed", "refused"],
        1,
    ),
    "second attempt claimed": (old_record("claimed", LOST, old_attempt(2)), "claimed", ["lost", "open"], 2),
    "second attempt unknown": (
        old_record("unknown", LOST, old_attempt(2), reason=FAILED_FOR),
        "unknown",
        ["lost", "lost"],
        2,
    ),
    "second attempt stored": (
        old_record("stored", FAILED, old_attempt(2, task_id="task_b"), video=VIDEO_JSON),
        "stored",
        ["failed", "stored"],
        2,
    ),
    "first attempt removed": (
        old_record("submitted", old_attempt(2, task_id="task_b")),
        "submitted",
        ["open"],
        1,
    ),
    "back at the first after a release": (
        old_record("submitted", old_attempt(task_id="task_a"), last=2),
        "submitted",
        ["open", "unpaid"],
        1,
    ),
    "revived": (old_record("submitted", old_attempt(task_id="task_a", revived=True)), "submitted", ["open"], 1),
}
PAID_TASK_NOBODY_ASKED_FOR = {
    "late task beside a newer claim": old_record("claimed", old_attempt(task_id="task_a"), old_attempt(2)),
    "late task and the newer attempt lost": old_record("unknown", old_attempt(task_id="task_a"), old_attempt(2)),
    "late task and the newer attempt failed": old_record(
        "failed", old_attempt(task_id="task_a"), old_attempt(2, fail=FAILED_FOR), reason=FAILED_FOR
    ),
    "second task of a failed claim": old_record(
        "failed", old_attempt(task_id="task_x", fail=FAILED_FOR, other_task_ids=["task_a"]), reason=FAILED_FOR
    ),
    "second task of a claim that is ready again": old_record(
        "ready", old_attempt(task_id="task_x", fail=FAILED_FOR, other_task_ids=["task_a"]), reason=FAILED_FOR
    ),
}


@pytest.mark.parametrize(("old", "state", "kinds", "paid"), STATES.values(), ids=STATES.keys())
def test_each_record_keeps_its_state_and_its_cost(old: dict[str, Any], state: str, kinds: list[str], paid: int) -> None:
    """Every attempt that was in the record counts in full, and one that was removed was free."""
    new = read(old)
    assert (new.state.value, ends(new), new.cost_usd) == (state, kinds, paid * PRICE)
    assert new.next_number == old["last_attempt"] + 1
    assert (new.revision, new.key, new.request.prompt) == (7, KEY, "zoom")


@pytest.mark.parametrize("old", PAID_TASK_NOBODY_ASKED_FOR.values(), ids=PAID_TASK_NOBODY_ASKED_FOR.keys())
def test_a_paid_task_that_nobody_asked_for_is_asked_for(old: dict[str, Any]) -> None:
    """Format 1 kept the ids of such tasks and did not ask for them: the job is submitted again."""
    new = read(old)
    attempt = new.attempt_for_task("task_a")
    assert attempt
    assert (new.state, attempt.is_running, new.is_open) == (JobState.SUBMITTED, True, True)
    assert len({one.claim for one in new.attempts}) == len(new.attempts)
    assert [one.number for one in new.attempts] == sorted({one.number for one in new.attempts})


def test_the_literal_record_can_be_read() -> None:
    """Every later version reads what the first one wrote."""
    job = JobRecord.model_validate_json(LITERAL)
    assert (job.state, job.task_id, job.attempts[0].price_usd) == (JobState.SUBMITTED, "task_a", PRICE)
    assert (job.attempts[0].day, job.attempts[0].delivery) == ("2026-11-22", "poll")


@pytest.mark.parametrize("old", [case[0] for case in STATES.values()], ids=STATES.keys())
def test_a_read_record_is_whole(old: dict[str, Any]) -> None:
    """It survives a write, may be changed in every way that applies, and no rule is broken by that."""
    new = read(old)
    again = JobRecord.model_validate_json(new.model_dump_json())
    assert again == new.model_copy(update={"was_format_1": False})
    changes = [
        transitions.claim(new, IMAGE, new_attempt(new, "C")),
        transitions.resubmit(new),
        transitions.adopt(new, "task_x", None, NOW),
        *(transitions.record_task(new, one.claim, "task_x", NOW) for one in new.attempts if one.claim),
        *(transitions.store(new, one.task_id, VIDEO, NOW) for one in new.attempts if one.task_id),
    ]
    for changed in changes:
        if changed is not None:
            validate_change(new, changed)


async def test_a_record_is_rewritten_at_its_next_change() -> None:
    """Reading leaves it as it was; the next change writes format 2."""
    storage = MemoryStorage()
    ledger = Ledger(storage, SETTINGS)
    await storage.put(URI, LITERAL.replace('"aa"', f'"{KEY}"').encode())
    job = await ledger.read_existing(KEY)
    assert json.loads((await storage.get(URI)).body)["format"] == 1
    assert await ledger.change(job, lambda record: transitions.store(record, "task_a", VIDEO, LATER))
    written = json.loads((await storage.get(URI)).body)
    assert (written["format"], written["revision"], written["state"]) == (FORMAT, 4, "stored")
    assert not {"last_attempt", "extra_attempts", "video"} & set(written)
    assert (await ledger.read_existing(KEY)).record.video == VIDEO


def test_the_reason_tells_a_transient_failure_from_a_resubmit() -> None:
    """Both made a job ready; a person's decision is shown as one."""
    transient, person = (
        read(STATES[name][0]) for name in ("ready after a transient failure", "resubmitted after a failure")
    )
    assert (transient.reason is not None, transient.attempts[0].resubmitted) == (True, False)
    assert (person.reason, person.attempts[0].resubmitted) == (None, True)


def test_only_the_newest_attempt_has_the_records_reason() -> None:
    """Format 1 kept one reason for all."""
    first, second = read(STATES["second attempt unknown"][0]).attempts
    assert first.end
    assert second.end
    assert (first.end.reason, first.resubmitted) == (None, True)
    assert (second.end.reason is not None, second.resubmitted) == (True, False)


def test_a_revived_attempt_is_a_reopened_one() -> None:
    """Its earlier verdict is still looked for."""
    assert read(STATES["revived"][0]).may_have_verdicts
    assert not read(STATES["submitted"][0]).may_have_verdicts


def test_a_late_answer_finds_its_attempt_in_an_old_record() -> None:
    """A process that claimed in format 1 and is answered now, or one whose claim was lost or dropped."""
    for name in ("claimed", "unknown", "dropped", "resubmitted after a lost answer"):
        job = task_of(read(STATES[name][0]), "A", "task_late")
        assert (job.state, job.task_id) == (JobState.SUBMITTED, "task_late")


def test_a_ready_record_can_be_claimed() -> None:
    """The attempt's number was never used before."""
    for old, state, *_ in STATES.values():
        if state == "ready":
            assert claim_as(read(old), "new").attempts[-1].number == old["last_attempt"] + 1


def test_each_way_to_end_is_covered() -> None:
    """The cases above lead to each way in which an attempt can end."""
    assert {kind for case in STATES.values() for kind in case[2]} == {"open", *(kind.value for kind in EndKind)}
