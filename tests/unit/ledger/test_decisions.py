"""What people and callbacks change in a record: adopt, resubmit, drop, and the task that a callback names."""

from __future__ import annotations

from datetime import timedelta

import pytest

from i2v.ledger import transitions
from i2v.ledger.attempt import EndKind
from i2v.ledger.job import JobRecord, JobState
from tests.support.job_records import (
    BY_CALLBACK,
    BY_STATE,
    CLAIMED_BY_B,
    DROPPED,
    LATE_TASK,
    LATER,
    NOW,
    READY,
    RESUBMITTED,
    SUBMITTED,
    UNKNOWN,
    VIDEO,
    WHY,
    applied,
    applies,
    claim_as,
    end_task,
    lose,
    resubmit,
    task_of,
)


def tasks(record: JobRecord) -> list[str | None]:
    """Return the task of each attempt."""
    return [attempt.task_id for attempt in record.attempts]


def test_a_person_adopts_a_task_for_a_lost_answer() -> None:
    """Also for one that was dropped; not for a claim whose answer may still come, nor for one that was answered."""
    assert applies(lambda job: transitions.adopt(job, "task_x", None, NOW)) == {"unknown"}
    for job in (UNKNOWN, DROPPED, RESUBMITTED):
        assert applied(transitions.adopt(job, "task_x", None, NOW)).task_id == "task_x"


def test_a_person_can_adopt_a_task_beside_any_newer_attempt() -> None:
    """A's answer was lost; whatever became of B, the task that a person finds for A is taken and asked for."""
    b_failed = applied(transitions.reject(CLAIMED_BY_B, "B", EndKind.FAILED, WHY, NOW))
    b_submitted = task_of(CLAIMED_BY_B, "B", "task_b")
    b_stored = applied(transitions.store(b_submitted, "task_b", VIDEO, NOW))
    for job in (CLAIMED_BY_B, b_failed, b_submitted, b_stored):
        adopted = applied(transitions.adopt(job, "task_x", None, NOW))
        assert tasks(adopted)[0] == "task_x"
        assert adopted.attempts[0].is_running


def test_a_task_is_adopted_for_the_attempt_that_it_was_created_for() -> None:
    """Of several lost answers the time of creation tells which; without it, the newest that is undecided."""
    both = lose(claim_as(RESUBMITTED, "B", claimed_at=LATER), "B")
    early, late = NOW + timedelta(minutes=1), LATER + timedelta(minutes=1)
    found = [transitions.adoptable(both, moment) for moment in (early, late, None)]
    assert [attempt.claim if attempt else None for attempt in found] == ["A", "B", "B"]


def test_refused_failed_and_unknown_jobs_can_be_resubmitted() -> None:
    """They become ready; stored and open jobs do not."""
    assert applies(transitions.resubmit) == {"refused", "failed", "unknown"}
    for state in (JobState.REFUSED, JobState.FAILED, JobState.UNKNOWN):
        assert resubmit(BY_STATE[state]).state is JobState.READY


def test_a_resubmit_decides_about_every_attempt() -> None:
    """B's answer is lost and A's late task has failed: one decision makes the job ready."""
    job = end_task(lose(LATE_TASK, "B"), "task_a")
    assert job.state is JobState.UNKNOWN
    assert resubmit(job).state is JobState.READY


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_resubmit_allows_exactly_one_attempt_beyond_the_limit(most: int) -> None:
    """However often a person resubmits, each time allows one more attempt, never two."""
    job = BY_STATE[JobState.FAILED]
    for paid in range(1, 5):
        assert job.paid_attempts == paid
        ready = resubmit(job)
        assert transitions.attempts_left(ready, most)
        claimed = claim_as(ready, f"B{paid}")
        assert transitions.attempts_left(claimed, most) == (paid + 1 < most)
        job = applied(transitions.reject(claimed, f"B{paid}", EndKind.FAILED, WHY, NOW))


def test_free_attempts_do_not_use_up_the_limit() -> None:
    """A job that was released nine times may still be paid twice."""
    job = READY
    for number in range(9):
        job = applied(transitions.release(claim_as(job, f"free {number}"), f"free {number}", NOW))
    job = end_task(task_of(claim_as(job, "A"), "A", "task_a"), "task_a", most=2)
    assert job.state is JobState.READY
    assert end_task(task_of(claim_as(job, "B"), "B", "task_b"), "task_b", most=2).state is JobState.FAILED


def test_unknown_and_submitted_jobs_can_be_dropped() -> None:
    """They fail with the reason and keep their attempts."""
    assert applies(lambda job: transitions.drop(job, WHY, NOW)) == {"unknown", "submitted"}
    job = applied(transitions.drop(SUBMITTED, WHY, NOW))
    assert (job.state, job.reason, job.task_id) == (JobState.FAILED, WHY, "task_a")


def test_a_drop_gives_up_every_attempt_but_a_claim() -> None:
    """The answer to a claim may still come within its lease, so that the job ends with it."""
    both = task_of(lose(LATE_TASK, "B"), "A", "task_c")
    dropped = applied(transitions.drop(both, WHY, NOW))
    assert (dropped.state, dropped.is_open) == (JobState.FAILED, False)
    beside_a_claim = applied(transitions.drop(LATE_TASK, WHY, NOW))
    assert (beside_a_claim.state, beside_a_claim.attempts[0].ended_as(EndKind.DROPPED)) == (JobState.CLAIMED, True)


def test_a_callback_names_the_task_of_its_own_attempt() -> None:
    """Attempt 1 gets the task, whatever state the job is in; a second callback changes nothing."""
    for job in (
        BY_CALLBACK,
        lose(BY_CALLBACK, "A"),
        claim_as(resubmit(lose(BY_CALLBACK, "A")), "B", delivery="callback"),
        applied(transitions.reject(BY_CALLBACK, "A", EndKind.FAILED, WHY, NOW)),
        applied(transitions.release(BY_CALLBACK, "A", NOW)),
    ):
        adopted = applied(transitions.adopt_from_callback(job, 1, "task_x", LATER))
        assert (adopted.state, tasks(adopted)[0]) == (JobState.SUBMITTED, "task_x")
        assert transitions.adopt_from_callback(adopted, 1, "task_y", LATER) is None
        assert transitions.adopt_from_callback(adopted, 2, "task_x", LATER) is None


@pytest.mark.parametrize("state", list(JobState))
def test_a_callback_for_a_polled_job_or_a_known_task_changes_nothing(state: JobState) -> None:
    """Only an attempt by callback that has no task awaits one."""
    assert transitions.adopt_from_callback(BY_STATE[state], 1, "task_x", LATER) is None
    submitted = task_of(BY_CALLBACK, "A", "task_a")
    assert transitions.awaiting_callback(submitted, 1) is None
    assert transitions.awaiting_callback(BY_CALLBACK, 1) == BY_CALLBACK.attempt
    assert transitions.awaiting_callback(BY_CALLBACK, 2) is None
