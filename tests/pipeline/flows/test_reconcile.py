"""The flow `reconcile` on a real Prefect server: what a schedule runs, and how it ends."""

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

RECONCILE = Callable[..., Awaitable[FinishedFlowRun]]
SINCE = "2020-01-01"


@pytest.fixture
def reconcile(prefect_server: PrefectServer, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> RECONCILE:
    """The flow in this process, which does not wait until images are two minutes old."""
    for name, value in sandbox.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("I2V_SETTLING_SECONDS", "-2")

    async def run(**parameters: Any) -> FinishedFlowRun:
        state = await reconcile_videos(**parameters, return_state=True)
        return FinishedFlowRun(state, await state.aresult(raise_on_failure=False))

    return run


async def test_what_is_missing_is_generated_once(sandbox: Sandbox, provider: Provider, reconcile: RECONCILE) -> None:
    """By the parameters of a form: named, then generated in tasks, then there is nothing left to do."""
    sandbox.put_image("images/cats/tom.jpg", make_jpeg(400, 400))
    given = {"generate": True, "since": SINCE, "max_spend_usd": 1, "prompt": "it moves", "limit": 5}
    dry = await reconcile(**given, dry_run=True)
    first, again = await reconcile(**given), await reconcile(**given)
    assert (dry.message, first.message) == ("1 planned · would cost $0.192", "1 stored · $0.192")
    assert again.message == "nothing is open, and every image has an outcome"
    assert [ended.state.is_completed() for ended in (dry, first, again)] == [True, True, True]
    assert provider.billed().total() == 1
    run_id = first.state.state_details.flow_run_id
    assert run_id
    async with get_client() as client:
        assert (await client.read_flow_run(run_id)).name == "open jobs and missing videos since 2020-01-01"


async def test_it_never_generates_without_a_time_and_a_limit(
    sandbox: Sandbox, provider: Provider, reconcile: RECONCILE
) -> None:
    """A schedule that forgets them fails with words, and one that does not ask for it pays nothing."""
    sandbox.put_image("images/tom.jpg", make_jpeg(400, 400))
    wrong, plain = await reconcile(generate=True), await reconcile()
    assert wrong.state.is_failed()
    assert "since and max_spend_usd must be given" in wrong.message
    assert (plain.message, plain.state.is_completed()) == ("nothing is open", True)
    assert provider.request_log.find("submit") == []


async def test_trouble_in_what_is_generated_fails_the_run(
    sandbox: Sandbox, provider: Provider, reconcile: RECONCILE
) -> None:
    """Money for one of two fails the run with the report in words; money for none stops it and says which limit."""
    for number in range(2):
        sandbox.put_image(f"images/{number}.jpg", make_jpeg(400, 400, seed=number))
    given = {"generate": True, "since": SINCE, "prompt": "it moves"}
    some, none = await reconcile(**given, max_spend_usd="0.20"), await reconcile(**given, max_spend_usd="0.10")
    assert (some.message, some.report["spent_usd"]) == ("1 stored · 1 not tried · $0.192", 0.192)
    assert "max_spend_usd has $0.10 left" in none.message
    assert (some.state.is_failed(), none.state.is_failed()) == (True, True)
