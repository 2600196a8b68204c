"""Callbacks with a real door, a real Prefect server and a real worker, and with faults between them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import FlowRun

from doors.http.callbacks import COLLECT
from flows.reconcile import reconcile_videos
from sandbox import Sandbox
from sandbox.child_process import ChildProcess
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.callback_door import env as env  # noqa: PLC0414 - a fixture
from tests.support.callback_door import list_collect_runs, open_door
from tests.support.door_process import wait_for_async
from tests.support.flow_runs import FinishedFlowRun, RunFlow
from tests.support.forked_command import forked_setup

IMAGES = int(os.environ.get("I2V_CALLBACK_IMAGES", "20"))
"""200 take some minutes: each run of `collect` is a process."""
PATIENCE_SECONDS = 120 + 3 * IMAGES
FAULTS = {
    "silent": ("callback", "lost", (0,)),
    "twice": ("callback", "double", (1,)),
    "early": ("submit", "after_callback", (7,)),
    "unanswered": ("submit", "lost_answer", (0, 5)),
}
"""One in 10 images loses its callback, and one in 10 gets it twice. One in 20 gets it before the submit's response, and
two in 20 lose that response; a tenth of those loses both."""


def name_of(number: int) -> str:
    """Return an image's name, which contains its faults."""
    turns = {"callback": number % 10, "submit": (number // 10 + number) % 20}
    faults = [fault for fault, (on, _, hit) in FAULTS.items() if turns[on] in hit]
    return f"images/{number:03}-{'-'.join(faults) or 'normal'}.jpg"


def add_faults(provider: Provider) -> None:
    """Add the faults that the images' names contain."""
    for fault, (on, kind, _) in FAULTS.items():
        provider.add_fault(on=on, kind=kind, image=fault, times=None)


@contextmanager
def worker(env: dict[str, str], log: Path) -> Iterator[None]:
    """Run `make deploy` and a worker."""
    assert forked_setup(env=env).code == 0
    with ChildProcess("prefect", "--no-prompt", "worker", "start", "--pool", "i2v", "--limit", "4", env=env, log=log):
        yield


async def find_collect() -> UUID:
    """Return the id of `collect`, and let it retry failed runs at once instead of after a minute."""
    async with get_client() as client:
        found = await client.read_deployment_by_name(COLLECT)
        env = found.job_variables["env"] | {"PREFECT_FLOWS_DEFAULT_RETRY_DELAY_SECONDS": "0"}
        assert env != found.job_variables["env"]
        await client.update_deployment(found.id, DeploymentUpdate(job_variables={"env": env}))
        return found.id


async def all_ended(deployment: UUID) -> list[FlowRun]:
    """Return the deployment's runs once all have ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        runs = await list_collect_runs(deployment)
        if runs and all(run.state and run.state.is_final() for run in runs):
            return runs
        assert time.monotonic() < deadline, [(run.name, run.state_name) for run in runs]
        await asyncio.sleep(0.5)


def all_delivered(provider: Provider) -> bool:
    """Return whether every task's callback was delivered or given up."""
    calls = [provider.request_log.find("callback", task) for task in provider.tasks]
    return bool(calls) and all(calls) and all(entry.outcome for entry in provider.request_log.find("callback"))


async def run_all(run_flow: RunFlow) -> list[FinishedFlowRun]:
    """Run with callbacks until every image was tried: three lost responses in a row stop a run's submits."""
    ended = [await run_flow(delivery="callback")]
    while ended[-1].report["not_tried"]:
        ended.append(await run_flow(delivery="callback"))
    return ended


@pytest.mark.timeout(2 * PATIENCE_SECONDS)
async def test_each_job_is_billed_once_and_stored_unless_both_are_lost(
    sandbox: Sandbox,
    provider: Provider,
    run_flow: RunFlow,
    env: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After door, worker and one reconcile, only jobs that lost response and callback are unknown, and are reported."""
    names = [name_of(number) for number in range(IMAGES)]
    for number, name in enumerate(names):
        sandbox.put_image(name, make_jpeg(400, 400, seed=number))
    provider.set_options(render="shared", callback_scale=0.01)
    add_faults(provider)
    provider.add_fault(
        on="status", kind="answer", status=401, image="unanswered"
    )  # the first status request for a lost task fails
    with worker(env, tmp_path / "worker.log"), open_door(env, tmp_path) as door:
        collect = await find_collect()
        await wait_for_async(lambda: door.get("/healthz").json()["ready"], 90)
        ended = await run_all(run_flow)
        await wait_for_async(lambda: all_delivered(provider), PATIENCE_SECONDS)
        runs = await all_ended(collect)
    collected = stored(sandbox)
    monkeypatch.setenv("I2V_CALLBACK_PATIENCE_SECONDS", "0.01")
    state = await reconcile_videos(return_state=True)
    report = FinishedFlowRun(state, await state.aresult(raise_on_failure=False)).report["items"]
    silent, unanswered = ({name for name in names if fault in name} for fault in ("silent", "unanswered"))
    both = silent & unanswered
    assert both
    assert unanswered - both, "no image tests the adoption"
    assert silent - both, "no image tests reconcile"
    print(f"{len(ended)} runs by callback, {len(runs)} of collect; {len(collected)} stored by them, {state.message}")  # noqa: T201 - shown by -rP
    assert (len(provider.tasks), set(provider.billed().values())) == (IMAGES, {1})
    assert sum(run.run_count for run in runs) == len(runs) + 1
    assert [run.state.message for run in runs if run.state and not run.state.is_completed()] == []
    assert collected == set(names) - silent
    assert stored(sandbox) == set(names) - both
    assert {item["image"].partition(f"{sandbox.bucket}/")[2] for item in report if item["outcome"] == "unknown"} == both
    assert sum(item["outcome"] == "stored" for item in report) == len(silent - both)


def stored(sandbox: Sandbox) -> set[str]:
    """Return the images that have a video and a manifest."""
    keys = sandbox.keys("videos/")
    whole = {key.removesuffix(".json") for key in keys if key.endswith(".json")}
    videos = [key for key in keys if key.endswith(".mp4") and key.removesuffix(".mp4") in whole]
    images = {key.replace("videos/", "images/", 1).rpartition("/")[0] for key in videos}
    assert len(images) == len(videos)
    return images
