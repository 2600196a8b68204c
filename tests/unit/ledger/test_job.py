"""A job's state is computed from its attempts, and so is what it cost."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from itertools import permutations

import pytest

from i2v.ledger import transitions
from i2v.ledger.attempt import AttemptEnd, EndKind, Reason
from i2v.ledger.job import JobRecord, JobState, decide
from tests.support.job_records import (
    BY_STATE,
    CLAIMED,
    CLAIMED_BY_B,
    DROPPED,
    IMAGE,
    LATE_TASK,
    LATER,
    NOW,
    PRICE,
    READY,
    RELEASED,
    RESUBMITTED,
    SUBMITTED,
    UNKNOWN,
    VIDEO,
    WHY,
    applied,
    claim_as,
    end_task,
    explore,
    new_attempt,
    task_of,
)

NOTHING = Decimal(0)
STATES = list(JobState)
REJECTED = applied(transitions.reject(CLAIMED, "A", EndKind.REFUSED, WHY, NOW))
FAILED_ANSWER = applied(transitions.reject(CLAIMED, "A", EndKind.FAILED, WHY, NOW))
DROPPED_TASK = applied(transitions.drop(SUBMITTED, WHY, NOW))
FAILED_FOR_NOW = end_task(SUBMITTED, "task_a", most=2)


@pytest.mark.parametrize("state", STATES)
def test_one_attempt_gives_each_state(state: JobState) -> None:
    """A record has no state of its own: its attempts give it one."""
    assert BY_STATE[state].state is state
    assert decide(BY_STATE[state].attempts)[0] is state
    assert "state" not in JobRecord.model_fields


def test_a_stored_video_decides_before_all_else() -> None:
    """A job with a video is stored, whatever becomes of its other attempts."""
    both = task_of(LATE_TASK, "B", "task_b")
    stored = applied(transitions.store(both, "task_a", VIDEO, NOW))
    assert stored.attempt_numbered(2) is not None
    assert (stored.state, stored.task_id, stored.is_open) == (JobState.STORED, "task_a", True)
    assert end_task(stored, "task_b").state is JobState.STORED


def test_the_first_of_two_videos_is_the_jobs() -> None:
    """A second video is kept in its own attempt and does not replace the first."""
    both = task_of(LATE_TASK, "B", "task_b")
    other = VIDEO.model_copy(update={"sha256": "1" * 64})
    for first, second in permutations(("task_a", "task_b")):
        one = applied(transitions.store(both, first, VIDEO, NOW))
        two = applied(transitions.store(one, second, other, LATER))
        assert (two.video, two.task_id) == (VIDEO, first)
        assert {attempt.end.video for attempt in two.attempts if attempt.end} == {VIDEO, other}


def test_a_running_task_of_any_attempt_makes_the_job_submitted() -> None:
    """A's paid task is asked for although B's newer claim has no answer yet."""
    assert (LATE_TASK.state, LATE_TASK.task_id) == (JobState.SUBMITTED, "task_a")
    lost = applied(transitions.mark_lost(LATE_TASK, "B", WHY, NOW))
    assert (lost.state, lost.task_id) == (JobState.SUBMITTED, "task_a")
    assert end_task(lost, "task_a").state is JobState.UNKNOWN, "B's answer is still lost"
    assert end_task(LATE_TASK, "task_a").state is JobState.CLAIMED, "B's answer is still awaited"


def test_a_lost_answer_counts_until_a_person_decides() -> None:
    """It makes the job unknown, and ready or failed once a person resubmitted or dropped it."""
    assert [job.state for job in (UNKNOWN, RESUBMITTED, DROPPED)] == [JobState.UNKNOWN, JobState.READY, JobState.FAILED]
    assert CLAIMED_BY_B.state is JobState.CLAIMED


def test_a_released_attempt_makes_the_job_ready() -> None:
    """The attempt stays in the record with its number."""
    assert (RELEASED.state, [one.number for one in RELEASED.attempts]) == (JobState.READY, [1])
    assert claim_as(RELEASED, "B").attempts[-1].number == 2


def test_a_transient_failure_makes_the_job_ready() -> None:
    """As long as attempts are left; the reason stays visible."""
    assert (FAILED_FOR_NOW.state, FAILED_FOR_NOW.reason) == (JobState.READY, WHY)
    assert end_task(SUBMITTED, "task_a", most=1).state is JobState.FAILED


def test_the_newest_end_decides() -> None:
    """If A's late task fails for good after B's did, A's reason is the job's."""
    other = Reason(code="other", message="of B")
    both = task_of(LATE_TASK, "B", "task_b")
    one = applied(transitions.end_task(both, "task_b", EndKind.REFUSED, other, NOW))
    two = end_task(one, "task_a")
    assert (two.state, two.reason) == (JobState.FAILED, WHY)


def test_the_order_of_writes_decides_and_not_the_clocks() -> None:
    """Hosts' clocks differ: an end that was written later is newer, whatever its time."""
    early = applied(transitions.end_task(LATE_TASK, "task_a", EndKind.REFUSED, WHY, LATER))
    late = applied(transitions.reject(early, "B", EndKind.FAILED, WHY, NOW - timedelta(days=1)))
    assert late.state is JobState.FAILED


def test_an_answer_that_comes_late_is_no_newer_than_a_later_attempt() -> None:
    """B failed for good after A's lost answer: that A was not charged, as it turns out, does not make the job ready."""
    failed = applied(transitions.reject(CLAIMED_BY_B, "B", EndKind.FAILED, WHY, NOW))
    for late in (
        transitions.release(failed, "A", LATER),
        transitions.reject(failed, "A", EndKind.REFUSED, WHY, LATER),
        transitions.reject(failed, "A", EndKind.FAILED, WHY, LATER),
    ):
        assert applied(late).state is JobState.FAILED


def test_the_reason_is_that_of_the_attempt_that_decides() -> None:
    """A resubmitted job has none, since the next attempt is not explained by the last."""
    assert [job.reason for job in (READY, CLAIMED, UNKNOWN, RESUBMITTED, BY_STATE[JobState.FAILED])] == [
        None,
        None,
        WHY,
        None,
        WHY,
    ]


@pytest.mark.parametrize(
    ("job", "cost", "spent", "at_risk"),
    [
        (CLAIMED, 1, 0, 1),
        (UNKNOWN, 1, 0, 1),
        (SUBMITTED, 1, 1, 0),
        (BY_STATE[JobState.STORED], 1, 1, 0),
        (BY_STATE[JobState.REFUSED], 1, 1, 1),
        (BY_STATE[JobState.FAILED], 1, 1, 1),
        (FAILED_ANSWER, 1, 1, 1),
        (DROPPED, 1, 0, 1),
        (DROPPED_TASK, 1, 1, 1),
        (RELEASED, 0, 0, 0),
        (REJECTED, 0, 0, 0),
        (RESUBMITTED, 1, 0, 1),
    ],
    ids=[
        "claimed",
        "lost",
        "submitted",
        "stored",
        "task refused",
        "task failed",
        "failed answer",
        "dropped",
        "task dropped",
        "released",
        "submit refused",
        "resubmitted",
    ],
)
def test_what_an_attempt_costs(job: JobRecord, cost: int, spent: int, at_risk: int) -> None:
    """It counts in full unless it was surely not charged; without a video it is at risk."""
    (attempt,) = job.attempts
    assert (attempt.cost_usd, attempt.charges.charged, attempt.at_risk_usd) == (
        cost * PRICE,
        spent * PRICE,
        at_risk * PRICE,
    )
    assert (job.cost_usd, job.paid_attempts) == (cost * PRICE, cost)


def test_a_job_costs_what_all_its_attempts_cost() -> None:
    """Also lost ones, and attempts that a later one replaced."""
    assert LATE_TASK.cost_usd == 2 * PRICE
    assert applied(transitions.release(LATE_TASK, "B", NOW)).cost_usd == PRICE


def test_a_job_is_open_until_each_attempt_is_settled() -> None:
    """A task without an end, a claim without an answer, or a lost answer that no person has decided about."""
    open_states = {state for state in STATES if BY_STATE[state].is_open}
    assert open_states == {JobState.CLAIMED, JobState.SUBMITTED, JobState.UNKNOWN}
    assert not RESUBMITTED.is_open
    assert task_of(DROPPED, "A", "task_a").is_open, "its task id arrived after all"


def test_every_record_is_open_while_money_is_in_flight() -> None:
    """In every record that can come about the state shows what is open; no other state hides a running task."""
    steps = [READY, *(step.new for step in explore(2))]
    for job in steps:
        running = any(one.is_running for one in job.attempts)
        assert job.state in {JobState.SUBMITTED, JobState.STORED} if running else job.state is not JobState.SUBMITTED
        if job.state in {JobState.CLAIMED, JobState.SUBMITTED, JobState.UNKNOWN}:
            assert job.is_open
        elif job.state is not JobState.STORED:
            assert not job.is_open


def test_earlier_verdicts_are_possible_after_a_second_attempt_or_a_reopened_one() -> None:
    """Only then is it worth a request to delete them."""
    jobs = (READY, CLAIMED, SUBMITTED, CLAIMED_BY_B, task_of(UNKNOWN, "A", "task_a"))
    assert [job.may_have_verdicts for job in jobs] == [False, False, False, True, True]


def test_attempts_are_found_by_claim_task_and_number() -> None:
    """What no attempt has is not found."""
    first, second = LATE_TASK.attempts
    assert (LATE_TASK.attempt_for_claim("B"), LATE_TASK.attempt_for_claim("C")) == (second, None)
    assert (LATE_TASK.attempt_for_task("task_a"), LATE_TASK.attempt_for_task("task_b")) == (first, None)
    assert (LATE_TASK.attempt_numbered(1), LATE_TASK.attempt_numbered(3)) == (first, None)
    assert LATE_TASK.next_number == 3


@pytest.mark.parametrize("state", STATES)
def test_a_record_survives_json(state: JobState) -> None:
    """JSON keeps everything: money to the last digit, times with their zone."""
    assert JobRecord.model_validate_json(BY_STATE[state].model_dump_json()) == BY_STATE[state]


def test_the_stored_state_is_for_people_only() -> None:
    """JSON names the state, so that people and queries see it; reading computes it again."""
    page = BY_STATE[JobState.FAILED].model_dump(mode="json")
    assert page["state"] == "failed"
    assert JobRecord.model_validate({**page, "state": "ready"}).state is JobState.FAILED


def test_a_claim_records_what_a_person_needs() -> None:
    """Who claimed the job when, for which price and which day."""
    attempt = new_attempt(READY, "A", run_id="run-1", delivery="callback")
    claimed = applied(transitions.claim(READY, IMAGE, attempt))
    assert claimed.attempts == (attempt,)
    assert (attempt.run_id, attempt.price_usd, attempt.day, attempt.delivery) == (
        "run-1",
        PRICE,
        "2026-11-22",
        "callback",
    )
    assert attempt.cost_usd == PRICE
    assert attempt.model_copy(update={"end": AttemptEnd(kind=EndKind.UNPAID, at=NOW, revision=1)}).cost_usd == NOTHING
