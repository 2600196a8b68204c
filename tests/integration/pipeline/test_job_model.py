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
from tests.support.job_model import JobLife, animate_it, person, reconcile_it
from tests.support.job_model_world import ORDER, PRICE
from tests.support.turns import Fault, VirtualLoop

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
def loop() -> Iterator[VirtualLoop]:
    """A loop for all the lives of a test; its thousands of warnings are meant, and not shown."""
    virtual = VirtualLoop()
    asyncio.set_event_loop(virtual)
    logging.disable()
    yield virtual
    logging.disable(logging.NOTSET)
    asyncio.set_event_loop(None)
    virtual.close()


@pytest.fixture
def life(loop: VirtualLoop) -> Iterator[JobLife]:
    """A life that a test leads itself, with one run at its first step; `life.heal()` then proves that it ends well."""
    led = JobLife(loop)
    led.begin(most=2, cap=None, seed=0, ahead=[0])
    yield led
    led.kill_all()


@pytest.mark.timeout(60 + EXAMPLES)
def test_a_jobs_life_keeps_its_promises(loop: VirtualLoop) -> None:
    """Whoever races, dies, fails or decides: no attempt is paid twice, no task is dropped, no limit is passed."""
    run_state_machine_as_test(lambda: JobLife(loop), settings=PROFILE)  # type: ignore[arg-type] # it takes any maker


@pytest.mark.parametrize("fault", [None, *Fault])
def test_of_two_who_are_about_to_claim_one_pays(life: JobLife, fault: Fault | None) -> None:
    """Both have seen that the job is ready, have reserved and marked; whatever becomes of the first one's claim."""
    first, second = life.world.processes[0], life.start(animate_it)
    for run in (first, second):
        life.until(run, "put", "jobs/open/")
        life.until(run, "put if", f"jobs/{ORDER.key}")
    first.go(fault)
    life.quiet()
    second.go()
    life.quiet()
    assert len(life.world.posting) <= 1
    life.heal()


@pytest.mark.parametrize(("fault", "state"), [(Fault.FAILS, None), (Fault.LOST, JobState.READY)])
def test_a_claim_without_an_answer_is_given_back(life: JobLife, fault: Fault, state: JobState | None) -> None:
    """S3 failed at the claim, done or not: nothing was sent, so the job is new or ready, and not unknown."""
    (run,) = life.world.processes
    life.until(run, "put", "jobs/open/")
    life.until(run, "put if", f"jobs/{ORDER.key}")
    run.go(fault)
    life.quiet()
    life.until(run, "")
    assert (life.state, life.world.reserved()) == (state, Decimal(0))
    life.heal()


def test_a_dead_runs_video_is_stored(life: JobLife) -> None:
    """Its task id is written down, and it dies: reconcile alone brings the video home."""
    (run,) = life.world.processes
    life.until(run, "POST")
    life.answer(run, "task")
    life.quiet()
    while life.doing(run) != "status":
        run.go()
        life.quiet()
    life.end_tasks("success")
    life.kill(run)
    life.heal()
    assert life.state is JobState.STORED


def test_a_fresh_claim_is_left_alone(life: JobLife) -> None:
    """Reconcile comes by while a POST is under way: its lease is not over."""
    (run,) = life.world.processes
    life.until(run, "POST")
    life.whole(reconcile_it)
    assert life.state is JobState.CLAIMED
    life.heal()


@pytest.mark.parametrize(("kind", "state"), [("lost", JobState.UNKNOWN), ("fail code", JobState.FAILED)])
def test_what_may_be_billed_is_not_paid_again_and_stays_reserved(life: JobLife, kind: str, state: JobState) -> None:
    """The run ends and another comes: it pays nothing, and the money that may be gone is not free again."""
    (run,) = life.world.processes
    life.until(run, "POST")
    life.answer(run, kind, billed=True)
    life.quiet()
    life.until(run, "")
    life.whole(animate_it)
    assert (life.state, life.world.reserved()) == (state, PRICE)
    life.heal()


@pytest.mark.parametrize("fault", [Fault.FAILS, Fault.LOST, Fault.BUSY, Fault.REPEATED, Fault.LATE])
def test_a_task_id_is_written_until_it_is(life: JobLife, fault: Fault) -> None:
    """S3 fails five times at the write of a paid task's id."""
    (run,) = life.world.processes
    life.until(run, "POST")
    life.answer(run, "task")
    life.quiet()
    for _ in range(5):
        if life.doing(run) != "status":
            run.go(fault)
            life.quiet()
    life.heal()
    assert life.state in {JobState.STORED, JobState.FAILED, JobState.REFUSED, JobState.READY}


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        *((kind, fault) for kind in ("400", "fail code") for fault in (Fault.FAILS, Fault.LATE)),
        *((kind, Fault.LOST) for kind in ("400", "fail code")),
        *((kind, fault) for kind in ("lost", "429") for fault in (Fault.FAILS, Fault.LOST, Fault.LATE)),
    ],
)
def test_an_end_that_could_not_be_written_is_found_again(life: JobLife, kind: str, fault: Fault) -> None:
    """The POST was answered, and S3 failed at the very write that says so: reconcile still finds the job."""
    (run,) = life.world.processes
    life.until(run, "POST")
    life.answer(run, kind)
    life.quiet()
    run.go(fault)
    life.quiet()
    life.heal()


@pytest.mark.parametrize("kind", ["400", "fail code", "lost", "429", "task"])
def test_a_late_word_after_an_adoption_harms_nothing(life: JobLife, kind: str) -> None:
    """A person adopted another task for the lost answer, and then the answer came after all."""
    (run,) = life.world.processes
    life.until(run, "POST")
    life.lease_passes()
    life.whole(person("adopt", life.world.bill()))
    assert life.state is JobState.SUBMITTED
    life.answer(run, kind)
    life.quiet()
    life.heal()


def test_a_late_task_of_a_dropped_job_is_still_settled(life: JobLife) -> None:
    """A person gave the job up, its mark is gone, and then the task id comes to an owner who dies right after."""
    (run,) = life.world.processes
    life.until(run, "POST")
    life.lease_passes()
    life.whole(person("drop", ""))
    life.whole(reconcile_it)
    assert life.open_marks() == []
    life.answer(run, "task")
    life.quiet()
    while life.state is not JobState.SUBMITTED:
        run.go()
        life.quiet()
    life.kill(run)
    life.heal()


def test_a_mark_that_is_taken_away_late_is_put_again(life: JobLife) -> None:
    """One run is about to take the mark of a failed job away, a person resubmits, another run claims and dies."""
    (run,) = life.world.processes
    life.until(run, "POST")
    life.answer(run, "fail code")
    life.quiet()
    life.until(run, "delete")
    life.persons.add("resubmit")
    life.whole(person("resubmit", ""))
    another = life.start(animate_it)
    life.until(another, "POST")
    life.until(run, "")
    life.kill(another)
    life.heal()


def test_a_mark_is_put_again_where_a_claim_is_just_about_to_come(life: JobLife) -> None:
    """As before, but the other run has put its mark and not yet claimed when the first one takes the mark away."""
    (run,) = life.world.processes
    life.until(run, "POST")
    life.answer(run, "fail code")
    life.quiet()
    life.until(run, "delete")
    life.persons.add("resubmit")
    life.whole(person("resubmit", ""))
    another = life.start(animate_it)
    life.until(another, "put", "jobs/open/")
    life.until(another, "put if", f"jobs/{ORDER.key}")
    life.until(run, "")
    life.until(another, "POST")
    life.kill(another)
    life.heal()
