"""The generate flow on a real Prefect server: states, messages, task runs and money."""

from __future__ import annotations

import os
from decimal import Decimal
from itertools import pairwise

import pytest

from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.flow_runs import RunFlow, final_task_runs
from tests.support.orders import put_photos

IMAGES = int(os.environ.get("I2V_RUN_IMAGES", "30"))


async def test_many_images_are_each_billed_and_stored_once(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run stores `I2V_RUN_IMAGES` (30) images, each billed once and polled no more often than the schedule says."""
    put_photos(sandbox, IMAGES)
    provider.set_options(render="shared", render_seconds=8)
    monkeypatch.setenv("I2V_POLL_FIRST_SECONDS", "6")
    monkeypatch.setenv("I2V_POLL_EVERY_SECONDS", "3")
    finished = await run_flow()
    assert finished.message == f"{IMAGES} stored · ${IMAGES * 0.192:.2f}"
    assert set(provider.billed().values()) == {1}
    for task_id, task in provider.tasks.items():
        polled = [entry.at for entry in provider.request_log.find("status", task_id)]
        assert polled[0] - task.created >= 5.9
        assert all(later - earlier >= 2.9 for earlier, later in pairwise(polled))
        assert all(at < task.created + 8 + 0.5 for at in polled[:-1]), "polled again after success"


async def test_a_second_run_is_cached_and_another_take_is_paid(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow
) -> None:
    """Stored videos and copies of their images cost nothing; take 2 is billed again."""
    put_photos(sandbox, 3)
    first = await run_flow()
    sandbox.put_image("images/copy/of-0.jpg", make_jpeg(400, 400, seed=0))
    again = await run_flow()
    billed = provider.billed_usd
    other = await run_flow(images=f"s3://{sandbox.bucket}/images/000.jpg", take=2)
    assert (first.message, again.message) == ("3 stored · $0.576", "4 cached · $0.00")
    assert billed == Decimal("0.576")
    assert other.message == "1 stored · $0.192"
    assert provider.billed_usd == Decimal("0.768")
    assert len([key for key in sandbox.keys("videos/copy/of-0.jpg/") if key.endswith(".mp4")]) == 1


async def test_each_step_of_an_image_is_a_task_run(sandbox: Sandbox, provider: Provider, run_flow: RunFlow) -> None:
    """Prefect has a named task run for each step of each image, and the final state has the summary."""
    sandbox.put_image("images/cats/tom.jpg", make_jpeg(400, 400, seed=1))
    sandbox.put_image("images/cats/small.jpg", make_jpeg(300, 300, seed=1))
    finished = await run_flow()
    assert finished.message == "1 stored · 1 refused · $0.192"
    assert finished.state.is_completed()
    assert sorted(run.name for run in await final_task_runs(finished, 5)) == sorted(
        ["validate cats/small.jpg", *(f"{step} cats/tom.jpg" for step in ("validate", "submit", "poll", "store"))]
    )


async def test_an_unknown_job_fails_the_run_at_its_end(sandbox: Sandbox, provider: Provider, run_flow: RunFlow) -> None:
    """One lost submit fails the run with a summary, after all other images were stored."""
    put_photos(sandbox, 3)
    provider.add_fault(on="submit", kind="lost_answer")
    finished = await run_flow()
    assert finished.state.is_failed()
    assert finished.message == "2 stored · 1 unknown · $0.384 charged, $0.192 possibly charged"
    assert (finished.report["spent_usd"], finished.report["at_risk_usd"]) == (0.384, 0.192)
    assert sorted(finished.outcomes.values()) == ["stored", "stored", "unknown"]


async def test_a_dry_run_prices_everything_and_writes_nothing(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow
) -> None:
    """A dry run reports what would be paid, and sends nothing to the bucket or the provider."""
    put_photos(sandbox, 2)
    before = sandbox.keys()
    finished = await run_flow(dry_run=True)
    assert finished.message == "2 planned · would cost $0.384"
    assert sandbox.keys() == before
    assert provider.request_log.entries == []


async def test_a_run_that_cannot_be_paid_in_full_does_not_start(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow
) -> None:
    """With money for two of three videos nothing is submitted, or two with `partial`."""
    put_photos(sandbox, 3)
    stopped = await run_flow(max_spend_usd=Decimal("0.50"))
    partial = await run_flow(max_spend_usd=Decimal("0.50"), partial=True)
    assert "max_spend_usd has $0.50 left, 3 videos cost $0.576" in stopped.message
    assert partial.message == "2 stored · 1 not tried (spending limit) · $0.384"
    assert (stopped.state.is_failed(), partial.state.is_completed()) == (True, True)
    assert len(provider.tasks) == 2


async def test_the_balance_is_checked_first(sandbox: Sandbox, provider: Provider, run_flow: RunFlow) -> None:
    """If the balance is too low for all videos, nothing is submitted and the message shows the balance."""
    put_photos(sandbox, 3)
    provider.set_options(balance_usd=Decimal("0.40"))
    finished = await run_flow()
    assert "balance has $0.4" in finished.message
    assert provider.request_log.find("submit") == []


async def test_validation_of_an_unchanged_image_is_cached(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow
) -> None:
    """The second run takes the validation of an unchanged image from Prefect's cache."""
    put_photos(sandbox, 1)
    await run_flow()
    finished = await run_flow()
    states = {run.name: run.state_name for run in await final_task_runs(finished, 2)}
    assert states["validate 000.jpg"] == "Cached"


async def test_steps_depend_on_the_steps_of_their_own_image(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow
) -> None:
    """In the graph a poll follows its submit and a store its poll, and no edge connects two images."""
    put_photos(sandbox, 3)
    finished = await run_flow()
    runs = await final_task_runs(finished, 12)
    names = {run.id: run.name for run in runs}
    edges = {
        (names[source.id], run.name)
        for run in runs
        for source in [each for inputs in run.task_inputs.values() for each in inputs]
        if source.input_type == "task_run"
    }
    pairs = (("submit", "poll"), ("poll", "store"))
    assert edges >= {(f"{a} {n:03}.jpg", f"{b} {n:03}.jpg") for a, b in pairs for n in range(3)}
    assert {(a, b) for a, b in edges if a.split()[1] != b.split()[1]} == set()


async def test_a_signed_url_is_refused_at_the_start(sandbox: Sandbox, provider: Provider, run_flow: RunFlow) -> None:
    """A run whose parameter is a signed URL ends at once, with the remedy and without the signature."""
    (uri,) = put_photos(sandbox, 1)
    signed = sandbox.presign(uri)
    finished = await run_flow(images=[signed])
    assert finished.state.is_failed()
    assert "Put the image under the images prefix" in finished.message
    assert "Signature" not in finished.message
    assert provider.request_log.entries == []
