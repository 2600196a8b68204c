"""Model tests of one job: races, crashes, lost responses and manual resolution, at random and as named scenarios.

Hypothesis interleaves the real steps, by default through the same 100 examples each time. `I2V_MODEL_EXAMPLES` runs
that many random examples and shrinks failures; `I2V_MODEL_STEPS` sets their length.
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

RANDOM = "I2V_MODEL_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("I2V_MODEL_EXAMPLES", "100"))
PROFILE = settings(
    max_examples=EXAMPLES,
    stateful_step_count=int(os.environ.get("I2V_MODEL_STEPS", "50")),
    derandomize=not RANDOM,
    phases=list(Phase) if RANDOM else [Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def loop() -> Iterator[VirtualTimeLoop]:
    """Return an event loop with virtual time; logging is off, since the faults cause thousands of warnings."""
    loop = VirtualTimeLoop()
    asyncio.set_event_loop(loop)
    logging.disable()
    yield loop
    logging.disable(logging.NOTSET)
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def machine(loop: VirtualTimeLoop) -> Iterator[JobStateMachine]:
    """Return a machine with one run at its first step; `settle_everything()` also checks how the job ends."""
    machine = JobStateMachine(loop)
    machine.begin(most=2, cap=None, seed=0, steps_ahead=[0])
    yield machine
    machine.kill_all()


@pytest.mark.timeout(60 + EXAMPLES)
def test_random_interleavings_keep_the_promises(loop: VirtualTimeLoop) -> None:
    """No interleaving of runs, crashes, faults and manual actions pays twice, drops a task or exceeds a limit."""
    run_state_machine_as_test(lambda: JobStateMachine(loop), settings=PROFILE)  # type: ignore[arg-type] # any callable works


@pytest.mark.parametrize("fault", [None, *S3Fault])
def test_of_two_runs_about_to_claim_one_pays(machine: JobStateMachine, fault: S3Fault | None) -> None:
    """Two runs reserve money for a ready job; at most one sends its POST, whatever fails in the first one's claim."""
    first, second = machine.world.processes[0], machine.start(generate_video)
    for run in (first, second):
        machine.advance_to(run, "put", "jobs/open/")
        machine.advance_to(run, "put if", f"jobs/{ORDER.key}")
    first.resume(fault)
    machine.run_until_blocked()
    second.resume()
    machine.run_until_blocked()
    assert len(machine.world.posting) <= 1
    machine.settle_everything()


@pytest.mark.parametrize(("fault", "state"), [(S3Fault.FAILS, None), (S3Fault.LOST, JobState.READY)])
def test_a_claim_whose_write_fails_is_released(
    machine: JobStateMachine, fault: S3Fault, state: JobState | None
) -> None:
    """If S3 fails during the claim, nothing is sent, the job is new or ready, and no money stays reserved."""
    (run,) = machine.world.processes
    machine.advance_to(run, "put", "jobs/open/")
    machine.advance_to(run, "put if", f"jobs/{ORDER.key}")
    run.resume(fault)
    machine.run_until_blocked()
    machine.advance_to(run, "")
    assert (machine.state, machine.world.reserved()) == (state, Decimal(0))
    machine.settle_everything()


def test_reconcile_stores_the_video_of_a_dead_run(machine: JobStateMachine) -> None:
    """If a run dies after recording its task id, reconcile alone stores the video."""
    (run,) = machine.world.processes
    machine.advance_to(run, "POST")
    machine.answer(run, "task")
    machine.run_until_blocked()
    while machine.next_step(run) != "status":
        run.resume()
        machine.run_until_blocked()
    machine.end_tasks("success")
    machine.kill(run)
    machine.settle_everything()
    assert machine.state is JobState.STORED


def test_reconcile_leaves_a_fresh_claim_alone(machine: JobStateMachine) -> None:
    """Reconcile does not touch a claim whose lease has not expired."""
    (run,) = machine.world.processes
    machine.advance_to(run, "POST")
    machine.run_alone(run_reconcile)
    assert machine.state is JobState.CLAIMED
    machine.settle_everything()


@pytest.mark.parametrize(("kind", "state"), [("lost", JobState.UNKNOWN), ("fail code", JobState.FAILED)])
def test_a_submit_that_may_be_billed_is_not_repeated(machine: JobStateMachine, kind: str, state: JobState) -> None:
    """A later run does not submit the job again, and the money stays reserved."""
    (run,) = machine.world.processes
    machine.advance_to(run, "POST")
    machine.answer(run, kind, billed=True)
    machine.run_until_blocked()
    machine.advance_to(run, "")
    machine.run_alone(generate_video)
    assert (machine.state, machine.world.reserved()) == (state, PRICE)
    machine.settle_everything()


@pytest.mark.parametrize("fault", [S3Fault.FAILS, S3Fault.LOST, S3Fault.BUSY, S3Fault.REPEATED, S3Fault.LATE])
def test_writing_a_task_id_is_retried_until_it_succeeds(machine: JobStateMachine, fault: S3Fault) -> None:
    """A paid task's id is recorded even if its write fails five times."""
    (run,) = machine.world.processes
    machine.advance_to(run, "POST")
    machine.answer(run, "task")
    machine.run_until_blocked()
    for _ in range(5):
        if machine.next_step(run) != "status":
            run.resume(fault)
            machine.run_until_blocked()
    machine.settle_everything()
    assert machine.state in {JobState.STORED, JobState.FAILED, JobState.REFUSED, JobState.READY}


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        *((kind, fault) for kind in ("400", "fail code") for fault in (S3Fault.FAILS, S3Fault.LATE)),
        *((kind, S3Fault.LOST) for kind in ("400", "fail code")),
        *((kind, fault) for kind in ("lost", "429") for fault in (S3Fault.FAILS, S3Fault.LOST, S3Fault.LATE)),
    ],
)
def test_reconcile_finds_a_job_whose_end_was_not_written(machine: JobStateMachine, kind: str, fault: S3Fault) -> None:
    """If S3 fails when the response of a POST is recorded, reconcile still finds and settles the job."""
    (run,) = machine.world.processes
    machine.advance_to(run, "POST")
    machine.answer(run, kind)
    machine.run_until_blocked()
    run.resume(fault)
    machine.run_until_blocked()
    machine.settle_everything()


@pytest.mark.parametrize("kind", ["400", "fail code", "lost", "429", "task"])
def test_a_late_response_after_an_adoption_is_harmless(machine: JobStateMachine, kind: str) -> None:
    """A submit response that arrives after a user adopted another task breaks no invariant."""
    (run,) = machine.world.processes
    machine.advance_to(run, "POST")
    machine.expire_lease()
    machine.run_alone(resolve_by_hand("adopt", machine.world.bill()))
    assert machine.state is JobState.SUBMITTED
    machine.answer(run, kind)
    machine.run_until_blocked()
    machine.settle_everything()


def test_a_late_task_of_a_dropped_job_is_still_settled(machine: JobStateMachine) -> None:
    """A task id that arrives after its job was dropped and its marker deleted is settled, even if the run then dies."""
    (run,) = machine.world.processes
    machine.advance_to(run, "POST")
    machine.expire_lease()
    machine.run_alone(resolve_by_hand("drop", ""))
    machine.run_alone(run_reconcile)
    assert machine.open_markers() == []
    machine.answer(run, "task")
    machine.run_until_blocked()
    while machine.state is not JobState.SUBMITTED:
        run.resume()
        machine.run_until_blocked()
    machine.kill(run)
    machine.settle_everything()


def test_a_marker_deleted_late_is_restored(machine: JobStateMachine) -> None:
    """A job stays findable if a run deletes its old marker after another run claimed it again and died."""
    (run,) = machine.world.processes
    machine.advance_to(run, "POST")
    machine.answer(run, "fail code")
    machine.run_until_blocked()
    machine.advance_to(run, "delete")
    machine.manual_actions.add("resubmit")
    machine.run_alone(resolve_by_hand("resubmit", ""))
    another = machine.start(generate_video)
    machine.advance_to(another, "POST")
    machine.advance_to(run, "")
    machine.kill(another)
    machine.settle_everything()


def test_a_marker_deleted_just_before_a_claim_is_restored(machine: JobStateMachine) -> None:
    """A job stays findable if a run deletes its marker just before another run claims it and dies."""
    (run,) = machine.world.processes
    machine.advance_to(run, "POST")
    machine.answer(run, "fail code")
    machine.run_until_blocked()
    machine.advance_to(run, "delete")
    machine.manual_actions.add("resubmit")
    machine.run_alone(resolve_by_hand("resubmit", ""))
    another = machine.start(generate_video)
    machine.advance_to(another, "put", "jobs/open/")
    machine.advance_to(another, "put if", f"jobs/{ORDER.key}")
    machine.advance_to(run, "")
    machine.advance_to(another, "POST")
    machine.kill(another)
    machine.settle_everything()
