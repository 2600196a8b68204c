"""What Prefect's UI shows of a run beside its tasks: one page with posters, live and then final, and a progress bar."""

from __future__ import annotations

import asyncio
import re
from html import unescape
from typing import Any

import httpx
import pytest
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact

from flows.reconcile import reconcile_videos
from prefect_support import run_artifact
from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.flow_runs import FinishedFlowRun, RunFlow

LINK = re.compile(r"""[("](https?://[^)"]*X-Amz-Signature=[0-9a-f]{64}[^)"]*)""")


async def artifacts(**about: Any) -> list[Artifact]:
    """Those of one flow run, or all."""
    only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[about["run"]])) if about else None
    async with get_client() as client:
        return await client.read_artifacts(artifact_filter=only)


async def page_of(ended: FinishedFlowRun) -> str:
    """The one page of a run."""
    (one,) = [
        each for each in await artifacts(run=ended.state.state_details.flow_run_id) if each.key == run_artifact.KEY
    ]
    assert one.type == "markdown"
    return str(one.data)


async def told_of_artifacts(server: PrefectServer) -> str:
    """The newest events of artifacts, as text, a moment after the first has come."""
    about = {"event": {"prefix": ["prefect.artifact"]}, "order": "DESC"}
    async with httpx.AsyncClient(trust_env=False) as client:
        for _ in range(100):
            answer = await client.post(f"{server.api_url}/events/filter", json={"filter": about, "limit": 20})
            if "prefect.artifact.created" in answer.text:
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        answer = await client.post(f"{server.api_url}/events/filter", json={"filter": about, "limit": 20})
    return answer.text


async def test_a_run_leaves_a_page_that_says_what_to_do(
    prefect_server: PrefectServer, sandbox: Sandbox, provider: Provider, run_flow: RunFlow
) -> None:
    """Its posters load for a day; what failed, is unknown or refused has a command; no event has links."""
    for seed, name in enumerate(("good", "gone", "lost")):
        sandbox.put_image(f"images/{name}.jpg", make_jpeg(400, 400, seed=seed), prompt=name)
    sandbox.put_image("images/small.jpg", make_jpeg(200, 200))
    provider.add_fault(on="task", kind="fails", code="MODEL_X", prompt="gone", times=None)
    provider.add_fault(on="submit", kind="lost_answer", prompt="lost")
    ended = await run_flow()
    jobs = {item["image"].rpartition("/")[2]: item["job"] for item in ended.report["items"]}

    text = await page_of(ended)

    assert ended.message == "1 stored · 1 refused · 1 failed · 1 unknown · $0.384"
    assert f"`i2v jobs resolve {jobs['gone.jpg'][:12]} --resubmit`" in text
    assert f"`i2v jobs resolve {jobs['lost.jpg'][:12]} --adopt TASKID`" in text
    assert f"`i2v run s3://{sandbox.bucket}/images/small.jpg`" in text
    assert f"`s3://{sandbox.bucket}/jobs/runs/{ended.state.state_details.flow_run_id}.jsonl`" in text
    links = LINK.findall(unescape(text))
    async with httpx.AsyncClient(trust_env=False) as client:
        answers = [await client.get(link) for link in links]
    kinds = [answer.headers["content-type"] for answer in answers]
    assert kinds == ["video/mp4", "image/jpeg", "video/mp4", "application/json"]
    assert all("X-Amz-Expires=86400" in link for link in links)
    told = await told_of_artifacts(prefect_server)
    assert "prefect.artifact.created" in told
    assert "X-Amz" not in told


async def test_a_run_is_seen_while_it_lives(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same page and a bar tell how far it is; at its end both have all, and without links where those are off."""
    monkeypatch.setattr(run_artifact, "BAR_SECONDS", 0.2)
    monkeypatch.setenv("I2V_LINK_SECONDS", "0")
    for number in range(2):
        sandbox.put_image(f"images/{number}.jpg", make_jpeg(400, 400, seed=number), prompt=f"p{number}")
    provider.add_fault(on="submit", kind="answer", status=429, prompt="p1", times=3)
    provider.set_options(render_seconds=1)

    running = asyncio.ensure_future(run_flow())
    under_way: set[str] = set()
    while not running.done():
        under_way |= {str(each.data) for each in await artifacts() if str(each.data).startswith("## In progress: ")}
        await asyncio.sleep(0.1)
    ended = await running

    assert any("of 2 images done" in text for text in under_way)
    found = {each.type: each for each in await artifacts(run=ended.state.state_details.flow_run_id)}
    assert set(found) == {"markdown", "progress"}
    assert (found["progress"].data, found["progress"].description) == (100.0, "2 stored · $0.384")
    assert "2 stored" in str(found["markdown"].data)
    assert "X-Amz" not in str(found["markdown"].data)


@pytest.mark.parametrize(("name", "value"), [("KEY", "No Key"), ("REQUEST_SECONDS", 0.0001)], ids=["refused", "slow"])
async def test_no_artifact_is_worth_a_run(
    sandbox: Sandbox, run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    """Where Prefect takes no artifact, or not soon enough, the run ends as it would have."""
    monkeypatch.setattr(run_artifact, name, value)
    sandbox.put_image("images/tom.jpg", make_jpeg(400, 400))
    ended = await run_flow()
    assert (ended.message, ended.state.is_completed()) == ("1 stored · $0.192", True)
    assert await artifacts(run=ended.state.state_details.flow_run_id) == []


async def test_reconcile_leaves_a_page_of_what_it_settled(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run left open and reconcile stored is on a page; where nothing was open there is none."""
    sandbox.put_image("images/tom.jpg", make_jpeg(400, 400))
    with monkeypatch.context() as hasty:
        hasty.setenv("I2V_POLL_DEADLINE_SECONDS", "0.01")
        provider.set_options(render_seconds=2)
        left = await run_flow()
    assert "`i2v reconcile`" in await page_of(left)
    await asyncio.sleep(2)
    settled, nothing = [await reconcile_videos(return_state=True) for _ in range(2)]
    assert (settled.message, nothing.message) == ("1 stored · $0.00", "nothing is open")
    assert len(LINK.findall(await page_of(FinishedFlowRun(settled, None)))) == 4
    assert [each.key for each in await artifacts(run=nothing.state_details.flow_run_id)] == ["i2v-open"]
