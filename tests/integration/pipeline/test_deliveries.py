"""Odd deliveries and states of the provider, through a whole run: a paid video is stored, and what was odd is named."""

from typing import Any

import pytest

from i2v.cli.output.job_table import print_job
from i2v.ledger.job import JobRecord
from i2v.pipeline.generate import Steps, process_order
from i2v.pipeline.submit import submit
from i2v.reports.run_report import ItemReport, Outcome
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.forward_proxy import running_proxy
from tests.support.orders import OpenRun, order_for, put_photo
from tests.support.reconciling import reconcile

OK, LENGTH = "HTTP/1.1 200 OK", "Content-Length: {length}"
DELIVERIES: dict[str, dict[str, Any]] = {
    "raw UTF-8 redirect": {"head": ("HTTP/1.1 302 Found", "Content-Length: 0", "Location: {target}&name=视频.mp4")},
    "redirect with blanks": {"head": ("HTTP/1.1 307 X", "Content-Length: 0", "Location:   {target}&name=my  video  ")},
    "gzip": {"head": (OK, LENGTH, "Content-Encoding: gzip"), "coding": "gzip"},
    "x-gzip without a length": {"head": (OK, "Content-Encoding: x-gzip"), "coding": "gzip"},
    "deflate": {"head": (OK, LENGTH, "Content-Encoding: deflate"), "coding": "deflate"},
    "gzip as claimed": {"head": (OK, LENGTH, "Content-Encoding: gzip")},
    "deflate as claimed": {"head": (OK, LENGTH, "Content-Encoding: deflate")},
    "br as claimed": {"head": (OK, LENGTH, "Content-Encoding: br")},
    "identity": {"head": (OK, LENGTH, "Transfer-Encoding: identity", "Content-Encoding: identity")},
    "203": {"head": ("HTTP/1.1 203 Non-Authoritative Information", LENGTH)},
    "206 of all": {"head": ("HTTP/1.1 206 Partial Content", LENGTH, "Content-Range: bytes 0-{last}/{length}")},
    "no length": {"head": (OK, "Connection: close")},
    "odd lines": {"head": (OK, "X Cache: HIT", "Nonsense", " folded", "x/y.php: no", LENGTH, LENGTH)},
}


async def _run(new_run: OpenRun, uri: str, **changes: object) -> ItemReport:
    async with new_run(**changes) as run:
        return await process_order(run, await order_for(run, uri), Steps())


@pytest.mark.parametrize("delivery", DELIVERIES.values(), ids=DELIVERIES.keys())
async def test_a_delivery_that_curl_takes_is_stored(
    delivery: dict[str, Any], sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """The video is stored as it was rendered, at the first download, and paid once."""
    script = provider.add_fault(on="file", kind="deliver", **delivery)
    line = await _run(new_run, put_photo(sandbox))
    assert (line.outcome, script.hits) == (Outcome.STORED, 1)
    (task,) = provider.tasks.values()
    assert task.video
    assert sandbox.read(str(line.video).partition(f"{sandbox.bucket}/")[2]) == task.video.read_bytes()
    assert task.downloads == (2 if "Location" in str(delivery) else 1)
    assert provider.billed_usd == task.billed_usd


async def test_a_run_in_a_closed_network_goes_through_the_proxy(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that only the proxy can resolve is paid once, and its video is fetched through the proxy."""
    async with running_proxy({"provider.test": "127.0.0.1"}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", sandbox.aws.address)
        base_url = provider.base_url.replace("127.0.0.1", "provider.test")
        private_hosts = settings.private_hosts | {"provider.test"}
        line = await _run(new_run, put_photo(sandbox), base_url=base_url, private_hosts=private_hosts)
    assert line.outcome is Outcome.STORED
    posts = [sent for sent in proxy.lines if sent.startswith("POST")]
    assert posts == [f"POST {base_url}/generateTask/hailuo-2-3-fast"]
    assert len([sent for sent in proxy.lines if "/files/" in sent]) == 1
    assert len(provider.tasks) == 1


@pytest.mark.parametrize("by_reconcile", [False, True])
async def test_an_unknown_state_with_a_video_is_stored_and_named(
    by_reconcile: bool,
    sandbox: Sandbox,
    provider: Provider,
    new_run: OpenRun,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A success by another name is stored and paid once, and its word is in log, report and `i2v jobs show`."""
    provider.add_fault(on="task", kind="state", state="succeeded")
    if by_reconcile:
        async with new_run() as run:
            await submit(run, await order_for(run, put_photo(sandbox)))
        provider.wait(lambda: all(task.state == "success" for task in provider.tasks.values()))
        async with new_run(run_gone_seconds=0.001) as run:
            (line,) = (await reconcile(run)).items
    else:
        line = await _run(new_run, put_photo(sandbox))
    assert line.outcome is Outcome.STORED
    assert "the state 'succeeded', which i2v does not know" in str(line.reason)
    assert caplog.text.count("the state 'succeeded', which i2v does not know") == 1
    assert "the state 'succeeded', which i2v does not know" in _shown(sandbox, line, capsys)
    assert len(provider.tasks) == 1


async def test_an_unknown_state_without_a_video_is_running_and_named(
    sandbox: Sandbox,
    provider: Provider,
    new_run: OpenRun,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A job in a state that i2v does not know stays open, is logged once, and says so in report and `i2v jobs show`."""
    provider.set_options(render_seconds=60)
    provider.add_fault(on="task", kind="state", state="on_hold")
    line = await _run(new_run, put_photo(sandbox), poll_deadline_seconds=0.5)
    assert line.outcome is Outcome.SUBMITTED
    assert "not rendered yet" in str(line.reason)
    assert "the state 'on_hold', which i2v does not know" in str(line.reason)
    assert caplog.text.count("the state 'on_hold', which i2v does not know") == 1
    assert "the state 'on_hold', which i2v does not know" in _shown(sandbox, line, capsys)
    (task,) = provider.tasks.values()
    assert task.statuses > 1


def _shown(sandbox: Sandbox, line: ItemReport, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `i2v jobs show` prints about a job."""
    capsys.readouterr()
    print_job(JobRecord.model_validate_json(sandbox.read(f"jobs/{line.job}.json")))
    return capsys.readouterr().out
