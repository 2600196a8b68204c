"""`i2v run --batch`: it starts the deployment, waits for its run, and prints the merged report. No worker runs here."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect import State, get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed
from rich.console import Console

from i2v.batches.process import BatchRun, find_or_write_shards
from i2v.cli.output.progress import Progress
from i2v.cli.prefect import batch_run
from i2v.cli.prefect.flow_run import FlowRunMonitor
from i2v.pipeline.events import ImagesCounted
from i2v.pipeline.run import open_run
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from tests.support.forked_command import forked_i2v, run_i2v, start_forked
from tests.support.local_shards import DEFAULT, LocalShards
from tests.support.orders import put_photos

SECONDS = 120
pytestmark = pytest.mark.timeout(2 * SECONDS)


async def deploy() -> str:
    """Create the deployment as far as the command needs it, and return its id."""
    async with get_client() as client:
        flow = await client.create_flow_from_name("generate-batch")
        return str(await client.create_deployment(flow, "batch", entrypoint="flows/batch.py:generate_batch"))


async def open_runs(deployment: str) -> list[FlowRun]:
    """Return the runs that have not started."""
    only = FlowRunFilter.model_validate(
        {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": ["SCHEDULED"]}}}
    )
    async with get_client() as client:
        return await client.read_flow_runs(flow_run_filter=only)


async def started_run(deployment: str) -> FlowRun:
    """Return the run that the command has started."""
    async with asyncio.timeout(SECONDS):
        while not (found := await open_runs(deployment)):  # noqa: ASYNC110 - the server is asked
            await asyncio.sleep(0.2)
    return found[0]


@pytest.fixture(autouse=True)
async def no_open_run(prefect_server: PrefectServer) -> None:
    """End the runs that an earlier test's command left on the server, which all tests of this process share."""
    del prefect_server
    deployment = await deploy()
    async with get_client() as client:
        for run in await open_runs(deployment):
            await client.set_flow_run_state(run.id, Completed(), force=True)


@pytest.mark.parametrize(("images", "says"), [(1000, False), (1001, True)])
def test_a_plain_run_of_many_images_says_that_batches_exist(images: int, says: bool) -> None:
    """Above a thousand images in one process there is a hint, and no more than that."""
    console = Console(file=StringIO())
    FlowRunMonitor(Progress(console), {}).on_event(ImagesCounted(images))
    assert ("--batch spreads them" in str(console.file.getvalue())) is says  # type: ignore[attr-defined]


def test_it_needs_a_server(sandbox: Sandbox, child_env: Mapping[str, str]) -> None:
    """Without PREFECT_API_URL it says what to set, and submits nothing; exit 2."""
    put_photos(sandbox, 1)
    env = {name: value for name, value in child_env.items() if name != "PREFECT_API_URL"}
    ended = forked_i2v("run", f"s3://{sandbox.bucket}/images/", "--prompt", "x", "--batch", env=env)
    assert ended.code == 2
    assert "--batch needs a Prefect server with workers, and PREFECT_API_URL is not set" in ended.err


async def test_it_prints_the_merged_report(
    sandbox: Sandbox, settings: Settings, child_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run gets the images and options that were typed; the report and exit code are those of a plain run."""
    for name, value in sandbox.env.items():
        monkeypatch.setenv(name, value)
    images = put_photos(sandbox, 3)
    sandbox.put_image("images/small.jpg", b"no image")
    deployment, prefix = await deploy(), f"s3://{sandbox.bucket}/images/"
    words = ("run", prefix, "--prompt", "it moves", "--max-spend", "5", "--label", "autumn", "--batch", "--json")
    command = asyncio.create_task(asyncio.to_thread(forked_i2v, *words, env=child_env, seconds=SECONDS))
    run = await started_run(deployment)
    given = {name: run.parameters[name] for name in ("images", "prompt", "max_spend_usd", "label", "partial")}
    assert given == {
        "images": [prefix],
        "prompt": "it moves",
        "max_spend_usd": "5",
        "label": "autumn",
        "partial": False,
    }
    async with open_run(settings, str(run.id), batch=str(run.id)) as parent:
        plan = await find_or_write_shards(parent, [prefix], DEFAULT, 2)
        await BatchRun(parent, plan, LocalShards(plan, settings), 2).process(partial=False)
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Completed(), force=True)
    ended = await command
    report = json.loads(ended.out)
    assert (ended.code, report["stored"], report["refused"], report["spent_usd"]) == (0, 3, 1, 0.576), ended.err
    assert [item["image"] for item in report["items"]] == [*images, f"{prefix}small.jpg"]
    assert set(report["items"][0]) == {
        *("image", "outcome", "job", "task_id", "video", "cost_usd", "possibly_charged_usd", "reason"),
        *("prompt", "prompt_source", "extra"),
    }


def run_where_starts_are_lost(words: Sequence[str], *, times: int) -> None:
    """Be `i2v` with a server whose first answers to a start are lost."""
    create, asked = PrefectClient.create_flow_run_from_deployment, 0

    async def lossy(client: PrefectClient, *words: Any, **options: Any) -> FlowRun:
        nonlocal asked
        asked += 1
        run = await create(client, *words, **options)
        if asked <= times:
            raise httpx.ReadTimeout("no answer")
        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrefectClient, "create_flow_run_from_deployment", lossy)
        run_i2v(words)


async def test_a_lost_answer_starts_no_second_batch(
    sandbox: Sandbox, child_env: dict[str, str], tmp_path: Path
) -> None:
    """The request is repeated, and finds the run that it has started."""
    put_photos(sandbox, 1)
    deployment, log = await deploy(), tmp_path / "log"
    words = ("run", f"s3://{sandbox.bucket}/images/", "--prompt", "it moves", "--batch")
    child = start_forked(partial(run_where_starts_are_lost, times=2), *words, env=child_env, err=log)
    try:
        await wait_for_words(log, "Started the batch")
        runs = await open_runs(deployment)
    finally:
        child.kill()
        child.join()
    assert len(runs) == 1


def test_a_batch_whose_start_is_never_answered_may_have_started(
    sandbox: Sandbox, child_env: dict[str, str], tmp_path: Path
) -> None:
    """The command says so, and how to look: another batch would have a limit of its own."""
    put_photos(sandbox, 1)
    asyncio.run(deploy())
    words, log = ("run", f"s3://{sandbox.bucket}/images/", "--prompt", "it moves", "--batch"), tmp_path / "log"
    child = start_forked(partial(run_where_starts_are_lost, times=1000), *words, env=child_env, err=log)
    child.join(SECONDS)
    assert child.exitcode == 3, log.read_text()
    assert "prefect flow-run ls --flow-name generate-batch" in " ".join(log.read_text().split())


async def wait_for_words(log: Path, words: str) -> None:
    """Wait until the command has written these words."""
    async with asyncio.timeout(SECONDS):
        while words not in log.read_text():  # noqa: ASYNC110, ASYNC240 - another process writes it
            await asyncio.sleep(0.1)


def run_where_cancels_fail(words: Sequence[str], *, times: int) -> None:
    """Be `i2v` with a server that does not respond to the first cancels."""
    send, asked = PrefectClient.set_flow_run_state, 0

    async def lossy(client: PrefectClient, flow_run_id: UUID, state: State[Any]) -> object:
        nonlocal asked
        asked += 1
        if asked <= times:
            raise httpx.ReadTimeout("no answer")
        return await send(client, flow_run_id, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrefectClient, "set_flow_run_state", lossy)
        patch.setattr(batch_run, "CANCEL_SECONDS", 5)
        run_i2v(words)


@pytest.mark.parametrize("lost", [1, 1000])
async def test_ctrl_c_cancels_the_batch(sandbox: Sandbox, child_env: dict[str, str], tmp_path: Path, lost: int) -> None:
    """The first Ctrl-C cancels the run on the server; the command repeats that until it is so, or says that it is not.

    It waits for the run's end and exits with 130.
    """
    put_photos(sandbox, 1)
    deployment, log = await deploy(), tmp_path / "log"
    words = ("run", f"s3://{sandbox.bucket}/images/", "--prompt", "it moves", "--batch")
    child = start_forked(partial(run_where_cancels_fail, times=lost), *words, env=child_env, err=log)
    try:
        run = await started_run(deployment)
        await wait_for_words(log, "Started the batch")
        os.kill(child.pid or 0, signal.SIGINT)
        await asyncio.to_thread(child.join, SECONDS)
        assert child.exitcode == 130, log.read_text()
    finally:
        child.kill()
        child.join()
    async with get_client() as client:
        ended = await client.read_flow_run(run.id)
    is_cancelled = bool(ended.state and ended.state.is_cancelled())
    says_not = "Prefect did not cancel the batch, which goes on and may submit: " in log.read_text()
    assert (is_cancelled, says_not) == ((lost < 1000), (lost == 1000)), log.read_text()
    assert (f"prefect flow-run cancel {run.id}" in log.read_text()) == says_not
    assert sandbox.provider.billed().total() == 0
