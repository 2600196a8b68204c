"""A callback, the submit response, a crash and S3 faults at each step of an adoption.

`test_job_model.py` combines them at random: half of its examples use callbacks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from i2v.ledger.job import JobState
from tests.support.interleaving import S3Fault, VirtualTimeLoop
from tests.support.job_state_machine import JobStateMachine, generate_video, settle_from_callback, task_ids
from tests.support.simulated_world import ORDER, SimulatedProcess

RECORD = f"jobs/{ORDER.key}"
ADOPTION_STEPS = [("status", ""), ("put if", "jobs/tasks/"), ("put", "jobs/open/"), ("put if", RECORD)]


@pytest.fixture
def machine() -> Iterator[JobStateMachine]:
    """Return a machine with one callback run whose POST was accepted and has no response yet."""
    loop = VirtualTimeLoop()
    asyncio.set_event_loop(loop)
    logging.disable()
    job_machine = JobStateMachine(loop)
    job_machine.begin(most=2, cap=None, seed=0, steps_ahead=[0], delivery="callback")
    job_machine.advance_to(job_machine.world.processes[0], "POST")
    yield job_machine
    job_machine.kill_all()
    logging.disable(logging.NOTSET)
    asyncio.set_event_loop(None)
    loop.close()


def start_callback(machine: JobStateMachine) -> tuple[str, SimulatedProcess]:
    """Deliver a callback before the submit response; return the task id and the process that handles it."""
    task_id = machine.world.bill_early()
    return task_id, machine.start(settle_from_callback(1, task_id))


def run_to_end(machine: JobStateMachine, process: SimulatedProcess) -> None:
    """Run one process to its end."""
    machine.advance_to(process, "")


@pytest.mark.parametrize(("kind", "at"), ADOPTION_STEPS)
@pytest.mark.parametrize("answer", ["task", "lost"])
def test_the_response_arrives_during_an_adoption(machine: JobStateMachine, kind: str, at: str, answer: str) -> None:
    """If the response arrives before any step of an adoption, there is one task, one payment and a stored video."""
    (run,) = machine.world.processes
    task_id, callback = start_callback(machine)
    machine.advance_to(callback, kind, at)
    machine.answer(run, answer)
    machine.run_until_blocked()
    run_to_end(machine, run)
    run_to_end(machine, callback)
    machine.settle_everything()
    record = machine.world.record()
    assert record is not None
    assert (task_ids(record), record.attempts[0].other_task_ids) == ({task_id}, ())
    assert (machine.state, machine.open_markers()) == (JobState.STORED, [])


@pytest.mark.parametrize(("kind", "at"), ADOPTION_STEPS)
def test_an_interrupted_adoption_is_repeated(machine: JobStateMachine, kind: str, at: str) -> None:
    """If the run and the callback's process die before any step, the provider's next delivery stores the video."""
    (run,) = machine.world.processes
    task_id, callback = start_callback(machine)
    machine.advance_to(callback, kind, at)
    machine.kill(callback)
    machine.kill(run)
    machine.settle_everything()
    record = machine.world.record()
    assert record is not None
    assert (machine.state, record.task_id) == (JobState.STORED, task_id)


@pytest.mark.parametrize(("kind", "at"), ADOPTION_STEPS[1:])
@pytest.mark.parametrize("fault", S3Fault)
def test_s3_fails_during_an_adoption(machine: JobStateMachine, kind: str, at: str, fault: S3Fault) -> None:
    """However a write of the adoption fails, the job gets the task exactly once."""
    (run,) = machine.world.processes
    task_id, callback = start_callback(machine)
    machine.advance_to(callback, kind, at)
    callback.resume(fault)
    machine.run_until_blocked()
    run_to_end(machine, callback)
    machine.kill(run)
    machine.settle_everything()
    record = machine.world.record()
    assert record is not None
    assert (machine.state, record.task_id, task_ids(record)) == (JobState.STORED, task_id, {task_id})


def test_a_forged_callback_adds_nothing_to_a_recorded_task(machine: JobStateMachine) -> None:
    """If the owner records its task first, a callback with an unrelated task adds nothing."""
    (run,) = machine.world.processes
    callback = machine.start(settle_from_callback(1, machine.world.bill()))
    machine.advance_to(callback, *ADOPTION_STEPS[-1])
    machine.answer(run, "task")
    machine.run_until_blocked()
    run_to_end(machine, run)
    run_to_end(machine, callback)
    record = machine.world.record()
    assert record is not None
    assert task_ids(record) == {run.received[0]}


def test_another_run_attaches_to_an_adopted_task(machine: JobStateMachine) -> None:
    """A run that waits for a dead run's claim attaches to the task from the callback without paying."""
    (run,) = machine.world.processes
    _, callback = start_callback(machine)
    machine.kill(run)
    other = machine.start(generate_video)
    run_to_end(machine, callback)
    run_to_end(machine, other)
    machine.settle_everything()
    assert (machine.state, machine.world.maybe_paid) == (JobState.STORED, 1)
