"""Paid videos that cannot be verified: what comes twice with the same bytes is kept, and a person decides."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from i2v.errors import BrokenVideo, CannotResolve
from i2v.ledger.job import JobRecord, JobState
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, process_order
from i2v.recovery.resolve_by_hand import Resolver
from i2v.reports.run_report import ItemReport, Outcome
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.orders import OpenRun, order_for, put_photo
from tests.support.reconciling import reconcile

WAIT = 1.5
"""Longer than a poll interval of the sandbox."""


async def run_once(sandbox: Sandbox, new_run: OpenRun) -> tuple[ItemReport, JobRecord]:
    """Process one photo; return its line and its record."""
    async with new_run() as run:
        order = await order_for(run, put_photo(sandbox))
        line = await process_order(run, order, Steps())
        return line, (await run.ledger.read_existing(order.key)).record


def endings(sandbox: Sandbox) -> list[str]:
    """Return the endings of all outputs."""
    return sorted(key.rpartition("/")[2].partition(".")[2] for key in sandbox.keys("videos/"))


@pytest.mark.parametrize("kind", ["truncated", "jpeg"])
async def test_a_file_that_comes_twice_with_the_same_bytes_is_kept_and_flagged(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, kind: str
) -> None:
    """A delivery that is broken for ever ends as an unverified video, with the reason in report and manifest."""
    provider.add_fault(on="file", kind=kind, times=None)
    line, record = await run_once(sandbox, new_run)
    assert (line.outcome, record.state, record.is_open) == (Outcome.STORED, JobState.STORED, False)
    assert endings(sandbox) == ["jpg", "json", "unverified.mp4"]
    assert record.video
    assert line.video == str(record.video.uri)
    manifest = sandbox.read_json(record.video.manifest.key)["video"]
    assert record.video.unverified == manifest["unverified"] != ""
    assert "unverified" in (line.reason or "")
    assert "unverified" in manifest["flags"][0]
    assert sandbox.keys("jobs/open/") == []
    assert sum(provider.billed().values()) == 1


async def test_two_downloads_are_enough(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """The second download with the same bytes is taken, not a later one."""
    provider.add_fault(on="file", kind="truncated", times=None)
    await run_once(sandbox, new_run)
    assert len(provider.request_log.find("file")) == 2


@pytest.mark.parametrize("kind", ["html", "empty"])
async def test_a_web_page_is_not_taken_for_a_video(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page or an empty file may be a passing fault: the job stays open, and ends if it is still there later."""
    provider.add_fault(on="file", kind=kind, times=None)
    line, record = await run_once(sandbox, new_run)
    assert (line.outcome, record.state, endings(sandbox)) == (Outcome.FAILED, JobState.SUBMITTED, [])
    monkeypatch.setattr("i2v.pipeline.store.PAGE_SECONDS", 0.0)
    async with new_run() as run:
        await reconcile(run, entries=[record.key])
        assert (await run.ledger.read_existing(record.key)).record.state is JobState.STORED
    assert endings(sandbox) == ["jpg", "json", "unverified.mp4"]


async def test_a_process_that_dies_between_the_downloads_loses_nothing(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger remembers the first download, so that reconcile recognizes the second one days later."""
    provider.add_fault(on="file", kind="truncated", times=None)
    monkeypatch.setattr("i2v.pipeline.store.FRESH_STATUSES", 0)
    line, record = await run_once(sandbox, new_run)
    assert (line.outcome, record.state) == (Outcome.FAILED, JobState.SUBMITTED)
    assert len(record.attempts[0].broken_sha256) == 64
    await asyncio.sleep(WAIT)
    async with new_run() as run:
        await reconcile(run, entries=[record.key])
        record = (await run.ledger.read_existing(record.key)).record
    assert (record.state, len(provider.request_log.find("file"))) == (JobState.STORED, 2)


async def test_downloads_that_differ_are_tried_again(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Broken files with other bytes each time are never taken; the whole one that follows is."""
    for kind in ("truncated", "jpeg", "truncated"):
        provider.add_fault(on="file", kind=kind)
    _, record = await run_once(sandbox, new_run)
    assert record.video
    assert (record.state, record.video.unverified, endings(sandbox)) == (JobState.STORED, None, ["jpg", "json", "mp4"])


async def test_a_decoder_that_runs_out_of_memory_refuses_nothing(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """If decoding is stopped once, the file is downloaded and decoded again."""
    async with new_run() as run:
        run.decoder = StoppedOnce(run)  # type: ignore[assignment]
        order = await order_for(run, put_photo(sandbox))
        line = await process_order(run, order, Steps())
    assert (line.outcome, endings(sandbox)) == (Outcome.STORED, ["jpg", "json", "mp4"])


class StoppedOnce:
    """A decoder whose first video exceeds a limit."""

    def __init__(self, run: RunContext) -> None:
        self._decoder = run.decoder
        self._stopped = False

    async def examine_video(self, *args: Any) -> Any:
        """Fail once."""
        if not self._stopped:
            self._stopped = True
            raise BrokenVideo("Decoding was stopped")
        return await self._decoder.examine_video(*args)

    async def check_image(self, *args: Any) -> Any:
        """Check an image."""
        return await self._decoder.check_image(*args)


async def test_a_person_keeps_an_unverified_video(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, settings: Settings
) -> None:
    """After --keep nothing is left to decide: it can neither be kept again nor resubmitted."""
    provider.add_fault(on="file", kind="truncated", times=None)
    _, record = await run_once(sandbox, new_run)
    async with new_run() as run:
        resolver = Resolver(run.storage, settings)
        kept = await resolver.keep(record.key)
        assert (kept.state, kept.attempts[0].is_unverified, record.attempts[0].is_unverified) == (
            JobState.STORED,
            False,
            True,
        )
        for decide in (resolver.keep, resolver.resubmit):
            with pytest.raises(CannotResolve):
                await decide(record.key)


async def test_a_person_resubmits_an_unverified_video(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, settings: Settings
) -> None:
    """After --resubmit the next run pays once more; the new video stands beside the unverified one."""
    provider.add_fault(on="file", kind="truncated", times=2)
    _, record = await run_once(sandbox, new_run)
    async with new_run() as run:
        resubmitted = await Resolver(run.storage, settings).resubmit(record.key)
        assert (resubmitted.state, resubmitted.video) == (JobState.READY, None)
    line, again = await run_once(sandbox, new_run)
    assert (line.outcome, again.paid_attempts, sum(provider.billed().values())) == (Outcome.STORED, 2, 2)
    assert endings(sandbox) == ["jpg", "json", "mp4", "unverified.mp4"]
    assert again.video
    assert sandbox.read_json(again.video.manifest.key)["video"]["unverified"] is None


async def test_an_equal_image_gets_a_copy_with_the_same_ending(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """The copy for an equal image is named and flagged as unverified too."""
    provider.add_fault(on="file", kind="truncated", times=None)
    await run_once(sandbox, new_run)
    async with new_run() as run:
        line = await process_order(run, await order_for(run, put_photo(sandbox, "equal.jpg")), Steps())
    assert line.outcome is Outcome.CACHED
    assert (line.video or "").endswith(".unverified.mp4")
    assert len(endings(sandbox)) == 6
