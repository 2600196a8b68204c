"""The reconcile flow on a real Prefect server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prefect import get_client

from flows.reconcile import reconcile_videos
from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.flow_runs import FinishedFlowRun
from tests.support.orders import put_photos

Reconcile = Callable[..., Awaitable[FinishedFlowRun]]
SINCE = "2020-01-01"


@pytest.fixture
def reconcile(prefect_server: PrefectServer, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Reconcile:
    """Return a function that runs the flow in this process and does not wait until images are two minutes old."""
    for name, value in sandbox.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("I2V_SETTLING_SECONDS", "-2")

    async def run(**parameters: Any) -> FinishedFlowRun:
        state = await reconcile_videos(**parameters, return_state=True)
        return FinishedFlowRun(state, await state.aresult(raise_on_failure=False))

    return run


async def test_missing_videos_are_generated_once(sandbox: Sandbox, provider: Provider, reconcile: Reconcile) -> None:
    """A dry run plans the missing video, the first run generates it, and the next run finds nothing to do."""
    sandbox.put_image("images/cats/tom.jpg", make_jpeg(400, 400))
    options = {"generate": True, "since": SINCE, "max_spend_usd": 1, "prompt": "it moves", "limit": 5}
    dry = await reconcile(**options, dry_run=True)
    first, again = await reconcile(**options), await reconcile(**options)
    assert (dry.message, first.message) == ("1 planned · would cost $0.192", "1 stored · $0.192")
    assert again.message == "nothing is open, and every image has an outcome"
    assert [finished.state.is_completed() for finished in (dry, first, again)] == [True, True, True]
    assert provider.billed().total() == 1
    async with get_client() as client:
        assert (await client.read_flow_run(first.run_id)).name == "open jobs and missing videos since 2020-01-01"


async def test_generate_requires_since_and_max_spend(
    sandbox: Sandbox, provider: Provider, reconcile: Reconcile
) -> None:
    """Generate without `since` and a spend limit fails with a message, and a plain run pays nothing."""
    sandbox.put_image("images/tom.jpg", make_jpeg(400, 400))
    incomplete, plain = await reconcile(generate=True), await reconcile()
    assert incomplete.state.is_failed()
    assert "since and max_spend_usd must be given" in incomplete.message
    assert (plain.message, plain.state.is_completed()) == ("nothing is open", True)
    assert provider.request_log.find("submit") == []


async def test_a_run_that_reached_its_spend_limit_is_complete(
    sandbox: Sandbox, provider: Provider, reconcile: Reconcile
) -> None:
    """With money for one of two images the run completes and counts the other; with too little for one it fails."""
    put_photos(sandbox, 2)
    options = {"generate": True, "since": SINCE, "prompt": "it moves"}
    some, none = await reconcile(**options, max_spend_usd="0.20"), await reconcile(**options, max_spend_usd="0.10")
    assert (some.message, some.report["spent_usd"]) == ("1 stored · 1 not tried (spending limit) · $0.192", 0.192)
    assert "max_spend_usd has $0.10 left" in none.message
    assert (some.state.is_completed(), none.state.is_failed()) == (True, True)
