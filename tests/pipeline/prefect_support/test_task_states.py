"""The final state of each step's task run: Prefect's names where they fit, and our own."""

from __future__ import annotations

import re

import pytest

from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.flow_runs import FinishedFlowRun, RunFlow, final_task_runs


async def final_states(finished: FinishedFlowRun, count: int) -> dict[str, tuple[str, str]]:
    """Return the name and message of each final state, once there are `count` of them."""
    runs = await final_task_runs(finished, count)
    return {run.name: (str(run.state.name), str(run.state.message)) for run in runs if run.state}


async def test_each_final_state_has_a_name_and_a_message(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, Unknown and Failed have their reason; Completed has its cost, render time or video."""
    for seed, name in enumerate(("good", "nsfw", "gone", "lost")):
        sandbox.put_image(f"images/{name}.jpg", make_jpeg(400, 400, seed=seed), prompt=name)
    sandbox.put_image("images/small.jpg", make_jpeg(200, 200))
    provider.add_fault(on="task", kind="fails", code="NSFW", prompt="nsfw", times=None)
    provider.add_fault(on="task", kind="fails", code="MODEL_X", prompt="gone", times=None)
    provider.add_fault(on="submit", kind="lost_answer", prompt="lost")
    finished = await run_flow()
    states = await final_states(finished, 13)
    runs = {run.name: run for run in await final_task_runs(finished, 13)}

    assert {name: state for name, (state, _) in states.items()} == {
        **{f"validate {name}.jpg": "Completed" for name in ("good", "nsfw", "gone", "lost")},
        **{f"submit {name}.jpg": "Completed" for name in ("good", "nsfw", "gone")},
        "validate small.jpg": "Refused",
        "submit lost.jpg": "Unknown",
        "poll good.jpg": "Completed",
        "poll nsfw.jpg": "Refused",
        "poll gone.jpg": "Failed",
        "store good.jpg": "Completed",
    }
    colors = {name: run.state.type.value for name, run in runs.items() if run.state}
    gray, red = {"validate small.jpg", "poll nsfw.jpg"}, {"poll gone.jpg", "submit lost.jpg"}
    assert {name for name, color in colors.items() if color == "CANCELLED"} == gray, "no video, and no failure"
    assert {name for name, color in colors.items() if color == "FAILED"} == red, "a person must act"
    for before, after in (("validate", "submit"), ("submit", "poll"), ("poll", "store")):
        waits = runs[f"{after} good.jpg"].task_inputs["wait_for"]
        assert [each.id for each in waits if hasattr(each, "id")] == [runs[f"{before} good.jpg"].id]
    assert "is too small" in states["validate small.jpg"][1]
    assert re.fullmatch(r"paid \$0\.192: task \S+", states["submit good.jpg"][1])
    assert re.fullmatch(r"rendered in \d+ s, \d+ polls?", states["poll good.jpg"][1])
    assert states["poll nsfw.jpg"][1].startswith("NSFW")
    assert re.fullmatch(
        rf"s3://{sandbox.bucket}/videos/good\.jpg/\S+\.mp4 \(.*, 6\.0 s, .* MB\)", states["store good.jpg"][1]
    )


async def test_an_attached_job_is_not_shown_as_paid(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The submit of another run's job ends as Attached, or as Cached once its video is stored.

    A cached refusal is Cached too.
    """
    sandbox.put_image("images/tom.jpg", make_jpeg(400, 400))
    sandbox.put_image("images/small.jpg", make_jpeg(200, 200))
    with monkeypatch.context() as patch:
        patch.setenv("I2V_POLL_DEADLINE_SECONDS", "0.01")
        provider.set_options(render_seconds=3)
        first = await run_flow()
    attached, cached = await run_flow(), await run_flow()

    assert (await final_states(first, 4))["poll tom.jpg"] == ("Submitted", "still rendering after 1 poll")
    state, message = (await final_states(attached, 5))["submit tom.jpg"]
    assert (state, message.partition(":")[0]) == ("Attached", "paid by another run")
    state, message = (await final_states(cached, 3))["submit tom.jpg"]
    assert (state, message.partition(":")[0]) == ("Cached", "already stored")
    assert [attached.message, cached.message] == ["1 stored · 1 refused · $0.00", "1 cached · 1 refused · $0.00"]
    verdicts = [(await final_states(run, count))["validate small.jpg"][0] for run, count in ((first, 4), (cached, 3))]
    assert verdicts == ["Refused", "Cached"]
