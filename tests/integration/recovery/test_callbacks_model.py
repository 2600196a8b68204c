"""The moments in which a callback, the submit's own answer, a crash and S3's faults meet, one by one.

Chance meets them too, in `test_job_model.py`: half of its lives are by callback.
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
STEPS_OF_AN_ADOPTION = [("status", ""), ("put if", "jobs/tasks/"), ("put", "jobs/open/"), ("put if", RECORD)]


@pytest.fixture
def life() -> Iterator[JobStateMachine]:
    """A life by callback with one run, whose POST was accepted and is not yet answered."""
    loop = VirtualTimeLoop()
    asyncio.set_event_loop(loop)
    logging.disable()
    led = JobStateMachine(loop)
    led.begin(most=2, cap=None, seed=0, steps_ahead=[0], delivery="callback")
    led.advance_to(led.world.processes[0], "POST")
    yield led
    led.kill_all()
    logging.disable(logging.NOTSET)
    asyncio.set_event_loop(None)
    loop.close()


def called_back(life: JobStateMachine) -> tuple[str, SimulatedProcess]:
    """The provider calls before it answers; reconcile has begun to hear it."""
    task_id = life.world.bill_early()
    return task_id, life.start(settle_from_callback(1, task_id))


def finish(life: JobStateMachine, process: SimulatedProcess) -> None:
    """Let one process come to its end."""
    life.advance_to(process, "")


@pytest.mark.parametrize(("kind", "at"), STEPS_OF_AN_ADOPTION)
@pytest.mark.parametrize("answer", ["task", "lost"])
def test_the_answer_comes_while_the_callback_is_heard(life: JobStateMachine, kind: str, at: str, answer: str) -> None:
    """Before each step of an adoption: one task, one payment, and the video is stored."""
    (run,) = life.world.processes
    task_id, heard = called_back(life)
    life.advance_to(heard, kind, at)
    life.answer(run, answer)
    life.run_until_blocked()
    finish(life, run)
    finish(life, heard)
    life.settle_everything()
    record = life.world.record()
    assert record is not None
    assert (task_ids(record), record.attempts[0].other_task_ids) == ({task_id}, ())
    assert (life.state, life.open_marks()) == (JobState.STORED, [])


@pytest.mark.parametrize(("kind", "at"), STEPS_OF_AN_ADOPTION)
def test_whoever_hears_it_dies(life: JobStateMachine, kind: str, at: str) -> None:
    """Before each step both die, the run and whoever heard the callback: the provider's next try is heard as well."""
    (run,) = life.world.processes
    task_id, heard = called_back(life)
    life.advance_to(heard, kind, at)
    life.kill(heard)
    life.kill(run)
    life.settle_everything()
    record = life.world.record()
    assert record is not None
    assert (life.state, record.task_id) == (JobState.STORED, task_id)


@pytest.mark.parametrize(("kind", "at"), STEPS_OF_AN_ADOPTION[1:])
@pytest.mark.parametrize("fault", S3Fault)
def test_s3_fails_while_the_callback_is_heard(life: JobStateMachine, kind: str, at: str, fault: S3Fault) -> None:
    """However a write of the adoption ends, the task is the job's after the next word of it, and once."""
    (run,) = life.world.processes
    task_id, heard = called_back(life)
    life.advance_to(heard, kind, at)
    heard.resume(fault)
    life.run_until_blocked()
    finish(life, heard)
    life.kill(run)
    life.settle_everything()
    record = life.world.record()
    assert record is not None
    assert (life.state, record.task_id, task_ids(record)) == (JobState.STORED, task_id, {task_id})


def test_a_strange_word_adds_nothing_to_what_the_owner_wrote(life: JobStateMachine) -> None:
    """A forged word named a task of nobody's; the owner's answer is written first, and nothing is written beside it."""
    (run,) = life.world.processes
    heard = life.start(settle_from_callback(1, life.world.bill()))
    life.advance_to(heard, *STEPS_OF_AN_ADOPTION[-1])
    life.answer(run, "task")
    life.run_until_blocked()
    finish(life, run)
    finish(life, heard)
    record = life.world.record()
    assert record is not None
    assert task_ids(record) == {run.received[0]}


def test_another_run_attaches_to_what_a_callback_brought(life: JobStateMachine) -> None:
    """The owner is dead, its lease not over, and another run waits for its claim: it finds the task, and pays not."""
    (run,) = life.world.processes
    _, heard = called_back(life)
    life.kill(run)
    other = life.start(generate_video)
    finish(life, heard)
    finish(life, other)
    life.settle_everything()
    assert (life.state, life.world.maybe_paid) == (JobState.STORED, 1)
