"""What no change of a record may do, whatever made it: `validate_change` stands before every write."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from i2v.ledger import transitions
from i2v.ledger.attempt import Attempt, AttemptEnd, EndKind
from i2v.ledger.job import JobRecord, JobState
from i2v.ledger.transitions import validate_change
from i2v.request import Request
from tests.support.job_records import (
    BY_STATE,
    CLAIMED,
    CLAIMED_BY_B,
    LATER,
    NOW,
    PRICE,
    READY,
    SUBMITTED,
    UNKNOWN,
    UNVERIFIED,
    VIDEO,
    explore,
    new_attempt,
    task_of,
)

KINDS = list(EndKind)
MAY_FOLLOW_LOST = {EndKind.UNPAID, EndKind.REFUSED, EndKind.FAILED, EndKind.DROPPED}
"""A lost answer may become known, or a person gives it up."""


def with_attempts(record: JobRecord, *attempts: Attempt) -> JobRecord:
    """Return the record with these attempts instead."""
    return record.model_copy(update={"attempts": attempts})


def ended(record: JobRecord, kind: EndKind) -> JobRecord:
    """Return the record with its first attempt ended so."""
    end = AttemptEnd(kind=kind, at=NOW, revision=record.revision, video=VIDEO if kind is EndKind.STORED else None)
    return with_attempts(record, record.attempts[0].model_copy(update={"end": end}))


def test_every_transition_passes() -> None:
    """No function of `transitions` makes a change that would be rejected, in any record that can come about."""
    steps = list(explore(2))
    assert {step.old.state for step in steps} == set(JobState)
    for old, _, new in steps:
        validate_change(old, new)


def test_no_transition_loses_an_attempt_or_pays_without_a_decision() -> None:
    """A job is claimed again only after a free attempt, a transient failure with attempts left, or a person's word."""
    steps = list(explore(2))
    for old, name, new in steps:
        assert [one.claim for one in new.attempts[: len(old.attempts)]] == [one.claim for one in old.attempts]
        if old.state is JobState.STORED and name != "forget" and (name, old.video) != ("resubmit", UNVERIFIED):
            assert (new.state, new.video) == (JobState.STORED, old.video)
        if name == "claim":
            paid = [one for one in old.attempts if one.cost_usd]
            assert all(one.resubmitted or one.forgotten or (one.end and one.end.retry) for one in paid)
        if old.state is JobState.FORGOTTEN:
            assert new.state is (JobState.CLAIMED if name == "claim by name" else JobState.FORGOTTEN)


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
    """They are the job's identity."""
    with pytest.raises(ValueError, match="identity"):
        validate_change(READY, READY.model_copy(update=changes))


def test_no_attempt_is_removed() -> None:
    """Not even one that was free."""
    for less in ((), CLAIMED_BY_B.attempts[:1]):
        with pytest.raises(ValueError, match="attempt would be lost"):
            validate_change(CLAIMED_BY_B, with_attempts(CLAIMED_BY_B, *less))


def test_attempts_are_only_appended() -> None:
    """They are not swapped, and a new one has a higher number than all others."""
    first, second = CLAIMED_BY_B.attempts
    for number in (0, 1, 2):
        new = second.model_copy(update={"number": number, "claim": "C"})
        with pytest.raises(ValueError, match="numbers of attempts must rise"):
            validate_change(CLAIMED_BY_B, with_attempts(CLAIMED_BY_B, first, second, new))
    with pytest.raises(ValueError, match="numbers of attempts must rise"):
        validate_change(CLAIMED_BY_B, with_attempts(CLAIMED_BY_B, second, first))


@pytest.mark.parametrize(
    "changes",
    [
        {"number": 7},
        {"claim": "B"},
        {"run_id": "another"},
        {"claimed_at": LATER},
        {"price_usd": 2 * PRICE},
        {"day": "2026-11-23"},
        {"delivery": "callback"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_a_claim_wrote_never_changes(changes: dict[str, Any]) -> None:
    """Who claimed it, when, for which price and day: money is counted by it."""
    with pytest.raises(ValueError, match="its claim cannot change"):
        validate_change(CLAIMED, with_attempts(CLAIMED, CLAIMED.attempts[0].model_copy(update=changes)))


@pytest.mark.parametrize("task_id", [None, "task_c"])
def test_no_task_id_is_lost_or_replaced(task_id: str | None) -> None:
    """Not with its attempt, and not by another task."""
    twice = task_of(SUBMITTED, "A", "task_b")
    for number in range(2):
        attempts = list(twice.attempts)
        attempts[number] = attempts[number].model_copy(update={"task_id": task_id})
        with pytest.raises(ValueError, match=r"task id task_[ab] would be lost"):
            validate_change(twice, with_attempts(twice, *attempts))


@pytest.mark.parametrize("kind", KINDS)
def test_an_open_attempt_may_end_in_any_way(kind: EndKind) -> None:
    """Claimed or submitted."""
    validate_change(CLAIMED, ended(CLAIMED, kind))
    validate_change(SUBMITTED, ended(SUBMITTED, kind))


@pytest.mark.parametrize(("old", "new"), [pair for pair in product(KINDS, KINDS) if pair[0] != pair[1]], ids=str)
def test_an_end_is_written_once(old: EndKind, new: EndKind) -> None:
    """Only a lost answer may still become known, or be given up; every other end is final."""
    if old is EndKind.LOST and new in MAY_FOLLOW_LOST:
        validate_change(ended(CLAIMED, old), ended(CLAIMED, new))
        return
    with pytest.raises(ValueError, match=f"its end cannot change to {new}"):
        validate_change(ended(CLAIMED, old), ended(CLAIMED, new))


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_late_task_id_reopens_an_attempt(kind: EndKind) -> None:
    """An attempt that has a task, or that gets none, stays ended."""
    (attempt,) = ended(CLAIMED, kind).attempts
    validate_change(
        with_attempts(CLAIMED, attempt),
        with_attempts(CLAIMED, attempt.model_copy(update={"task_id": "late", "end": None})),
    )
    for record in (CLAIMED, SUBMITTED):
        with pytest.raises(ValueError, match="only a late task id reopens"):
            validate_change(ended(record, kind), with_attempts(record, record.attempts[0]))


@pytest.mark.parametrize("state", list(JobState))
def test_an_unchanged_record_is_no_violation(state: JobState) -> None:
    """A record that is written again as it is."""
    validate_change(BY_STATE[state], BY_STATE[state])


def test_the_error_names_job_and_attempt() -> None:
    """The log line alone identifies the attempt."""
    (attempt,) = UNKNOWN.attempts
    with pytest.raises(ValueError, match=r"^job a3cc43a71595, attempt 1: "):
        validate_change(UNKNOWN, with_attempts(UNKNOWN, attempt.model_copy(update={"run_id": "x"})))


def test_a_new_record_may_have_its_first_attempt() -> None:
    """The first write of a record is its claim."""
    claimed = transitions.claim(READY, READY.image, new_attempt(READY, "A"))
    assert claimed
    validate_change(READY, claimed)
