"""What runs and the provider change in a record: when each change applies, and what it leaves alone."""

from __future__ import annotations

from decimal import Decimal
from itertools import permutations

import pytest

from i2v.ledger import transitions
from i2v.ledger.attempt import EndKind
from i2v.ledger.job import JobRecord, JobState
from tests.support.job_records import (
    BY_STATE,
    CLAIMED,
    CLAIMED_BY_B,
    DROPPED,
    IMAGE,
    LATE_TASK,
    LATER,
    NOW,
    READY,
    RELEASED,
    RESUBMITTED,
    SUBMITTED,
    UNKNOWN,
    VIDEO,
    WHY,
    applied,
    applies,
    end_task,
    lose,
    new_attempt,
    task_of,
)

FINAL = [EndKind.REFUSED, EndKind.FAILED]


def tasks(record: JobRecord) -> list[str | None]:
    """Return the task of each attempt."""
    return [attempt.task_id for attempt in record.attempts]


def test_only_a_ready_job_can_be_claimed() -> None:
    """In any other state the job is claimed already or has ended."""
    assert applies(lambda job: transitions.claim(job, IMAGE, new_attempt(job, "B"))) == {"ready"}


def test_a_claim_is_for_the_next_attempt_only() -> None:
    """Its marker and its callback's signature name the attempt: another number means that the record has changed."""
    for number in (1, 3):
        attempt = new_attempt(RESUBMITTED, "B").model_copy(update={"number": number})
        assert transitions.claim(RESUBMITTED, IMAGE, attempt) is None


def test_the_record_takes_the_claimants_image() -> None:
    """The provider fetches that one."""
    other = IMAGE.model_copy(update={"name": "b.jpg", "etag": "f"})
    assert applied(transitions.claim(READY, other, new_attempt(READY, "A"))).image == other


def test_the_record_keeps_the_columns_of_the_newest_claim_that_has_some() -> None:
    """They replace those of an earlier claim; a run without columns, such as reconcile, erases none."""
    had = READY.model_copy(update={"extra": {"sku": "A", "campaign": "spring"}})
    attempt = new_attempt(had, "A")
    assert applied(transitions.claim(had, IMAGE, attempt, {"sku": "B"})).extra == {"sku": "B"}
    assert applied(transitions.claim(had, IMAGE, attempt, {})).extra == had.extra


def test_a_claimant_that_was_not_charged_releases_the_job() -> None:
    """Claimed, or marked lost in the meantime: the job is ready and the attempt has ended unpaid."""
    assert applies(lambda job: transitions.release(job, "A", NOW)) == {"claimed", "unknown"}
    for job in (CLAIMED, UNKNOWN):
        back = applied(transitions.release(job, "A", LATER))
        assert (back.state, [one.ended_as(EndKind.UNPAID) for one in back.attempts]) == (JobState.READY, [True])


def test_only_the_token_of_a_claim_releases_it() -> None:
    """Another token changes nothing."""
    assert all(transitions.release(job, "B", NOW) is None for job in BY_STATE.values())


def test_a_late_release_leaves_a_newer_claim_alone() -> None:
    """A learns late that it was not charged; B has claimed the job and keeps it."""
    back = applied(transitions.release(CLAIMED_BY_B, "A", NOW))
    assert (back.state, back.attempt_for_claim("B")) == (JobState.CLAIMED, CLAIMED_BY_B.attempt_for_claim("B"))


@pytest.mark.parametrize("state", [JobState.CLAIMED, JobState.UNKNOWN])
def test_a_task_id_makes_the_job_submitted(state: JobState) -> None:
    """The claimant's answer counts even after its lease expired."""
    job = applied(transitions.record_task(BY_STATE[state], "A", "task_a", LATER))
    assert (job.state, job.task_id, job.reason) == (JobState.SUBMITTED, "task_a", None)
    assert (job.attempts[0].submitted_at, job.attempts[0].reopened) == (LATER, state is JobState.UNKNOWN)


ENDED_WITHOUT_TASK = {
    "released": RELEASED,
    "refused": applied(transitions.reject(CLAIMED, "A", EndKind.REFUSED, WHY, NOW)),
    "failed": applied(transitions.reject(CLAIMED, "A", EndKind.FAILED, WHY, NOW)),
    "resubmitted": RESUBMITTED,
    "dropped": DROPPED,
}


@pytest.mark.parametrize("job", ENDED_WITHOUT_TASK.values(), ids=ENDED_WITHOUT_TASK.keys())
def test_a_late_task_id_reopens_its_attempt(job: JobRecord) -> None:
    """However the attempt ended: a task that exists is asked for, and the attempt counts as paid again."""
    late = task_of(job, "A", "task_a")
    (attempt,) = late.attempts
    assert (late.state, late.task_id, attempt.end) == (JobState.SUBMITTED, "task_a", None)
    assert (attempt.reopened, attempt.resubmitted, attempt.cost_usd) == (True, False, attempt.price_usd)


def test_a_late_task_id_leaves_a_newer_claim_alone() -> None:
    """Both are in the record: A's task makes the job submitted, and B's answer is still awaited."""
    assert (LATE_TASK.state, tasks(LATE_TASK)) == (JobState.SUBMITTED, ["task_a", None])
    assert LATE_TASK.attempt_for_claim("B") == CLAIMED_BY_B.attempt_for_claim("B")
    both = task_of(LATE_TASK, "B", "task_b")
    assert (both.state, tasks(both)) == (JobState.SUBMITTED, ["task_a", "task_b"])


def test_a_third_attempt_is_not_claimed_around_an_earlier_task() -> None:
    """A's task arrives after B's claim, and B fails or is lost: A's task is asked for before anything is paid."""
    for job in (
        lose(LATE_TASK, "B"),
        applied(transitions.release(LATE_TASK, "B", NOW)),
        *(applied(transitions.reject(LATE_TASK, "B", kind, WHY, NOW)) for kind in FINAL),
        end_task(task_of(LATE_TASK, "B", "task_b"), "task_b", most=9),
    ):
        assert (job.state, job.task_id) == (JobState.SUBMITTED, "task_a")
        assert transitions.claim(job, IMAGE, new_attempt(job, "C")) is None


@pytest.mark.parametrize("state", [state for state in JobState if BY_STATE[state].task_id and state != "forgotten"])
def test_a_second_task_of_a_claim_is_an_attempt_of_its_own(state: JobState) -> None:
    """Each task is asked for until it ends, also one that arrives after a person adopted another."""
    job = task_of(BY_STATE[state], "A", "task_b")
    first, second = job.attempts
    assert first == BY_STATE[state].attempts[0]
    assert (second.number, second.task_id, second.is_running) == (2, "task_b", True)
    assert second.claim != first.claim
    assert second.created_at is None, "the other task's time says nothing about this one"
    assert job.state is (JobState.STORED if state is JobState.STORED else JobState.SUBMITTED)


def test_recording_the_same_task_id_again_changes_nothing() -> None:
    """It is in the record once, whichever claim it is said to be of."""
    assert transitions.record_task(SUBMITTED, "A", "task_a", LATER) is None
    assert transitions.record_task(LATE_TASK, "B", "task_a", LATER) is None
    twice = task_of(SUBMITTED, "A", "task_b")
    assert transitions.record_task(twice, "A", "task_b", LATER) is None


def test_a_task_of_an_unknown_claim_is_not_recorded() -> None:
    """The caller must know that: it is no change."""
    assert transitions.record_task(READY, "A", "task_a", NOW) is None


def test_only_a_claim_without_an_answer_is_lost() -> None:
    """A's lost answer says nothing about B's claim."""
    assert applies(lambda job: transitions.mark_lost(job, "A", WHY, NOW)) == {"claimed"}
    assert (UNKNOWN.state, UNKNOWN.reason) == (JobState.UNKNOWN, WHY)
    assert transitions.mark_lost(CLAIMED, "B", WHY, NOW) is None
    assert transitions.mark_lost(CLAIMED_BY_B, "A", WHY, NOW) is None


def test_a_refused_submit_is_free() -> None:
    """After a 400 the job is refused, and the attempt stays at no cost."""
    job = applied(transitions.reject(CLAIMED, "A", EndKind.REFUSED, WHY, NOW))
    assert (job.state, job.reason, job.cost_usd, len(job.attempts)) == (JobState.REFUSED, WHY, Decimal(0), 1)


@pytest.mark.parametrize("kind", FINAL)
@pytest.mark.parametrize("job", [CLAIMED, UNKNOWN], ids=["claimed", "unknown"])
def test_a_rejection_ends_the_attempt(job: JobRecord, kind: EndKind) -> None:
    """Also one that comes after the lease."""
    ended = applied(transitions.reject(job, "A", kind, WHY, LATER))
    assert ended.state.value == kind.value
    assert ended.attempt
    assert ended.attempt.end
    assert (ended.attempt.end.reason, ended.attempt.end.at, ended.attempt.end.retry) == (WHY, LATER, False)


@pytest.mark.parametrize("kind", FINAL)
def test_a_late_rejection_ends_no_task_and_no_other_claim(kind: EndKind) -> None:
    """A person adopted a task for A's lost answer, or B has the job: A's late rejection leaves both alone."""
    adopted = applied(transitions.adopt(UNKNOWN, "task_a", None, NOW))
    assert transitions.reject(adopted, "A", kind, WHY, NOW) is None
    late = applied(transitions.reject(CLAIMED_BY_B, "A", kind, WHY, NOW))
    assert (late.state, late.attempt_for_claim("B")) == (JobState.CLAIMED, CLAIMED_BY_B.attempt_for_claim("B"))
    assert transitions.reject(CLAIMED_BY_B, "C", kind, WHY, NOW) is None


@pytest.mark.parametrize("kind", FINAL)
def test_a_failed_task_ends_its_attempt(kind: EndKind) -> None:
    """It stays in the record with its task and its reason."""
    assert applies(lambda job: transitions.end_task(job, "task_a", kind, WHY, NOW)) == {"submitted"}
    job = applied(transitions.end_task(SUBMITTED, "task_a", kind, WHY, LATER))
    assert (job.state.value, job.reason, job.task_id) == (kind.value, WHY, "task_a")
    assert job.attempts[0].end
    assert job.attempts[0].end.at == LATER


def test_the_end_of_one_task_is_not_the_end_of_another() -> None:
    """Of two tasks each ends by itself, in any order; a task that the record does not have ends nothing."""
    both = task_of(LATE_TASK, "B", "task_b")
    assert transitions.end_task(both, "task_x", EndKind.FAILED, WHY, NOW) is None
    assert transitions.store(both, "task_x", VIDEO, NOW) is None
    for first, second in permutations(("task_a", "task_b")):
        one = end_task(both, first)
        assert (one.state, one.task_id) == (JobState.SUBMITTED, second)
        assert end_task(one, second).state is JobState.FAILED
        assert applied(transitions.store(one, second, VIDEO, NOW)).state is JobState.STORED


def test_a_stored_job_has_its_video() -> None:
    """Only a running task can be stored; the attempt keeps the video and the provider's time."""
    assert applies(lambda job: transitions.store(job, "task_a", VIDEO, NOW)) == {"submitted"}
    job = applied(transitions.store(SUBMITTED, "task_a", VIDEO, LATER, NOW))
    assert (job.state, job.video, job.task_id, job.reason) == (JobState.STORED, VIDEO, "task_a", None)
    assert job.attempts[0].end
    assert (job.attempts[0].end.at, job.attempts[0].created_at) == (LATER, NOW)
