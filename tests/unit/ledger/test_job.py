"""The state machine of a job: the diagram's transitions are possible, and no others."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from itertools import product
from typing import Any

import pytest

from i2v.ledger import transitions
from i2v.ledger.job import DROPPED_CODE, Attempt, JobImage, JobRecord, JobState, Reason, StoredVideo
from i2v.ledger.transitions import validate_change
from i2v.media.images import ImageFacts
from i2v.request import Request
from i2v.s3_uri import S3Uri

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LATER = datetime(2026, 11, 22, 13, tzinfo=UTC)
PRICE = Decimal("0.192")
WHY = Reason(code="why", message="because")
FACTS = ImageFacts(sha256="5" * 64, size=9, format="JPEG", width=640, height=480)
IMAGE = JobImage(label="s3://b-1/images/a.jpg", name="a.jpg", at=S3Uri("b-1", "images/a.jpg"), etag="e", facts=FACTS)
VIDEO = StoredVideo(
    uri=S3Uri("b-1", "videos/a.jpg/x.mp4"),
    poster=S3Uri("b-1", "videos/a.jpg/x.jpg"),
    manifest=S3Uri("b-1", "videos/a.jpg/x.json"),
    sha256="0" * 64,
    size=1,
    width=1344,
    height=768,
    seconds=6,
)
DIAGRAM = {
    "ready": {"claimed", "submitted"},
    "claimed": {"submitted", "ready", "refused", "failed", "unknown"},
    "submitted": {"stored", "refused", "failed", "ready"},
    "unknown": {"submitted", "ready", "failed"},
    "refused": {"ready"},
    "failed": {"ready", "submitted"},
    "stored": set[str](),
}
"""The diagram in `i2v.ledger.job`."""
STATES = list(JobState)
PAIRS = list(product(STATES, STATES))


def applied(record: JobRecord | None) -> JobRecord:
    """Return the record of a change that applies."""
    assert record is not None
    return record


def claim_as(record: JobRecord, token: str) -> JobRecord:
    """Return the job claimed with this token."""
    return applied(
        transitions.claim(record, token=token, run_id=f"run of {token}", image=IMAGE, price_usd=PRICE, now=NOW)
    )


READY = JobRecord(key="a" * 64, image=IMAGE, request=Request(prompt="zoom"), created_at=NOW, updated_at=NOW)
CLAIMED = claim_as(READY, "A")
SUBMITTED = applied(transitions.record_task(CLAIMED, "A", "task_a", NOW))
UNKNOWN = applied(transitions.mark_unknown(CLAIMED, "A", WHY))
BY_STATE = {
    JobState.READY: READY,
    JobState.CLAIMED: CLAIMED,
    JobState.SUBMITTED: SUBMITTED,
    JobState.STORED: applied(transitions.store(SUBMITTED, "task_a", VIDEO, NOW)),
    JobState.REFUSED: applied(transitions.end_task(SUBMITTED, "task_a", JobState.REFUSED, WHY, NOW)),
    JobState.FAILED: applied(transitions.end_task(SUBMITTED, "task_a", JobState.FAILED, WHY, NOW)),
    JobState.UNKNOWN: UNKNOWN,
}
"""A job in each state, after attempt 1 by claimant A."""
RESUBMITTED = applied(transitions.resubmit(UNKNOWN, 2))
"""A's answer was lost, and a person resubmitted the job."""
CLAIMED_BY_B = claim_as(RESUBMITTED, "B")
"""B claimed the resubmitted job; A's answer has not arrived."""
DROPPED = applied(transitions.drop(UNKNOWN, WHY, NOW))
"""A's answer was lost, and a person dropped the job."""
DROPPED_REASON = Reason(code=DROPPED_CODE, message="dropped")


def applies(change: Any) -> set[str]:
    """Return the states in which a change applies."""
    return {str(state) for state, record in BY_STATE.items() if change(record) is not None}


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=str)
def test_transition_follows_the_diagram(old: JobState, new: JobState) -> None:
    """Of the 49 pairs of states, `transition` allows exactly those in the diagram."""
    if new in DIAGRAM[old]:
        assert BY_STATE[old].transition(new).state is new
        return
    with pytest.raises(ValueError, match=f"{old} cannot become {new}"):
        BY_STATE[old].transition(new)


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=str)
def test_validate_change_follows_the_diagram(old: JobState, new: JobState) -> None:
    """An illegal change of state is rejected before it is written, whatever made the record."""
    forced = BY_STATE[old].model_copy(update={"state": new})
    if new in DIAGRAM[old] | {old}:
        validate_change(BY_STATE[old], forced)
        return
    with pytest.raises(ValueError, match=f"{old} cannot become {new}"):
        validate_change(BY_STATE[old], forced)


@pytest.mark.parametrize(
    "changes",
    [
        {"key": "b" * 64},
        {"request": Request(prompt="another")},
        {"request": Request(prompt="zoom", take=2)},
        {"request": Request(prompt="zoom", mode="pro")},
    ],
    ids=["key", "prompt", "take", "mode"],
)
def test_key_and_request_never_change(changes: dict[str, Any]) -> None:
    """A change of the key or the request is rejected."""
    with pytest.raises(ValueError, match="identity"):
        validate_change(READY, READY.model_copy(update=changes))


def test_a_change_that_loses_a_task_id_is_rejected() -> None:
    """No change may lose a task id: not with its attempt, not from it, not from the additional ones."""
    twice = applied(transitions.record_task(SUBMITTED, "A", "task_b", NOW))
    first = twice.attempts[0]
    for less in (
        (),
        (first.model_copy(update={"task_id": None}),),
        (first.model_copy(update={"task_id": "task_c"}),),
        (first.model_copy(update={"other_task_ids": ()}),),
        (first.model_copy(update={"number": 2}),),
    ):
        with pytest.raises(ValueError, match="would be lost"):
            validate_change(twice, twice.model_copy(update={"attempts": less}))


def test_only_a_ready_job_can_be_claimed() -> None:
    """In any other state the job is claimed already or has ended."""
    assert applies(
        lambda job: transitions.claim(job, token="B", run_id="r", image=IMAGE, price_usd=PRICE, now=NOW)
    ) == {"ready"}


def test_a_claim_records_run_time_and_price() -> None:
    """The attempt has what a person needs to find out what happened to it."""
    attempt = CLAIMED.attempt
    assert attempt == Attempt(number=1, claim="A", run_id="run of A", claimed_at=NOW, price_usd=PRICE)
    assert (CLAIMED.state, CLAIMED.last_attempt, CLAIMED.reason) == (JobState.CLAIMED, 1, None)


def test_an_attempt_number_is_never_reused() -> None:
    """A released attempt keeps its number, so that a late answer to it matches no other attempt."""
    again = claim_as(applied(transitions.release(CLAIMED, "A")), "B")
    assert [attempt.number for attempt in again.attempts] == [2]


def test_a_claimant_that_was_not_charged_releases_the_job() -> None:
    """Claimed, or marked unknown in the meantime: the job is ready and the attempt is removed."""
    assert applies(lambda job: transitions.release(job, "A")) == {"claimed", "unknown"}
    for job in (CLAIMED, UNKNOWN):
        back = applied(transitions.release(job, "A"))
        assert (back.state, back.attempts, back.reason) == (JobState.READY, (), None)


def test_only_the_token_of_a_claim_releases_it() -> None:
    """Another token changes nothing."""
    assert all(transitions.release(job, "B") is None for job in BY_STATE.values())


def test_a_late_release_leaves_a_newer_claim_alone() -> None:
    """A learns late that it was not charged; B has claimed the job and keeps it."""
    back = applied(transitions.release(CLAIMED_BY_B, "A"))
    assert (back.state, [attempt.claim for attempt in back.attempts]) == (JobState.CLAIMED, ["B"])


@pytest.mark.parametrize("state", [JobState.CLAIMED, JobState.UNKNOWN])
def test_a_task_id_makes_the_job_submitted(state: JobState) -> None:
    """The claimant's answer counts even after its lease expired."""
    job = applied(transitions.record_task(BY_STATE[state], "A", "task_a", LATER))
    assert (job.state, job.task_id, job.reason) == (JobState.SUBMITTED, "task_a", None)
    assert job.attempts[0].submitted_at == LATER


@pytest.mark.parametrize("job", [RESUBMITTED, DROPPED], ids=["resubmitted", "dropped"])
def test_a_task_id_reopens_a_resubmitted_or_dropped_job(job: JobRecord) -> None:
    """A person resubmitted or dropped the job and it was not charged again: the paid task is resumed."""
    job = applied(transitions.record_task(job, "A", "task_a", NOW))
    assert (job.state, job.task_id) == (JobState.SUBMITTED, "task_a")


def test_a_late_task_id_is_kept_beside_a_newer_claim() -> None:
    """B has claimed the job: A's task id is kept in A's attempt, and B's claim stays."""
    job = applied(transitions.record_task(CLAIMED_BY_B, "A", "task_a", NOW))
    assert (job.state, [attempt.task_id for attempt in job.attempts]) == (JobState.CLAIMED, ["task_a", None])
    both = applied(transitions.record_task(job, "B", "task_b", NOW))
    assert (both.state, [attempt.task_id for attempt in both.attempts]) == (JobState.SUBMITTED, ["task_a", "task_b"])


@pytest.mark.parametrize("state", STATES)
def test_a_task_id_is_recorded_in_every_state(state: JobState) -> None:
    """Whatever the state, a task id for one of the record's attempts is in the record afterwards."""
    job = transitions.record_task(BY_STATE[state], "A", "task_late", NOW)
    if state is JobState.READY:
        assert job is None
        return
    assert "task_late" in applied(job).attempts[0].task_ids
    validate_change(BY_STATE[state], applied(job))


@pytest.mark.parametrize("state", STATES)
def test_a_second_task_id_is_kept_beside_the_first(state: JobState) -> None:
    """If a task id arrives after a person adopted another, both are kept, the first leads, and the state stays."""
    if BY_STATE[state].task_id is None:
        return
    job = applied(transitions.record_task(BY_STATE[state], "A", "task_b", NOW))
    assert (job.state, job.task_id, job.attempts[0].other_task_ids) == (state, "task_a", ("task_b",))
    assert transitions.record_task(job, "A", "task_b", NOW) is None


def test_recording_the_same_task_id_again_changes_nothing() -> None:
    """The same task id twice is no change."""
    assert transitions.record_task(SUBMITTED, "A", "task_a", LATER) is None


def test_only_a_claimed_job_becomes_unknown() -> None:
    """Only a claim without an answer is marked unknown."""
    assert applies(lambda job: transitions.mark_unknown(job, "A", WHY)) == {"claimed"}
    assert (UNKNOWN.state, UNKNOWN.reason) == (JobState.UNKNOWN, WHY)
    assert transitions.mark_unknown(CLAIMED, "B", WHY) is None


def test_a_lost_answer_to_an_old_claim_leaves_the_new_one_alone() -> None:
    """A's lost answer says nothing about B's claim."""
    assert transitions.mark_unknown(CLAIMED_BY_B, "A", WHY) is None


def test_a_refused_submit_removes_the_attempt() -> None:
    """After a 400 the job is refused and has no attempt."""
    job = applied(transitions.reject(CLAIMED, "A", JobState.REFUSED, WHY, NOW))
    assert (job.state, job.attempts, job.reason) == (JobState.REFUSED, (), WHY)


@pytest.mark.parametrize("job", [CLAIMED, UNKNOWN], ids=["claimed", "unknown"])
def test_a_fail_code_in_the_answer_keeps_the_attempt(job: JobRecord) -> None:
    """A fail code instead of a task id may be billed: the job fails and the attempt stays."""
    failed = applied(transitions.reject(job, "A", JobState.FAILED, WHY, NOW))
    assert failed.state is JobState.FAILED
    assert failed.attempt is not None
    assert (failed.attempt.fail, failed.attempt.ended_at) == (WHY, NOW)


@pytest.mark.parametrize("state", [JobState.REFUSED, JobState.FAILED])
def test_a_late_rejection_never_ends_an_adopted_task(state: JobState) -> None:
    """A person adopted a task for A's lost answer: A's own late rejection neither ends nor loses it."""
    adopted = applied(transitions.adopt(UNKNOWN, "task_a", NOW))
    assert transitions.reject(adopted, "A", state, WHY, NOW) is None


@pytest.mark.parametrize("state", [JobState.REFUSED, JobState.FAILED])
def test_only_the_latest_claim_can_be_rejected(state: JobState) -> None:
    """A late rejection of A's claim, or of an unknown one, leaves B's claim alone."""
    assert transitions.reject(CLAIMED_BY_B, "A", state, WHY, NOW) is None
    assert transitions.reject(CLAIMED_BY_B, "C", state, WHY, NOW) is None


@pytest.mark.parametrize("state", [JobState.REFUSED, JobState.FAILED, JobState.READY])
def test_a_failed_task_ends_a_submitted_job(state: JobState) -> None:
    """The job is refused, failed or ready for another attempt; the failed attempt stays with its reason."""
    assert applies(lambda job: transitions.end_task(job, "task_a", state, WHY, NOW)) == {"submitted"}
    job = applied(transitions.end_task(SUBMITTED, "task_a", state, WHY, LATER))
    assert (job.state, job.reason) == (state, WHY)
    assert job.attempt is not None
    assert (job.attempt.task_id, job.attempt.fail, job.attempt.ended_at) == ("task_a", WHY, LATER)


def test_the_end_of_another_task_does_not_end_the_job() -> None:
    """The status of an earlier attempt's task, or of an unknown task, ends nothing."""
    both = applied(
        transitions.record_task(applied(transitions.record_task(CLAIMED_BY_B, "A", "task_a", NOW)), "B", "task_b", NOW)
    )
    for job, task in ((SUBMITTED, "task_x"), (both, "task_a")):
        assert transitions.end_task(job, task, JobState.READY, WHY, NOW) is None
        assert transitions.store(job, task, VIDEO, NOW) is None


def test_a_stored_job_has_its_video() -> None:
    """Only a submitted job can be stored; it keeps the video, the task and the time."""
    assert applies(lambda job: transitions.store(job, "task_a", VIDEO, NOW)) == {"submitted"}
    job = applied(transitions.store(SUBMITTED, "task_a", VIDEO, LATER))
    assert (job.state, job.video, job.task_id, job.reason) == (JobState.STORED, VIDEO, "task_a", None)
    assert job.attempts[0].ended_at == LATER


def test_only_an_unknown_job_adopts_a_task() -> None:
    """A person can give a task to a job whose answer was lost, and to no other."""
    assert applies(lambda job: transitions.adopt(job, "task_x", NOW)) == {"unknown"}
    assert applied(transitions.adopt(UNKNOWN, "task_x", NOW)).task_id == "task_x"


def test_refused_failed_and_unknown_jobs_can_be_resubmitted() -> None:
    """They become ready; stored and open jobs do not."""
    assert applies(lambda job: transitions.resubmit(job, 2)) == {"refused", "failed", "unknown"}


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_resubmit_allows_exactly_one_attempt_beyond_the_limit(most: int) -> None:
    """However often a person resubmits, each time allows one more attempt, never two."""
    job = BY_STATE[JobState.FAILED]
    for paid in range(1, 5):
        assert len(job.attempts) == paid
        ready = applied(transitions.resubmit(job, most))
        assert transitions.attempts_left(ready, most)
        claimed = claim_as(ready, f"B{paid}")
        assert transitions.attempts_left(claimed, most) == (paid + 1 < most)
        job = applied(transitions.reject(claimed, f"B{paid}", JobState.FAILED, WHY, NOW))


def test_unknown_and_submitted_jobs_can_be_dropped() -> None:
    """They fail with the reason and keep their attempts."""
    assert applies(lambda job: transitions.drop(job, WHY, NOW)) == {"unknown", "submitted"}
    job = applied(transitions.drop(SUBMITTED, WHY, NOW))
    assert (job.state, job.reason, job.task_id) == (JobState.FAILED, WHY, "task_a")


def test_every_transition_passes_validation() -> None:
    """No function of `transitions` makes a change that `validate_change` rejects."""
    late = [RESUBMITTED, CLAIMED_BY_B, DROPPED, applied(transitions.record_task(CLAIMED_BY_B, "A", "task_a", NOW))]
    changes: list[Any] = [
        lambda job: transitions.claim(job, token="C", run_id="r", image=IMAGE, price_usd=PRICE, now=NOW),
        lambda job: transitions.adopt(job, "task_x", NOW),
        lambda job: transitions.resubmit(job, 2),
        lambda job: transitions.drop(job, WHY, NOW),
        *(lambda job, t=token: transitions.release(job, t) for token in "AB"),
        *(lambda job, t=token: transitions.mark_unknown(job, t, WHY) for token in "AB"),
        *(lambda job, t=token: transitions.record_task(job, t, "task_x", NOW) for token in "AB"),
        *(
            lambda job, s=state: transitions.reject(job, "A", s, WHY, NOW)
            for state in (JobState.REFUSED, JobState.FAILED)
        ),
        *(lambda job, s=state: transitions.end_task(job, "task_a", s, WHY, NOW) for state in DIAGRAM["submitted"]),
    ]
    made = [(old, new) for old in [*BY_STATE.values(), *late] for change in changes if (new := change(old))]
    assert len(made) > 20
    for old, new in made:
        validate_change(old, new)


@pytest.mark.parametrize("state", STATES)
def test_a_record_survives_json(state: JobState) -> None:
    """JSON keeps everything: money to the last digit, times with their zone."""
    assert JobRecord.model_validate_json(BY_STATE[state].model_dump_json()) == BY_STATE[state]


def test_open_states_are_claimed_submitted_and_unknown() -> None:
    """Jobs in these states must still be settled."""
    assert {state for state in STATES if state.is_open} == {JobState.CLAIMED, JobState.SUBMITTED, JobState.UNKNOWN}


FORMAT_1 = """{"format": 1, "key": "aa", "state": "submitted", "revision": 3, "writer": "0123456789abcdef",
"image": {"label": "s3://b-1/images/a.jpg", "name": "a.jpg", "at": "s3://b-1/images/a.jpg", "etag": "e",
"version_id": null, "facts": {"sha256": "55", "size": 9, "format": "JPEG", "width": 640, "height": 480}},
"request": {"mode": "standard", "duration": 6, "prompt": "zoom", "take": 1}, "label": null,
"created_at": "2026-11-22T12:00:00Z", "updated_at": "2026-11-22T12:00:00Z", "attempts": [{"number": 1, "claim": "A",
"run_id": "r", "claimed_at": "2026-11-22T12:00:00Z", "price_usd": "0.192", "task_id": "task_a", "other_task_ids": [],
"submitted_at": "2026-11-22T12:00:01Z", "created_at": null, "ended_at": null, "fail": null}], "last_attempt": 1,
"extra_attempts": 0, "reason": null, "video": null}"""


def test_a_record_of_format_1_can_be_read() -> None:
    """Every later version reads what this one writes: never change the JSON above."""
    job = JobRecord.model_validate_json(FORMAT_1)
    assert (job.state, job.task_id, job.attempts[0].price_usd) == (JobState.SUBMITTED, "task_a", PRICE)


LATE_TASK = applied(transitions.record_task(CLAIMED_BY_B, "A", "task_a", NOW))
"""A's answer was lost, a person resubmitted the job, B claimed it, and then A's task id arrived."""


def test_releasing_the_newer_claim_resumes_the_paid_task() -> None:
    """B was not charged: the job returns to A's paid task instead of becoming ready."""
    job = applied(transitions.release(LATE_TASK, "B"))
    assert (job.state, job.task_id) == (JobState.SUBMITTED, "task_a")


def test_refusing_the_newer_claim_resumes_the_paid_task() -> None:
    """B was refused and not charged: A's task may still produce the video that was paid for."""
    job = applied(transitions.reject(LATE_TASK, "B", JobState.REFUSED, WHY, NOW))
    assert (job.state, job.task_id) == (JobState.SUBMITTED, "task_a")


def by_callback(record: JobRecord) -> JobRecord:
    """Return the record with all its attempts by callback."""
    attempts = tuple(one.model_copy(update={"delivery": "callback"}) for one in record.attempts)
    return record.model_copy(update={"attempts": attempts})


def test_a_claim_records_its_delivery() -> None:
    """Poll by default, also in records written before callbacks existed."""
    called = applied(
        transitions.claim(READY, token="A", run_id="r", image=IMAGE, price_usd=PRICE, now=NOW, delivery="callback")
    )
    old = JobRecord.model_validate_json(FORMAT_1)
    assert [job.attempts[0].delivery for job in (called, CLAIMED, old)] == ["callback", "poll", "poll"]


@pytest.mark.parametrize("state", STATES)
def test_a_callback_is_adopted_only_while_the_answer_is_missing(state: JobState) -> None:
    """A claimed or unknown job by callback becomes submitted; in every other state nothing changes."""
    adopted = transitions.adopt_from_callback(by_callback(BY_STATE[state]), 1, "task_x", LATER)
    if state not in {JobState.CLAIMED, JobState.UNKNOWN}:
        assert adopted is None
        return
    assert (applied(adopted).state, applied(adopted).task_id, applied(adopted).reason) == (
        JobState.SUBMITTED,
        "task_x",
        None,
    )
    validate_change(by_callback(BY_STATE[state]), applied(adopted))
    assert transitions.adopt_from_callback(applied(adopted), 1, "task_y", LATER) is None, (
        "a second callback changes nothing"
    )
    assert transitions.adopt_from_callback(BY_STATE[state], 1, "task_x", LATER) is None, "a polled job has no callback"


@pytest.mark.parametrize(
    "job", [RESUBMITTED, applied(transitions.drop(UNKNOWN, DROPPED_REASON, NOW))], ids=["resubmitted", "dropped"]
)
def test_a_callback_reopens_a_resubmitted_or_dropped_job(job: JobRecord) -> None:
    """The job was not charged again: the paid task is resumed."""
    adopted = applied(transitions.adopt_from_callback(by_callback(job), 1, "task_x", LATER))
    assert (adopted.state, adopted.task_id) == (JobState.SUBMITTED, "task_x")
    validate_change(by_callback(job), adopted)


def test_a_callback_is_ignored_after_a_failed_answer() -> None:
    """The provider returned a failure instead of a task id; a callback does not change that."""
    failed = applied(transitions.reject(CLAIMED, "A", JobState.FAILED, WHY, NOW))
    assert transitions.adopt_from_callback(by_callback(failed), 1, "task_x", LATER) is None


def test_a_callback_for_an_older_attempt_leaves_the_newest_alone() -> None:
    """A's task is kept in A's attempt while B has the job, and a task is never in two attempts."""
    adopted = applied(transitions.adopt_from_callback(by_callback(CLAIMED_BY_B), 1, "task_x", LATER))
    assert (adopted.state, [attempt.task_id for attempt in adopted.attempts]) == (JobState.CLAIMED, ["task_x", None])
    assert transitions.adopt_from_callback(adopted, 2, "task_x", LATER) is None
    assert transitions.adopt_from_callback(adopted, 3, "task_x", LATER) is None
