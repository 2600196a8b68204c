"""The state machine of a job: every change that is drawn, and every one that is not."""

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
"""design.md part 5, and a late answer to a job that a person gave up."""
STATES = list(JobState)
PAIRS = list(product(STATES, STATES))


def must(record: JobRecord | None) -> JobRecord:
    """A change that applies."""
    assert record is not None
    return record


def claimed_by(record: JobRecord, token: str) -> JobRecord:
    """The job in the hands of this claimant."""
    return must(transitions.claim(record, token=token, run_id=f"run of {token}", image=IMAGE, price_usd=PRICE, now=NOW))


READY = JobRecord(key="a" * 64, image=IMAGE, request=Request(prompt="zoom"), created_at=NOW, updated_at=NOW)
CLAIMED = claimed_by(READY, "A")
SUBMITTED = must(transitions.record_task(CLAIMED, "A", "task_a", NOW))
UNKNOWN = must(transitions.mark_unknown(CLAIMED, "A", WHY))
IN = {
    JobState.READY: READY,
    JobState.CLAIMED: CLAIMED,
    JobState.SUBMITTED: SUBMITTED,
    JobState.STORED: must(transitions.store(SUBMITTED, "task_a", VIDEO, NOW)),
    JobState.REFUSED: must(transitions.end_task(SUBMITTED, "task_a", JobState.REFUSED, WHY, NOW)),
    JobState.FAILED: must(transitions.end_task(SUBMITTED, "task_a", JobState.FAILED, WHY, NOW)),
    JobState.UNKNOWN: UNKNOWN,
}
"""A job in each state, brought there by attempt 1 of claimant A."""
RESUBMITTED = must(transitions.resubmit(UNKNOWN, 2))
"""A's answer was lost, and a person wants the job paid again."""
TAKEN_BY_B = claimed_by(RESUBMITTED, "B")
"""B took the job up, and A's answer is still out."""
GIVEN_UP_BY_PERSON = must(transitions.drop(UNKNOWN, WHY, NOW))
"""A's answer was lost, and a person gave the job up."""
GIVEN_UP = Reason(code=DROPPED_CODE, message="given up")


def applies(change: Any) -> set[str]:
    """The states in which a change of attempt 1 is made and not left undone."""
    return {str(state) for state, record in IN.items() if change(record) is not None}


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=str)
def test_only_the_drawn_changes_can_be_made(old: JobState, new: JobState) -> None:
    """Of the 49 changes of state, exactly those of the diagram can be made."""
    if new in DIAGRAM[old]:
        assert IN[old].transition(new).state is new
        return
    with pytest.raises(ValueError, match=f"{old} cannot become {new}"):
        IN[old].transition(new)


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=str)
def test_only_the_drawn_changes_can_be_written(old: JobState, new: JobState) -> None:
    """Whatever made a record, an illegal change of state is found before it is written."""
    forced = IN[old].model_copy(update={"state": new})
    if new in DIAGRAM[old] | {old}:
        validate_change(IN[old], forced)
        return
    with pytest.raises(ValueError, match=f"{old} cannot become {new}"):
        validate_change(IN[old], forced)


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
def test_a_record_keeps_its_identity(changes: dict[str, Any]) -> None:
    """Key and request never change."""
    with pytest.raises(ValueError, match="identity"):
        validate_change(READY, READY.model_copy(update=changes))


def test_a_task_id_cannot_be_lost() -> None:
    """No write may leave out a task id: with its attempt, from it, or from the ones that came besides."""
    twice = must(transitions.record_task(SUBMITTED, "A", "task_b", NOW))
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
    """In any other state somebody has it, or it has ended."""
    assert applies(
        lambda job: transitions.claim(job, token="B", run_id="r", image=IMAGE, price_usd=PRICE, now=NOW)
    ) == {"ready"}


def test_a_claim_says_who_when_and_for_how_much() -> None:
    """The attempt carries what a person needs to find out what became of it."""
    attempt = CLAIMED.attempt
    assert attempt == Attempt(number=1, claim="A", run_id="run of A", claimed_at=NOW, price_usd=PRICE)
    assert (CLAIMED.state, CLAIMED.last_attempt, CLAIMED.reason) == (JobState.CLAIMED, 1, None)


def test_an_attempts_number_is_never_given_twice() -> None:
    """Also an attempt that was given back unpaid keeps its number, so that a late word of it finds no other."""
    again = claimed_by(must(transitions.release(CLAIMED, "A")), "B")
    assert [attempt.number for attempt in again.attempts] == [2]


def test_who_paid_nothing_gives_back() -> None:
    """Claimed, or taken for lost meanwhile: the job is ready, and the attempt never was."""
    assert applies(lambda job: transitions.release(job, "A")) == {"claimed", "unknown"}
    for job in (CLAIMED, UNKNOWN):
        back = must(transitions.release(job, "A"))
        assert (back.state, back.attempts, back.reason) == (JobState.READY, (), None)


def test_nobody_gives_back_anothers_claim() -> None:
    """A claim is known by its token alone."""
    assert all(transitions.release(job, "B") is None for job in IN.values())


def test_giving_back_late_leaves_the_new_claim_alone() -> None:
    """A knows now that nothing was paid; B has the job meanwhile and keeps it."""
    back = must(transitions.release(TAKEN_BY_B, "A"))
    assert (back.state, [attempt.claim for attempt in back.attempts]) == (JobState.CLAIMED, ["B"])


@pytest.mark.parametrize("state", [JobState.CLAIMED, JobState.UNKNOWN])
def test_a_task_id_makes_the_job_submitted(state: JobState) -> None:
    """The owner's answer counts, also after its lease."""
    job = must(transitions.record_task(IN[state], "A", "task_a", LATER))
    assert (job.state, job.task_id, job.reason) == (JobState.SUBMITTED, "task_a", None)
    assert job.attempts[0].submitted_at == LATER


@pytest.mark.parametrize("job", [RESUBMITTED, GIVEN_UP_BY_PERSON], ids=["resubmitted", "dropped"])
def test_a_task_id_comes_after_a_person_gave_it_up(job: JobRecord) -> None:
    """A person had resubmitted or dropped the job, nobody has paid again: the paid task is taken up after all."""
    job = must(transitions.record_task(job, "A", "task_a", NOW))
    assert (job.state, job.task_id) == (JobState.SUBMITTED, "task_a")


def test_a_task_id_comes_after_anothers_claim() -> None:
    """B has the job: A's task id is kept in A's attempt, and B's claim is left alone."""
    job = must(transitions.record_task(TAKEN_BY_B, "A", "task_a", NOW))
    assert (job.state, [attempt.task_id for attempt in job.attempts]) == (JobState.CLAIMED, ["task_a", None])
    both = must(transitions.record_task(job, "B", "task_b", NOW))
    assert (both.state, [attempt.task_id for attempt in both.attempts]) == (JobState.SUBMITTED, ["task_a", "task_b"])


@pytest.mark.parametrize("state", STATES)
def test_no_state_drops_a_task_id(state: JobState) -> None:
    """Whatever became of the record, a task id that comes for one of its attempts is in it afterwards."""
    job = transitions.record_task(IN[state], "A", "task_late", NOW)
    if state is JobState.READY:
        assert job is None
        return
    assert "task_late" in must(job).attempts[0].task_ids
    validate_change(IN[state], must(job))


@pytest.mark.parametrize("state", STATES)
def test_a_second_task_id_is_kept_beside_the_first(state: JobState) -> None:
    """A task came although a person had adopted another: both stay, the first one leads, the state stays."""
    if IN[state].task_id is None:
        return
    job = must(transitions.record_task(IN[state], "A", "task_b", NOW))
    assert (job.state, job.task_id, job.attempts[0].other_task_ids) == (state, "task_a", ("task_b",))
    assert transitions.record_task(job, "A", "task_b", NOW) is None


def test_a_task_id_is_written_once() -> None:
    """The same again is no change."""
    assert transitions.record_task(SUBMITTED, "A", "task_a", LATER) is None


def test_only_a_claimed_job_is_lost() -> None:
    """Only a claim without an answer is unknown."""
    assert applies(lambda job: transitions.mark_unknown(job, "A", WHY)) == {"claimed"}
    assert (UNKNOWN.state, UNKNOWN.reason) == (JobState.UNKNOWN, WHY)
    assert transitions.mark_unknown(CLAIMED, "B", WHY) is None


def test_an_old_claims_loss_is_not_the_new_claims() -> None:
    """A's lost answer says nothing of B's."""
    assert transitions.mark_unknown(TAKEN_BY_B, "A", WHY) is None


def test_a_refused_submit_cost_nothing() -> None:
    """400: the job is refused, and has no attempt."""
    job = must(transitions.reject(CLAIMED, "A", JobState.REFUSED, WHY, NOW))
    assert (job.state, job.attempts, job.reason) == (JobState.REFUSED, (), WHY)


@pytest.mark.parametrize("job", [CLAIMED, UNKNOWN], ids=["claimed", "unknown"])
def test_a_fail_code_for_an_answer_counts_as_an_attempt(job: JobRecord) -> None:
    """A fail code in place of a task id may be billed: failed, and the attempt stays."""
    failed = must(transitions.reject(job, "A", JobState.FAILED, WHY, NOW))
    assert failed.state is JobState.FAILED
    assert failed.attempt is not None
    assert (failed.attempt.fail, failed.attempt.ended_at) == (WHY, NOW)


@pytest.mark.parametrize("state", [JobState.REFUSED, JobState.FAILED])
def test_a_word_without_a_task_never_ends_an_adopted_task(state: JobState) -> None:
    """A person has adopted a task for A's lost answer: A's own late refusal ends it not, and loses it not."""
    adopted = must(transitions.adopt(UNKNOWN, "task_a", NOW))
    assert transitions.reject(adopted, "A", state, WHY, NOW) is None


@pytest.mark.parametrize("state", [JobState.REFUSED, JobState.FAILED])
def test_nobody_rejects_anothers_claim(state: JobState) -> None:
    """A late word of A, or of nobody, leaves B's claim alone."""
    assert transitions.reject(TAKEN_BY_B, "A", state, WHY, NOW) is None
    assert transitions.reject(TAKEN_BY_B, "C", state, WHY, NOW) is None


@pytest.mark.parametrize("state", [JobState.REFUSED, JobState.FAILED, JobState.READY])
def test_a_failed_task_ends_a_submitted_job(state: JobState) -> None:
    """As refused, as failed, or ready for another attempt; the failed attempt stays and says why."""
    assert applies(lambda job: transitions.end_task(job, "task_a", state, WHY, NOW)) == {"submitted"}
    job = must(transitions.end_task(SUBMITTED, "task_a", state, WHY, LATER))
    assert (job.state, job.reason) == (state, WHY)
    assert job.attempt is not None
    assert (job.attempt.task_id, job.attempt.fail, job.attempt.ended_at) == ("task_a", WHY, LATER)


def test_another_tasks_end_is_not_this_jobs() -> None:
    """A status of an earlier attempt's task, or of one that came besides, ends nothing."""
    both = must(
        transitions.record_task(must(transitions.record_task(TAKEN_BY_B, "A", "task_a", NOW)), "B", "task_b", NOW)
    )
    for job, task in ((SUBMITTED, "task_x"), (both, "task_a")):
        assert transitions.end_task(job, task, JobState.READY, WHY, NOW) is None
        assert transitions.store(job, task, VIDEO, NOW) is None


def test_a_stored_job_has_its_video() -> None:
    """Only a submitted job is stored; it keeps the video, the task and the time."""
    assert applies(lambda job: transitions.store(job, "task_a", VIDEO, NOW)) == {"submitted"}
    job = must(transitions.store(SUBMITTED, "task_a", VIDEO, LATER))
    assert (job.state, job.video, job.task_id, job.reason) == (JobState.STORED, VIDEO, "task_a", None)
    assert job.attempts[0].ended_at == LATER


def test_only_an_unknown_job_adopts() -> None:
    """A person may give a task to a job whose answer was lost, and to no other."""
    assert applies(lambda job: transitions.adopt(job, "task_x", NOW)) == {"unknown"}
    assert must(transitions.adopt(UNKNOWN, "task_x", NOW)).task_id == "task_x"


def test_a_person_may_resubmit_what_ended_or_is_unknown() -> None:
    """Refused, failed and unknown become ready; what is stored or under way does not."""
    assert applies(lambda job: transitions.resubmit(job, 2)) == {"refused", "failed", "unknown"}


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_resubmit_allows_one_attempt_where_none_is_left(most: int) -> None:
    """A person's word is worth one attempt beyond the limit, never two, however often it was given before."""
    job = IN[JobState.FAILED]
    for paid in range(1, 5):
        assert len(job.attempts) == paid
        ready = must(transitions.resubmit(job, most))
        assert transitions.attempts_left(ready, most)
        claimed = claimed_by(ready, f"B{paid}")
        assert transitions.attempts_left(claimed, most) == (paid + 1 < most)
        job = must(transitions.reject(claimed, f"B{paid}", JobState.FAILED, WHY, NOW))


def test_a_person_may_drop_what_is_open() -> None:
    """Unknown and submitted jobs become failed, with the reason, and keep their attempts."""
    assert applies(lambda job: transitions.drop(job, WHY, NOW)) == {"unknown", "submitted"}
    job = must(transitions.drop(SUBMITTED, WHY, NOW))
    assert (job.state, job.reason, job.task_id) == (JobState.FAILED, WHY, "task_a")


def test_what_follows_from_a_function_may_be_written() -> None:
    """No function of this module makes a change that the ledger would then refuse."""
    late = [RESUBMITTED, TAKEN_BY_B, GIVEN_UP_BY_PERSON, must(transitions.record_task(TAKEN_BY_B, "A", "task_a", NOW))]
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
    made = [(old, new) for old in [*IN.values(), *late] for change in changes if (new := change(old))]
    assert len(made) > 20
    for old, new in made:
        validate_change(old, new)


@pytest.mark.parametrize("state", STATES)
def test_a_record_is_read_as_it_was_written(state: JobState) -> None:
    """JSON keeps all of it: money to the cent, times with their zone."""
    assert JobRecord.model_validate_json(IN[state].model_dump_json()) == IN[state]


def test_only_open_states_have_money_under_way() -> None:
    """Claimed, submitted and unknown jobs have to be settled by somebody."""
    assert {state for state in STATES if state.is_open} == {JobState.CLAIMED, JobState.SUBMITTED, JobState.UNKNOWN}


FORMAT_1 = """{"format": 1, "key": "aa", "state": "submitted", "revision": 3, "writer": "0123456789abcdef",
"image": {"label": "s3://b-1/images/a.jpg", "name": "a.jpg", "at": "s3://b-1/images/a.jpg", "etag": "e",
"version_id": null, "facts": {"sha256": "55", "size": 9, "format": "JPEG", "width": 640, "height": 480}},
"request": {"mode": "standard", "duration": 6, "prompt": "zoom", "take": 1}, "label": null,
"created_at": "2026-11-22T12:00:00Z", "updated_at": "2026-11-22T12:00:00Z", "attempts": [{"number": 1, "claim": "A",
"run_id": "r", "claimed_at": "2026-11-22T12:00:00Z", "price_usd": "0.192", "task_id": "task_a", "other_task_ids": [],
"submitted_at": "2026-11-22T12:00:01Z", "created_at": null, "ended_at": null, "fail": null}], "last_attempt": 1,
"extra_attempts": 0, "reason": null, "video": null}"""


def test_a_record_of_format_1_can_be_read_for_ever() -> None:
    """What this version writes, every later one reads: the text above is never to be changed."""
    job = JobRecord.model_validate_json(FORMAT_1)
    assert (job.state, job.task_id, job.attempts[0].price_usd) == (JobState.SUBMITTED, "task_a", PRICE)


OVERTAKEN = must(transitions.record_task(TAKEN_BY_B, "A", "task_a", NOW))
"""A's answer was lost, a person wanted it paid again, B claimed it, and then A's task came after all."""


def test_a_paid_task_is_taken_up_where_the_next_claim_came_to_nothing() -> None:
    """B paid nothing: the job is not ready, to be paid once more, but A's, which was paid."""
    job = must(transitions.release(OVERTAKEN, "B"))
    assert (job.state, job.task_id) == (JobState.SUBMITTED, "task_a")


def test_a_paid_task_is_taken_up_where_the_next_claim_was_refused() -> None:
    """B was refused at no cost: A's task may still give the video that was paid for."""
    job = must(transitions.reject(OVERTAKEN, "B", JobState.REFUSED, WHY, NOW))
    assert (job.state, job.task_id) == (JobState.SUBMITTED, "task_a")


def by_callback(record: JobRecord) -> JobRecord:
    """The record as if all its attempts were by callback."""
    attempts = tuple(one.model_copy(update={"delivery": "callback"}) for one in record.attempts)
    return record.model_copy(update={"attempts": attempts})


def test_a_claim_says_how_its_end_is_heard_of() -> None:
    """By poll unless it is said, and so for the records of before."""
    called = must(
        transitions.claim(READY, token="A", run_id="r", image=IMAGE, price_usd=PRICE, now=NOW, delivery="callback")
    )
    old = JobRecord.model_validate_json(FORMAT_1)
    assert [job.attempts[0].delivery for job in (called, CLAIMED, old)] == ["callback", "poll", "poll"]


@pytest.mark.parametrize("state", STATES)
def test_a_callback_is_heard_only_where_no_answer_was(state: JobState) -> None:
    """Claimed or unknown, by callback, without a task: it becomes submitted; in every other state nothing changes."""
    heard = transitions.adopt_from_callback(by_callback(IN[state]), 1, "task_x", LATER)
    if state not in {JobState.CLAIMED, JobState.UNKNOWN}:
        assert heard is None
        return
    assert (must(heard).state, must(heard).task_id, must(heard).reason) == (JobState.SUBMITTED, "task_x", None)
    validate_change(by_callback(IN[state]), must(heard))
    assert transitions.adopt_from_callback(must(heard), 1, "task_y", LATER) is None, "a second word adds nothing"
    assert transitions.adopt_from_callback(IN[state], 1, "task_x", LATER) is None, (
        "a job by poll gave nobody an address"
    )


@pytest.mark.parametrize(
    "job", [RESUBMITTED, must(transitions.drop(UNKNOWN, GIVEN_UP, NOW))], ids=["resubmitted", "dropped"]
)
def test_a_callback_is_heard_after_a_person_gave_it_up(job: JobRecord) -> None:
    """Nobody has paid again: the paid task is taken up after all."""
    heard = must(transitions.adopt_from_callback(by_callback(job), 1, "task_x", LATER))
    assert (heard.state, heard.task_id) == (JobState.SUBMITTED, "task_x")
    validate_change(by_callback(job), heard)


def test_a_callback_is_not_heard_where_the_answer_was_a_failure() -> None:
    """The provider said so in place of a task id: another's word does not change that."""
    failed = must(transitions.reject(CLAIMED, "A", JobState.FAILED, WHY, NOW))
    assert transitions.adopt_from_callback(by_callback(failed), 1, "task_x", LATER) is None


def test_a_callback_for_an_older_attempt_leaves_the_newest_alone() -> None:
    """B has the job: A's task is kept in A's attempt; and a task is never in two attempts."""
    heard = must(transitions.adopt_from_callback(by_callback(TAKEN_BY_B), 1, "task_x", LATER))
    assert (heard.state, [attempt.task_id for attempt in heard.attempts]) == (JobState.CLAIMED, ["task_x", None])
    assert transitions.adopt_from_callback(heard, 2, "task_x", LATER) is None
    assert transitions.adopt_from_callback(heard, 3, "task_x", LATER) is None
