"""A job's life through races, crashes, lost answers and persons who resolve: led by chance, and by known dangers.

Hypothesis drives i2v's real steps turn by turn, by default through the same 200 lives each time. `I2V_MODEL_EXAMPLES`
asks for more, for others each time, and for the shortest life that fails; `I2V_MODEL_STEPS` for longer ones.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from i2v.ledger.job import JobState
from tests.support.interleaving import S3Fault, VirtualTimeLoop
from tests.support.job_state_machine import JobStateMachine, generate_video, resolve_by_hand, run_reconcile
from tests.support.simulated_world import ORDER, PRICE

CHOSEN = "I2V_MODEL_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("I2V_MODEL_EXAMPLES", "200"))
PROFILE = settings(
    max_examples=EXAMPLES,
    stateful_step_count=int(os.environ.get("I2V_MODEL_STEPS", "50")),
    derandomize=not CHOSEN,
    phases=list(Phase) if CHOSEN else [Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def loop() -> Iterator[VirtualTimeLoop]:
    """A loop for all the lives of a test; its thousands of warnings are meant, and not shown."""
    virtual = VirtualTimeLoop()
    asyncio.set_event_loop(virtual)
    logging.disable()
    yield virtual
    logging.disable(logging.NOTSET)
    asyncio.set_event_loop(None)
    virtual.close()


@pytest.fixture
def life(loop: VirtualTimeLoop) -> Iterator[JobStateMachine]:
    """Return a job with one run at its first step; `life.settle_everything()` then checks that it ends well."""
    led = JobStateMachine(loop)
    led.begin(most=2, cap=None, seed=0, steps_ahead=[0])
    yield led
    led.kill_all()


@pytest.mark.timeout(60 + EXAMPLES)
def test_a_jobs_life_keeps_its_promises(loop: VirtualTimeLoop) -> None:
    """Whoever races, dies, fails or decides: no attempt is paid twice, no task is dropped, no limit is passed."""
    run_state_machine_as_test(lambda: JobStateMachine(loop), settings=PROFILE)  # type: ignore[arg-type] # it takes any maker


@pytest.mark.parametrize("fault", [None, *S3Fault])
def test_of_two_who_are_about_to_claim_one_pays(life: JobStateMachine, fault: S3Fault | None) -> None:
    """Both have seen that the job is ready, have reserved and marked; whatever becomes of the first one's claim."""
    first, second = life.world.processes[0], life.start(generate_video)
    for run in (first, second):
        life.advance_to(run, "put", "jobs/open/")
        life.advance_to(run, "put if", f"jobs/{ORDER.key}")
    first.resume(fault)
    life.run_until_blocked()
    second.resume()
    life.run_until_blocked()
    assert len(life.world.posting) <= 1
    life.settle_everything()


@pytest.mark.parametrize(("fault", "state"), [(S3Fault.FAILS, None), (S3Fault.LOST, JobState.READY)])
def test_a_claim_without_an_answer_is_given_back(life: JobStateMachine, fault: S3Fault, state: JobState | None) -> None:
    """S3 failed at the claim, done or not: nothing was sent, so the job is new or ready, and not unknown."""
    (run,) = life.world.processes
    life.advance_to(run, "put", "jobs/open/")
    life.advance_to(run, "put if", f"jobs/{ORDER.key}")
    run.resume(fault)
    life.run_until_blocked()
    life.advance_to(run, "")
    assert (life.state, life.world.reserved()) == (state, Decimal(0))
    life.settle_everything()


def test_a_dead_runs_video_is_stored(life: JobStateMachine) -> None:
    """Its task id is written down, and it dies: reconcile alone brings the video home."""
    (run,) = life.world.processes
    life.advance_to(run, "POST")
    life.answer(run, "task")
    life.run_until_blocked()
    while life.next_step(run) != "status":
        run.resume()
        life.run_until_blocked()
    life.end_tasks("success")
    life.kill(run)
    life.settle_everything()
    assert life.state is JobState.STORED


def test_a_fresh_claim_is_left_alone(life: JobStateMachine) -> None:
    """Reconcile comes by while a POST is under way: its lease is not over."""
    (run,) = life.world.processes
    life.advance_to(run, "POST")
    life.run_alone(run_reconcile)
    assert life.state is JobState.CLAIMED
    life.settle_everything()


@pytest.mark.parametrize(("kind", "state"), [("lost", JobState.UNKNOWN), ("fail code", JobState.FAILED)])
def test_a_submit_that_may_be_billed_is_not_repeated(life: JobStateMachine, kind: str, state: JobState) -> None:
    """The run ends and another comes: it pays nothing, and the money that may be gone is not free again."""
    (run,) = life.world.processes
    life.advance_to(run, "POST")
    life.answer(run, kind, billed=True)
    life.run_until_blocked()
    life.advance_to(run, "")
    life.run_alone(generate_video)
    assert (life.state, life.world.reserved()) == (state, PRICE)
    life.settle_everything()


@pytest.mark.parametrize("fault", [S3Fault.FAILS, S3Fault.LOST, S3Fault.BUSY, S3Fault.REPEATED, S3Fault.LATE])
def test_a_task_id_is_written_until_it_is(life: JobStateMachine, fault: S3Fault) -> None:
    """S3 fails five times at the write of a paid task's id."""
    (run,) = life.world.processes
    life.advance_to(run, "POST")
    life.answer(run, "task")
    life.run_until_blocked()
    for _ in range(5):
        if life.next_step(run) != "status":
            run.resume(fault)
            life.run_until_blocked()
    life.settle_everything()
    assert life.state in {JobState.STORED, JobState.FAILED, JobState.REFUSED, JobState.READY}


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        *((kind, fault) for kind in ("400", "fail code") for fault in (S3Fault.FAILS, S3Fault.LATE)),
        *((kind, S3Fault.LOST) for kind in ("400", "fail code")),
        *((kind, fault) for kind in ("lost", "429") for fault in (S3Fault.FAILS, S3Fault.LOST, S3Fault.LATE)),
    ],
)
def test_an_end_that_could_not_be_written_is_found_again(life: JobStateMachine, kind: str, fault: S3Fault) -> None:
    """The POST was answered, and S3 failed at the very write that says so: reconcile still finds the job."""
    (run,) = life.world.processes
    life.advance_to(run, "POST")
    life.answer(run, kind)
    life.run_until_blocked()
    run.resume(fault)
    life.run_until_blocked()
    life.settle_everything()


@pytest.mark.parametrize("kind", ["400", "fail code", "lost", "429", "task"])
def test_a_late_word_after_an_adoption_harms_nothing(life: JobStateMachine, kind: str) -> None:
    """A person adopted another task for the lost answer, and then the answer came after all."""
    (run,) = life.world.processes
    life.advance_to(run, "POST")
    life.expire_lease()
    life.run_alone(resolve_by_hand("adopt", life.world.bill()))
    assert life.state is JobState.SUBMITTED
    life.answer(run, kind)
    life.run_until_blocked()
    life.settle_everything()


def test_a_late_task_of_a_dropped_job_is_still_settled(life: JobStateMachine) -> None:
    """A person gave the job up, its mark is gone, and then the task id comes to an owner who dies right after."""
    (run,) = life.world.processes
    life.advance_to(run, "POST")
    life.expire_lease()
    life.run_alone(resolve_by_hand("drop", ""))
    life.run_alone(run_reconcile)
    assert life.open_marks() == []
    life.answer(run, "task")
    life.run_until_blocked()
    while life.state is not JobState.SUBMITTED:
        run.resume()
        life.run_until_blocked()
    life.kill(run)
    life.settle_everything()


def test_a_mark_that_is_taken_away_late_is_put_again(life: JobStateMachine) -> None:
    """One run is about to take the mark of a failed job away, a person resubmits, another run claims and dies."""
    (run,) = life.world.processes
    life.advance_to(run, "POST")
    life.answer(run, "fail code")
    life.run_until_blocked()
    life.advance_to(run, "delete")
    life.manual_actions.add("resubmit")
    life.run_alone(resolve_by_hand("resubmit", ""))
    another = life.start(generate_video)
    life.advance_to(another, "POST")
    life.advance_to(run, "")
    life.kill(another)
    life.settle_everything()


def test_a_mark_is_put_again_where_a_claim_is_just_about_to_come(life: JobStateMachine) -> None:
    """As before, but the other run has put its mark and not yet claimed when the first one takes the mark away."""
    (run,) = life.world.processes
    life.advance_to(run, "POST")
    life.answer(run, "fail code")
    life.run_until_blocked()
    life.advance_to(run, "delete")
    life.manual_actions.add("resubmit")
    life.run_alone(resolve_by_hand("resubmit", ""))
    another = life.start(generate_video)
    life.advance_to(another, "put", "jobs/open/")
    life.advance_to(another, "put if", f"jobs/{ORDER.key}")
    life.advance_to(run, "")
    life.advance_to(another, "POST")
    life.kill(another)
    life.settle_everything()
