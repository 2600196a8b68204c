"""A run as Prefect's UI shows it beside its tasks: one markdown artifact, live and then final, and a progress bar.

Nothing here may fail a run or hold it up: one background task writes now and then, and what cannot be written is let
go. What is first written has no signed links (`prefect_support.artifacts_api` says why).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from prefect.artifacts import MarkdownArtifact, ProgressArtifact
from prefect.client.orchestration import get_client

from i2v.errors import I2vError
from i2v.ledger import keys
from i2v.ledger.job import JobRecord
from i2v.pipeline.run import Run
from i2v.reports.live_page import live_page
from i2v.reports.progress import RunProgress
from i2v.reports.run_page import RunPageInfo, VideoLinks, run_page, sample_videos
from i2v.reports.run_report import ItemReport, Report
from i2v.s3_uri import S3Uri
from prefect_support.artifacts_api import update_artifact
from prefect_support.events import EventEmitter

log = logging.getLogger(__name__)
KEY = "i2v-run"
"""One key for all runs, so that Prefect keeps their history together."""
BAR_SECONDS = 5.0
PAGES_EVERY = 3
"""The live page is written with each third look at the bar."""
MOST_SECONDS = 10.0
"""A request of Prefect's that takes longer is given up."""


@asynccontextmanager
async def publish_progress(run: Run) -> AsyncIterator[None]:
    """Let Prefect's UI and its event feed follow the run."""
    page = RunArtifact(run)
    run.watch(EventEmitter(run))
    run.watch(page)
    live = asyncio.create_task(page.keep())
    try:
        yield
    finally:
        live.cancel()
        await asyncio.wait({live})
        await page.publish()


class RunArtifact:
    """The artifacts of one run, and what is known of it; a watcher."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._tally = RunProgress()
        self._report: Report | None = None
        self._page: UUID | None = None
        self._bar: UUID | None = None
        self._percent = -1.0

    def opened(self, run: Run) -> None:
        """Nothing has happened yet."""

    def counted(self, images: int) -> None:
        """Passed on."""
        self._tally.counted(images)

    def step(self, step: str, job: str) -> None:
        """Passed on."""
        self._tally.step(step, job)

    def submitted(self, record: JobRecord) -> None:
        """Passed on."""
        self._tally.submitted(record)

    def done(self, item: ItemReport) -> None:
        """Passed on."""
        self._tally.ended(item)

    def ended(self, report: Report) -> None:
        """Keep the report until the run has done everything else."""
        self._report = report

    async def keep(self) -> None:
        """Show how far the run is, until cancelled."""
        looks = 0
        while True:
            await asyncio.sleep(BAR_SECONDS)
            if not self._tally.total:
                continue
            await _let_go(self._show_bar())
            if looks % PAGES_EVERY == 0:
                await _let_go(self._write(live_page(self._tally, self._spent_usd, self._run.render_seconds)))
            looks += 1

    @property
    def _spent_usd(self) -> Decimal:
        return Decimal(0) if self._run.dry_run else self._run.budget.spent_usd

    async def publish(self) -> None:
        """Show the run's report, or how far it came; a run without images leaves nothing."""
        if self._bar:
            await _let_go(self._show_bar())
        if self._report and self._report.items:
            await _let_go(self._publish(self._report))
        elif self._page:
            await _let_go(self._write(live_page(self._tally, self._spent_usd, self._run.render_seconds)))

    async def _publish(self, report: Report) -> None:
        about, links = self._about(), await self._sign(report)
        if self._page is None or not links:
            await self._write(run_page(report, about, {}))
        if links:
            await self._write(run_page(report, about, links))

    def _about(self) -> RunPageInfo:
        settings, record = self._run.settings, self._run.record
        until = datetime.now(UTC) + timedelta(seconds=settings.link_seconds)
        about = RunPageInfo(label=record.label, images=str(settings.images), links_until=until)
        if self._run.dry_run:
            return about
        report, lines = keys.run_uri(settings, record.run_id), keys.run_items_uri(settings, record.run_id)
        return replace(about, report=str(report), rows=str(lines))

    async def _sign(self, report: Report) -> dict[str, VideoLinks]:
        """Links to the posters, videos and manifests that the page shows; none where there shall be none."""
        if not self._run.settings.link_seconds:
            return {}
        videos = {item.video: keys.parse_video_uri(item.video, self._run.settings) for item in sample_videos(report)}
        try:
            return {str(video): await self._links(uri) for video, uri in videos.items() if uri}
        except I2vError as error:
            log.debug("no links: %s", error)
            return {}

    async def _links(self, video: S3Uri) -> VideoLinks:
        uris = (keys.sibling_uri(video, ".jpg"), video, keys.sibling_uri(video, ".json"))
        seconds = self._run.settings.link_seconds
        return VideoLinks(*await asyncio.gather(*(self._run.storage.presign(uri, seconds=seconds) for uri in uris)))

    async def _write(self, text: str) -> None:
        async with get_client() as client:
            if self._page is None:
                self._page = (await MarkdownArtifact(key=KEY, markdown=text).acreate(client)).id
            else:
                await update_artifact(client, self._page, data=text)

    async def _show_bar(self) -> None:
        percent = self._tally.percent
        if percent == self._percent:
            return
        words = self._tally.words(self._spent_usd)
        async with get_client() as client:
            if self._bar is None:
                self._bar = (await ProgressArtifact(progress=percent, description=words).acreate(client)).id
            else:
                await update_artifact(client, self._bar, data=percent, description=words)
        self._percent = percent


async def _let_go(work: Coroutine[Any, Any, None]) -> None:
    """Do it if it can be done soon; what goes wrong could repeat the links, so its kind alone is logged."""
    try:
        await asyncio.wait_for(work, MOST_SECONDS)
    except Exception as error:  # noqa: BLE001 - a page is never worth a run
        log.debug("the run's page is not up to date: %s", type(error).__name__)
