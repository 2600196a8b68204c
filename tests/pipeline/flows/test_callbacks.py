"""Callbacks on a real Prefect server: the run ends once all is submitted, and reconcile settles jobs from the hints."""

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
from tests.support.forked_command import forked_i2v
from tests.support.orders import put_photos
from tests.support.settings import MakeSettings


@pytest.fixture
def receiver(
    sandbox: Sandbox, make_settings: MakeSettings, run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CallbackReceiver]:
    """Start a callback receiver, with the environment of flows in this process set to use it."""
    with serve_callbacks(make_settings, sandbox.env) as server:
        for name, value in server.env(sandbox.env).items():
            monkeypatch.setenv(name, value)
        yield server


async def test_a_callback_flow_completes_and_collect_stores(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, receiver: CallbackReceiver
) -> None:
    """The flow completes before its videos exist; reconcile with the hints stores each with one status request."""
    put_photos(sandbox, 3)
    finished = await run_flow(delivery="callback")
    assert (finished.state.type, finished.message) == (StateType.COMPLETED, "3 submitted, awaiting callback · $0.576")
    assert set(finished.outcomes.values()) == {"submitted"}
    hints = await asyncio.to_thread(receiver.wait, 3)
    state = await reconcile_videos(jobs=hints, return_state=True)
    assert state.message == "3 stored · $0.00"
    assert (set(provider.billed().values()), set(provider.status_requests().values())) == ({1}, {1})
    assert len([key for key in sandbox.keys("videos/") if key.endswith(".mp4")]) == 3


async def test_a_flow_without_callback_settings_pays_nothing(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow
) -> None:
    """Missing callback settings end the flow with an error before anything is submitted."""
    sandbox.put_image("images/a.jpg", make_jpeg(400, 400))
    finished = await run_flow(delivery="callback")
    assert isinstance(finished.result, UsageError)
    assert "I2V_CALLBACK_BASE_URL, which is not set" in finished.message
    assert provider.billed() == {}


async def test_an_invalid_job_key_fails_reconcile(run_flow: RunFlow) -> None:
    """Reconcile with an invalid job key fails at once with a message."""
    state = await reconcile_videos(jobs=["not a job"], return_state=True)
    assert (state.type, "is not a job" in str(state.message)) == (StateType.FAILED, True)


def test_the_callback_command_exits_with_0(
    sandbox: Sandbox, child_env: dict[str, str], make_settings: MakeSettings, tmp_path: Path
) -> None:
    """`i2v run --delivery callback` uploads local files, submits them and does not wait for videos."""
    (tmp_path / "tom.jpg").write_bytes(make_jpeg(400, 400))
    with serve_callbacks(make_settings, sandbox.env) as receiver:
        env = receiver.env(child_env)
        completed = forked_i2v(
            "run", str(tmp_path), "--prompt", "it moves", "--delivery", "callback", "--json", env=env
        )
        receiver.wait(1)
    assert (completed.code, completed.report["submitted"], completed.report["spent_usd"]) == (0, 1, 0.192), (
        completed.err
    )
    assert "1 submitted, awaiting callback" in completed.err
    assert "when the provider calls back" in completed.err
    assert sandbox.keys("videos/") == []


def test_the_command_without_callback_settings_exits_with_2(
    sandbox: Sandbox, child_env: dict[str, str], tmp_path: Path
) -> None:
    """Missing callback settings are reported before anything is uploaded or paid."""
    (tmp_path / "tom.jpg").write_bytes(make_jpeg(400, 400))
    completed = forked_i2v("run", str(tmp_path), "--prompt", "it moves", "--delivery", "callback", env=child_env)
    assert (completed.code, sandbox.keys()) == (2, [])
    assert completed.errors == ["Callbacks need I2V_CALLBACK_BASE_URL, which is not set"]
