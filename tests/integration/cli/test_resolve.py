"""`i2v jobs resolve` and `i2v reconcile` as processes."""

from __future__ import annotations

import pytest

from i2v.ledger.job import JobState
from i2v.pipeline.generate import Steps, process_order
from i2v.pipeline.submit import submit
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.forked_command import forked_i2v
from tests.support.i2v_command import bare_env
from tests.support.orders import OpenRun, order_for, put_photo


@pytest.fixture
async def lost(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> str:
    """The key of a job whose submit got no response."""
    provider.add_fault(on="submit", kind="lost_answer")
    async with new_run() as run:
        held = await submit(run, await order_for(run, put_photo(sandbox)))
    assert held.record.state is JobState.UNKNOWN
    return held.record.key


def test_an_unknown_job_is_listed_adopted_and_stored(sandbox: Sandbox, provider: Provider, lost: str) -> None:
    """Reconcile lists the job and exits 1; after --adopt, reconcile stores the video and exits 0."""
    env = bare_env(**sandbox.env)
    listed = forked_i2v("reconcile", env=env)
    (task_id,) = provider.tasks
    provider.wait(lambda: provider.tasks[task_id].state == "success")
    adopted = forked_i2v("jobs", "resolve", lost[:12], "--adopt", task_id, env=env)
    stored = forked_i2v("reconcile", "--json", env=env)
    assert (listed.code, "1 unknown" in listed.out) == (1, True), listed
    assert adopted.code == 0, adopted
    assert (stored.code, stored.report["stored"]) == (0, 1), stored
    assert sum(provider.billed().values()) == 1


def test_resubmit_needs_confirmation(sandbox: Sandbox, lost: str) -> None:
    """Without a terminal and without --yes the job stays unknown; with --yes it becomes ready."""
    env = bare_env(**sandbox.env)
    unconfirmed = forked_i2v("jobs", "resolve", "--state", "unknown", "--all", "--resubmit", env=env)
    listed = forked_i2v("jobs", "--state", "unknown", "--json", env=env)
    done = forked_i2v("jobs", "resolve", "--state", "unknown", "--all", "--resubmit", "--yes", "--json", env=env)
    assert (unconfirmed.code, "1 job will be retried" in unconfirmed.err, "$0.192" in unconfirmed.err) == (
        2,
        True,
        True,
    )
    assert "Add --yes" in unconfirmed.err
    assert [job["key"] for job in listed.report["jobs"]] == [lost]
    assert [job["state"] for job in done.report["jobs"]] == ["ready"]


@pytest.fixture
async def unverified(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> str:
    """The key of a job whose video is damaged for ever, beside a job with a whole one."""
    async with new_run() as run:
        whole = await process_order(run, await order_for(run, put_photo(sandbox, "whole.jpg", 2)), Steps())
        provider.add_fault(on="file", kind="truncated", times=None)
        damaged = await process_order(run, await order_for(run, put_photo(sandbox)), Steps())
    assert (whole.state, damaged.state) == (JobState.STORED, JobState.STORED)
    return damaged.job or ""


def test_unverified_videos_are_kept(sandbox: Sandbox, unverified: str) -> None:
    """The job's next step is --keep; of all stored jobs only those with an unverified video are selected."""
    env = bare_env(**sandbox.env)
    shown = forked_i2v("jobs", "show", unverified, env=env)
    kept = forked_i2v("jobs", "resolve", "--state", "stored", "--all", "--keep", "--json", env=env)
    again = forked_i2v("jobs", "show", unverified, env=env)
    assert f"i2v jobs resolve {unverified[:12]} --keep" in shown.out
    assert [job["key"] for job in kept.report["jobs"]] == [unverified]
    assert (kept.code, kept.report["not_resolved"]) == (0, [])
    assert "kept by a person" in again.out
    assert "i2v jobs resolve" not in again.out.partition("next")[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--drop"], "Use either job keys or"),
        (["abcdef123456"], "Use exactly one of"),
        (["abcdef123456", "--drop", "--resubmit"], "Use exactly one of"),
        (["--state", "unknown", "--drop"], "Add --all"),
        (["abcdef123456", "fedcba123456", "--adopt", "task_1"], "--adopt needs exactly one job key"),
        (["abcdef123456", "--drop"], "No job key begins"),
        (["zz", "--drop"], "is not a job key"),
    ],
)
def test_wrong_usage_exits_2(sandbox: Sandbox, words: list[str], message: str) -> None:
    """Wrong usage exits 2 with an error."""
    result = forked_i2v("jobs", "resolve", *words, env=bare_env(**sandbox.env))
    assert (result.code, message in result.err) == (2, True), result


def test_a_stored_job_is_not_resolved(sandbox: Sandbox, provider: Provider, lost: str) -> None:
    """A job in a final state cannot be dropped: exit code 2."""
    env = bare_env(**sandbox.env)
    first = forked_i2v("jobs", "resolve", lost, "--drop", "--yes", env=env)
    second = forked_i2v("jobs", "resolve", lost, "--drop", "--yes", env=env)
    assert (first.code, second.code) == (0, 2), (first, second)
    assert "is failed" in second.err


def test_reconcile_of_an_empty_ledger_succeeds(sandbox: Sandbox) -> None:
    """Without open jobs reconcile says so and exits 0."""
    result = forked_i2v("reconcile", env=bare_env(**sandbox.env))
    assert (result.code, result.out) == (0, "nothing is open\n"), result
