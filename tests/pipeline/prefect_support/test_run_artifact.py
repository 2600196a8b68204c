"""A run's artifacts: one page with posters, live and then final, and a progress bar."""

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
from sandbox.server import TIMEOUT_SECONDS
from sandbox.synthetic_images import make_jpeg
from tests.support.flow_runs import FinishedFlowRun, RunFlow

LINK = re.compile(r"""[("](https?://[^)"]*X-Amz-Signature=[0-9a-f]{64}[^)"]*)""")


async def artifacts(**filters: Any) -> list[Artifact]:
    """Return the artifacts of the flow run `run`, or all."""
    only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[filters["run"]])) if filters else None
    async with get_client() as client:
        return await client.read_artifacts(artifact_filter=only)


async def page_of(finished: FinishedFlowRun) -> str:
    """Return the only page of a run."""
    (page,) = [each for each in await artifacts(run=finished.run_id) if each.key == run_artifact.KEY]
    assert page.type == "markdown"
    return str(page.data)


async def artifact_events(server: PrefectServer) -> str:
    """Return the newest artifact events as text, shortly after the first one arrives."""
    query = {"event": {"prefix": ["prefect.artifact"]}, "order": "DESC"}
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_SECONDS) as client:
        for _ in range(600):
            answer = await client.post(f"{server.api_url}/events/filter", json={"filter": query, "limit": 20})
            if "prefect.artifact.created" in answer.text:
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        answer = await client.post(f"{server.api_url}/events/filter", json={"filter": query, "limit": 20})
    return answer.text


async def test_a_run_leaves_a_page_with_links_and_commands(
    prefect_server: PrefectServer, sandbox: Sandbox, provider: Provider, run_flow: RunFlow
) -> None:
    """Its links work for a day; each failed, unknown or refused image has a command; no event has a link."""
    for seed, name in enumerate(("good", "gone", "lost")):
        sandbox.put_image(f"images/{name}.jpg", make_jpeg(400, 400, seed=seed), prompt=name)
    sandbox.put_image("images/small.jpg", make_jpeg(200, 200))
    provider.add_fault(on="task", kind="fails", code="MODEL_X", prompt="gone", times=None)
    provider.add_fault(on="submit", kind="lost_answer", prompt="lost")
    finished = await run_flow()
    jobs = {item["image"].rpartition("/")[2]: item["job"] for item in finished.report["items"]}

    text = await page_of(finished)

    assert finished.message == "1 stored · 1 refused · 1 failed · 1 unknown · $0.384 charged, $0.192 possibly charged"
    assert f"`i2v jobs resolve {jobs['gone.jpg'][:12]} --resubmit`" in text
    assert f"`i2v jobs resolve {jobs['lost.jpg'][:12]} --adopt TASKID`" in text
    assert f"`i2v run s3://{sandbox.bucket}/images/small.jpg --prompt " in text
    assert f"`s3://{sandbox.bucket}/jobs/runs/{finished.run_id}.jsonl`" in text
    links = LINK.findall(unescape(text))
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_SECONDS) as client:
        answers = [await client.get(link) for link in links]
    kinds = [answer.headers["content-type"] for answer in answers]
    assert kinds == ["video/mp4", "image/jpeg", "video/mp4", "application/json"]
    assert all("X-Amz-Expires=86400" in link for link in links)
    events = await artifact_events(prefect_server)
    assert "prefect.artifact.created" in events
    assert "X-Amz" not in events


async def test_the_page_and_the_bar_are_updated_during_the_run(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page and the progress bar show progress, end complete, and have no links if those are off."""
    monkeypatch.setattr(run_artifact, "BAR_SECONDS", 0.2)
    monkeypatch.setenv("I2V_LINK_SECONDS", "0")
    for number in range(2):
        sandbox.put_image(f"images/{number}.jpg", make_jpeg(400, 400, seed=number), prompt=f"p{number}")
    provider.add_fault(on="submit", kind="answer", status=429, prompt="p1", times=3)
    provider.set_options(render_seconds=1)

    running = asyncio.ensure_future(run_flow())
    in_progress: set[str] = set()
    while not running.done():
        in_progress |= {str(each.data) for each in await artifacts() if str(each.data).startswith("## Running: ")}
        await asyncio.sleep(0.1)
    finished = await running

    assert any("of 2 images done" in text for text in in_progress)
    found = {each.type: each for each in await artifacts(run=finished.run_id)}
    assert set(found) == {"markdown", "progress"}
    assert (found["progress"].data, found["progress"].description) == (100.0, "2 stored · $0.384")
    assert "2 stored" in str(found["markdown"].data)
    assert "X-Amz" not in str(found["markdown"].data)


@pytest.mark.parametrize(
    "changes",
    [
        {"run_artifact.KEY": "No Key"},
        {"artifacts_api.REQUEST_SECONDS": 0.0001, "artifacts_api.FINAL_SECONDS": 0.0001},
    ],
    ids=["refused", "slow"],
)
async def test_a_failed_artifact_does_not_fail_the_run(
    sandbox: Sandbox, run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    """If Prefect rejects an artifact or is too slow, the run ends as it would without."""
    for name, value in changes.items():
        monkeypatch.setattr(f"prefect_support.{name}", value)
    sandbox.put_image("images/tom.jpg", make_jpeg(400, 400))
    finished = await run_flow()
    assert (finished.message, finished.state.is_completed()) == ("1 stored · $0.192", True)
    assert await artifacts(run=finished.run_id) == []


async def test_reconcile_leaves_a_page_of_what_it_settled(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that reconcile settled are on its page; without open jobs there is no such page."""
    sandbox.put_image("images/tom.jpg", make_jpeg(400, 400))
    with monkeypatch.context() as patch:
        patch.setenv("I2V_POLL_DEADLINE_SECONDS", "0.01")
        provider.set_options(render_seconds=2)
        left = await run_flow()
    assert "`i2v reconcile`" in await page_of(left)
    await asyncio.sleep(2)
    settled, nothing = [await reconcile_videos(return_state=True) for _ in range(2)]
    assert (settled.message, nothing.message) == ("1 stored · $0.00", "nothing is open")
    assert len(LINK.findall(await page_of(FinishedFlowRun(settled, None)))) == 4
    assert [each.key for each in await artifacts(run=nothing.state_details.flow_run_id)] == ["i2v-open"]
