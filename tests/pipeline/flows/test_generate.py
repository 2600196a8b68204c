"""The flow on a real Prefect server: what a data team runs and what it is told."""

from __future__ import annotations

import os
from collections import Counter
from decimal import Decimal
from itertools import pairwise

import pytest
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.flow_runs import RunFlow

IMAGES = int(os.environ.get("I2V_RUN_IMAGES", "60"))


def fill(sandbox: Sandbox, count: int) -> None:
    """So many different good images."""
    for number in range(count):
        sandbox.put_image(f"images/{number:03}.jpg", make_jpeg(400, 400, seed=number))


async def test_many_images_are_each_billed_and_stored_once(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run stores `I2V_RUN_IMAGES` (60) images, each billed once and polled no more often than the schedule says."""
    fill(sandbox, IMAGES)
    provider.set_options(render="shared", render_seconds=8)
    monkeypatch.setenv("I2V_POLL_FIRST_SECONDS", "6")
    monkeypatch.setenv("I2V_POLL_EVERY_SECONDS", "3")
    ended = await run_flow()
    assert ended.message == f"{IMAGES} stored · ${IMAGES * 0.192:.2f}"
    assert set(provider.billed().values()) == {1}
    for task_id, task in provider.tasks.items():
        asked = [entry.at for entry in provider.request_log.find("status", task_id)]
        assert asked[0] - task.created >= 5.9
        assert all(later - earlier >= 2.9 for earlier, later in pairwise(asked))
        assert all(moment < task.created + 8 + 0.5 for moment in asked[:-1]), "none after the one that said success"


async def test_the_same_again_is_cached_and_another_take_is_paid(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow
) -> None:
    """Nothing is billed for what is there; a copy elsewhere is free; take 2 is billed once more."""
    fill(sandbox, 3)
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


async def test_the_run_tells_its_story(sandbox: Sandbox, provider: Provider, run_flow: RunFlow) -> None:
    """Prefect has a task run for each step and image by name, and the final state has the report in words."""
    sandbox.put_image("images/cats/tom.jpg", make_jpeg(400, 400, seed=1))
    sandbox.put_image("images/cats/small.jpg", make_jpeg(300, 300, seed=1))
    ended = await run_flow()
    assert ended.message == "1 stored · 1 refused · $0.192"
    assert ended.state.is_completed()
    run_id = ended.state.state_details.flow_run_id
    assert run_id
    async with get_client() as client:
        only = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
        names: Counter[str] = Counter()
        while len(names) < 5 or not all(" " in name for name in names):  # the server hears of names a moment later
            names = Counter(run.name for run in await client.read_task_runs(flow_run_filter=only))
    assert names == Counter(
        ["validate cats/small.jpg", *(f"{step} cats/tom.jpg" for step in ("validate", "submit", "poll", "store"))]
    )


async def test_trouble_ends_the_run_failed_after_everything_else(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow
) -> None:
    """One lost answer fails the run, says so in words, and costs the others nothing."""
    fill(sandbox, 3)
    provider.add_fault(on="submit", kind="lost_answer")
    ended = await run_flow()
    assert ended.state.is_failed()
    assert ended.message == "2 stored · 1 unknown · $0.384"
    assert (ended.report["spent_usd"], ended.report["at_risk_usd"]) == (0.384, 0.192)
    assert sorted(ended.outcomes.values()) == ["stored", "stored", "unknown"]


async def test_a_dry_run_prices_everything_and_writes_nothing(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow
) -> None:
    """A dry run says what would be paid; neither bucket nor provider notice it."""
    fill(sandbox, 2)
    before = sandbox.keys()
    ended = await run_flow(dry_run=True)
    assert ended.message == "2 planned · would cost $0.384"
    assert sandbox.keys() == before
    assert provider.request_log.entries == []


async def test_a_run_that_cannot_be_paid_in_full_does_not_start(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow
) -> None:
    """Three videos and money for two: nothing is submitted, unless partial, and then two are."""
    fill(sandbox, 3)
    stopped = await run_flow(max_spend_usd=Decimal("0.50"))
    partial = await run_flow(max_spend_usd=Decimal("0.50"), partial=True)
    assert "max_spend_usd has $0.50 left, 3 videos cost $0.576" in stopped.message
    assert partial.message == "2 stored · 1 not tried · $0.384"
    assert len(provider.tasks) == 2


async def test_the_balance_is_asked_first(sandbox: Sandbox, provider: Provider, run_flow: RunFlow) -> None:
    """An account that cannot pay for all is left alone, with a message that says what is there."""
    fill(sandbox, 3)
    provider.set_options(balance_usd=Decimal("0.40"))
    ended = await run_flow()
    assert "balance has $0.4" in ended.message
    assert provider.request_log.find("submit") == []


async def test_validation_of_an_unchanged_image_is_cached(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow
) -> None:
    """The second run takes the first one's validation from Prefect's cache."""
    fill(sandbox, 1)
    await run_flow()
    ended = await run_flow()
    run_id = ended.state.state_details.flow_run_id
    assert run_id
    async with get_client() as client:
        only = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
        states: dict[str, str] = {}
        while states.get("validate 000.jpg") not in {"Cached", "Completed"}:
            runs = await client.read_task_runs(flow_run_filter=only)
            states = {run.name: run.state_name or "" for run in runs}
    assert states["validate 000.jpg"] == "Cached"


async def test_steps_depend_on_the_steps_of_their_own_image(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow
) -> None:
    """In the graph an image's poll follows its submit and its store its poll, and no arrow leads to another image."""
    fill(sandbox, 3)
    ended = await run_flow()
    run_id = ended.state.state_details.flow_run_id
    assert run_id
    async with get_client() as client:
        only = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
        while len(runs := await client.read_task_runs(flow_run_filter=only)) < 12:
            continue
    names = {run.id: run.name for run in runs}
    arrows = {
        (names[given.id], run.name)
        for run in runs
        for given in [each for inputs in run.task_inputs.values() for each in inputs]
        if given.input_type == "task_run"
    }
    pairs = (("submit", "poll"), ("poll", "store"))
    assert arrows >= {(f"{a} {n:03}.jpg", f"{b} {n:03}.jpg") for a, b in pairs for n in range(3)}
    assert {(a, b) for a, b in arrows if a.split()[1] != b.split()[1]} == set()
