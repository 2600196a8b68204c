"""Callbacks on a real Prefect server: the run ends when all is submitted, and reconcile takes what was told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.schemas.objects import StateType

from flows.reconcile import reconcile_videos
from i2v.errors import UsageError
from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.callback_receiver import CallbackReceiver, serve_callbacks
from tests.support.flow_runs import RunFlow
from tests.support.i2v_command import i2v
from tests.support.settings import MakeSettings


@pytest.fixture
def door(
    sandbox: Sandbox, make_settings: MakeSettings, run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CallbackReceiver]:
    """What is called back; flows have its settings."""
    with serve_callbacks(make_settings, sandbox.env) as door:
        for name, value in door.env(sandbox.env).items():
            monkeypatch.setenv(name, value)
        yield door


async def test_a_flow_by_callback_ends_completed_and_collect_stores(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, door: CallbackReceiver
) -> None:
    """The state says what is awaited; reconcile with what the callbacks told stores it, and nobody polled."""
    for number in range(3):
        sandbox.put_image(f"images/{number}.jpg", make_jpeg(400, 400, seed=number))
    ended = await run_flow(delivery="callback")
    assert (ended.state.type, ended.message) == (StateType.COMPLETED, "3 submitted, awaiting callback · $0.576")
    assert set(ended.outcomes.values()) == {"submitted"}
    told = await asyncio.to_thread(door.wait, 3)
    state = await reconcile_videos(jobs=told, return_state=True)
    assert state.message == "3 stored · $0.00"
    assert (set(provider.billed().values()), set(provider.status_requests().values())) == ({1}, {1})
    assert len([key for key in sandbox.keys("videos/") if key.endswith(".mp4")]) == 3


async def test_a_flow_without_callback_settings_pays_nothing(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow
) -> None:
    """What is missing is said before anything is submitted."""
    sandbox.put_image("images/a.jpg", make_jpeg(400, 400))
    ended = await run_flow(delivery="callback")
    assert isinstance(ended.result, UsageError)
    assert "I2V_CALLBACK_BASE_URL, which is not set" in ended.message
    assert provider.billed() == {}


async def test_a_job_that_is_mistyped_is_told_as_such(run_flow: RunFlow) -> None:
    """Reconcile by hand with something that names no job fails at once, in words."""
    state = await reconcile_videos(jobs=["not a job"], return_state=True)
    assert (state.type, "is not a job" in str(state.message)) == (StateType.FAILED, True)


def test_the_command_by_callback_ends_with_0_and_says_what_is_awaited(
    sandbox: Sandbox, child_env: dict[str, str], make_settings: MakeSettings, tmp_path: Path
) -> None:
    """Local files too: put, submitted, and not waited for."""
    (tmp_path / "tom.jpg").write_bytes(make_jpeg(400, 400))
    with serve_callbacks(make_settings, sandbox.env) as door:
        env = door.env(child_env)
        said = i2v("run", str(tmp_path), "--prompt", "it moves", "--delivery", "callback", "--json", env=env)
        door.wait(1)
    assert (said.code, said.report["submitted"], said.report["spent_usd"]) == (0, 1, 0.192), said.err
    assert "1 submitted, awaiting callback" in said.err
    assert "when the provider calls back" in said.err
    assert sandbox.keys("videos/") == []


def test_the_command_without_callback_settings_ends_with_2(
    sandbox: Sandbox, child_env: dict[str, str], tmp_path: Path
) -> None:
    """Before anything is put or paid, with what to set."""
    (tmp_path / "tom.jpg").write_bytes(make_jpeg(400, 400))
    said = i2v("run", str(tmp_path), "--prompt", "it moves", "--delivery", "callback", env=child_env)
    assert (said.code, sandbox.keys()) == (2, [])
    assert said.errors == ["Callbacks need I2V_CALLBACK_BASE_URL, which is not set"]
