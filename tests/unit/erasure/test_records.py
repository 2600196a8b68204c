"""What erasing an image changes in a job record, and what a forgotten job does afterwards."""

from __future__ import annotations

import pytest

from i2v.erasure.records import forget, move
from i2v.ledger import transitions
from i2v.ledger.job import JobRecord, JobState
from i2v.money import Charges
from i2v.request import Request
from i2v.s3_uri import S3Uri
from tests.support.job_records import (
    BY_STATE,
    DROPPED,
    FORGOTTEN_IMAGE,
    IMAGE,
    LATER,
    NOW,
    PRICE,
    RELEASED,
    REQUEST,
    VIDEO,
    applied,
    applies,
    new_attempt,
    task_of,
)


def test_a_forgotten_job_keeps_hash_cost_and_times() -> None:
    """Prompt, custom columns, words and addresses are gone from every ended job; what it cost is the same."""
    for state in (JobState.STORED, JobState.REFUSED, JobState.FAILED):
        job = BY_STATE[state].model_copy(update={"extra": {"sku": "7"}})
        gone = applied(forget(job, FORGOTTEN_IMAGE, LATER))
        text = gone.model_dump_json()
        assert not any(word in text for word in ("zoom", "a.jpg", "because", "sku"))
        assert (gone.state, gone.charges, gone.forgotten_at) == (JobState.FORGOTTEN, job.charges, LATER)
        assert [(one.claimed_at, one.task_id) for one in gone.attempts] == [
            (one.claimed_at, one.task_id) for one in job.attempts
        ]
        assert gone.image.facts.sha256 == job.image.facts.sha256


def test_only_a_job_whose_attempts_have_ended_is_forgotten() -> None:
    """A paid video on its way, and a lost answer, wait for a run or a person."""
    assert applies(lambda job: forget(job, FORGOTTEN_IMAGE, LATER)) == {"stored", "refused", "failed"}


def test_a_forgotten_job_is_claimed_only_by_name_and_with_its_own_request() -> None:
    """Then it has its prompt again; another prompt is another job."""
    job = BY_STATE[JobState.FORGOTTEN]
    attempt = new_attempt(job, "B")
    assert transitions.claim(job, IMAGE, attempt) is None
    named = applied(transitions.claim(job, IMAGE, attempt, named=REQUEST))
    assert (named.state, named.request, named.forgotten_at) == (JobState.CLAIMED, REQUEST, None)
    transitions.validate_change(job, named)
    other = applied(transitions.claim(job, IMAGE, attempt, named=Request(prompt="another")))
    with pytest.raises(ValueError, match="identity cannot change"):
        transitions.validate_change(job, other)


@pytest.mark.parametrize("ended", [DROPPED, RELEASED], ids=["possibly paid", "free"])
def test_the_task_of_a_forgotten_attempt_is_paid_and_not_asked_for(ended: JobRecord) -> None:
    """It arrives after all: its charge is certain now, and its video must not come back."""
    job = applied(forget(ended, FORGOTTEN_IMAGE, NOW))
    late = task_of(job, "A", "task_a")
    transitions.validate_change(job, late)
    assert (late.state, late.is_open, late.charges) == (JobState.FORGOTTEN, False, Charges(charged=PRICE))
    assert transitions.adoptable(job, None) is None


def test_a_job_moves_to_the_image_that_has_a_copy_of_its_video() -> None:
    """The video is the same; another one is not taken."""
    job, other = BY_STATE[JobState.STORED], IMAGE.model_copy(update={"label": "s3://b-1/images/b.jpg"})
    copy = VIDEO.model_copy(update={"uri": S3Uri("b-1", "videos/b.jpg/x.mp4")})
    moved = applied(move(job, other, copy))
    transitions.validate_change(job, moved)
    assert (moved.state, moved.image, moved.video) == (JobState.STORED, other, copy)
    assert move(job, other, copy.model_copy(update={"sha256": "1" * 64})) is None
