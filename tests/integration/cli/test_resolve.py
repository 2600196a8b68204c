"""`i2v jobs resolve` and `i2v reconcile` as a person types them."""

from __future__ import annotations

import pytest

from i2v.ledger.job import JobState
from i2v.pipeline.submit import submit
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.i2v_command import bare_env, i2v
from tests.support.orders import OpenRun, order_for, put_photo


@pytest.fixture
async def lost(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> str:
    """The key of a job whose paid submit lost its answer."""
    provider.add_fault(on="submit", kind="lost_answer")
    async with new_run() as run:
        held = await submit(run, await order_for(run, put_photo(sandbox)))
    assert held.record.state is JobState.UNKNOWN
    return held.record.key


def test_an_unknown_job_is_named_adopted_and_stored(sandbox: Sandbox, provider: Provider, lost: str) -> None:
    """Reconcile names it and exits 1; adopt takes the task; reconcile then stores the video and exits 0."""
    env = bare_env(**sandbox.env)
    named = i2v("reconcile", env=env)
    (task_id,) = provider.tasks
    adopted = i2v("jobs", "resolve", lost[:12], "--adopt", task_id, env=env)
    stored = i2v("reconcile", "--json", env=env)
    assert (named.code, "1 unknown" in named.out) == (1, True), named
    assert adopted.code == 0, adopted
    assert (stored.code, stored.report["stored"]) == (0, 1), stored
    assert sum(provider.billed().values()) == 1


def test_what_costs_money_is_asked_first(sandbox: Sandbox, lost: str) -> None:
    """Without a terminal and without --yes nothing is made ready; with it, it is."""
    env = bare_env(**sandbox.env)
    asked = i2v("jobs", "resolve", "--state", "unknown", "--all", "--resubmit", env=env)
    still = i2v("jobs", "--state", "unknown", "--json", env=env)
    done = i2v("jobs", "resolve", "--state", "unknown", "--all", "--resubmit", "--yes", "--json", env=env)
    assert (asked.code, "Add --yes" in asked.err, "$0.192" in asked.err) == (2, True, True), asked
    assert [job["key"] for job in still.report["jobs"]] == [lost]
    assert [job["state"] for job in done.report["jobs"]] == ["ready"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--drop"], "Name jobs by their keys"),
        (["abcdef123456"], "Say one of"),
        (["abcdef123456", "--drop", "--resubmit"], "Say one of"),
        (["--state", "unknown", "--drop"], "Add --all"),
        (["abcdef123456", "fedcba123456", "--adopt", "task_1"], "One task is one job's"),
        (["abcdef123456", "--drop"], "No job's key begins"),
        (["zz", "--drop"], "is no job key"),
    ],
)
def test_what_cannot_be_meant_is_told(sandbox: Sandbox, words: list[str], told: str) -> None:
    """Wrong usage exits 2 with a sentence and changes nothing."""
    said = i2v("jobs", "resolve", *words, env=bare_env(**sandbox.env))
    assert (said.code, told in said.err) == (2, True), said


def test_a_stored_job_is_not_resolved(sandbox: Sandbox, provider: Provider, lost: str) -> None:
    """A job in another state is told as such, and exits 2."""
    env = bare_env(**sandbox.env)
    first = i2v("jobs", "resolve", lost, "--drop", "--yes", env=env)
    second = i2v("jobs", "resolve", lost, "--drop", "--yes", env=env)
    assert (first.code, second.code) == (0, 2), (first, second)
    assert "is failed" in second.err


def test_nothing_open_is_said(sandbox: Sandbox) -> None:
    """An empty ledger is no trouble."""
    said = i2v("reconcile", env=bare_env(**sandbox.env))
    assert (said.code, said.out) == (0, "nothing is open\n"), said
