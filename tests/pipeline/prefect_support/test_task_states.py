"""What Prefect calls the end of each step: its own words where they fit, and ours where it has none."""

from __future__ import annotations

import asyncio
import re
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.flow_runs import FinishedFlowRun, RunFlow


async def ends_of(ended: FinishedFlowRun, count: int) -> dict[str, tuple[str, str]]:
    """The final state's name and words of so many task runs, once the server has heard of them."""
    only = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(str(ended.state.state_details.flow_run_id))]))
    async with get_client() as client:
        for _ in range(300):
            runs = await client.read_task_runs(flow_run_filter=only)
            states = {run.name: run.state for run in runs if run.state and run.state.is_final()}
            if len(states) == count:
                break
            await asyncio.sleep(0.1)
    return {name: (str(state.name), str(state.message)) for name, state in states.items()}


async def test_each_end_of_a_step_has_a_name(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, Unknown and Failed, each with its reason; what worked tells its money, its wait and its video."""
    for seed, name in enumerate(("good", "nsfw", "gone", "lost")):
        sandbox.put_image(f"images/{name}.jpg", make_jpeg(400, 400, seed=seed), prompt=name)
    sandbox.put_image("images/small.jpg", make_jpeg(200, 200))
    provider.add_fault(on="task", kind="fails", code="NSFW", prompt="nsfw", times=None)
    provider.add_fault(on="task", kind="fails", code="MODEL_X", prompt="gone", times=None)
    provider.add_fault(on="submit", kind="lost_answer", prompt="lost")
    ended = await run_flow()

    ends = await ends_of(ended, 13)

    assert {name: state for name, (state, _) in ends.items()} == {
        **{f"validate {name}.jpg": "Completed" for name in ("good", "nsfw", "gone", "lost")},
        **{f"submit {name}.jpg": "Completed" for name in ("good", "nsfw", "gone")},
        "validate small.jpg": "Refused",
        "submit lost.jpg": "Unknown",
        "poll good.jpg": "Completed",
        "poll nsfw.jpg": "Refused",
        "poll gone.jpg": "Failed",
        "store good.jpg": "Completed",
    }
    assert "is too small" in ends["validate small.jpg"][1]
    assert re.fullmatch(r"paid \$0\.192: task \S+", ends["submit good.jpg"][1])
    assert re.fullmatch(r"rendered in \d+ s, \d+ polls?", ends["poll good.jpg"][1])
    assert ends["poll nsfw.jpg"][1].startswith("NSFW")
    assert re.fullmatch(
        rf"s3://{sandbox.bucket}/videos/good\.jpg/\S+\.mp4 \(.*, 6\.0 s, .* MB\)", ends["store good.jpg"][1]
    )


async def test_what_is_taken_up_is_not_called_paid(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of another run ends its submit as Attached while it renders, and as Cached once its video is there.

    A verdict that Prefect has cached is the same verdict.
    """
    sandbox.put_image("images/tom.jpg", make_jpeg(400, 400))
    sandbox.put_image("images/small.jpg", make_jpeg(200, 200))
    with monkeypatch.context() as hasty:
        hasty.setenv("I2V_POLL_DEADLINE_SECONDS", "0.01")
        provider.set_options(render_seconds=3)
        left = await run_flow()
    attached, cached = await run_flow(), await run_flow()

    assert (await ends_of(left, 4))["poll tom.jpg"] == ("Open", "still rendering after 1 poll")
    state, words = (await ends_of(attached, 5))["submit tom.jpg"]
    assert (state, words.partition(":")[0]) == ("Attached", "paid by another run")
    state, words = (await ends_of(cached, 3))["submit tom.jpg"]
    assert (state, words.partition(":")[0]) == ("Cached", "stored already")
    assert [attached.message, cached.message] == ["1 stored · 1 refused · $0.00", "1 cached · 1 refused · $0.00"]
    verdicts = [(await ends_of(ended, count))["validate small.jpg"][0] for ended, count in ((left, 4), (cached, 3))]
    assert verdicts == ["Refused", "Cached"]
