"""A run in Prefect's UI: a markdown artifact, first live and then final, and a progress bar.

Nothing here may fail or delay a run: a background task writes now and then, and a failed write is dropped. The first
text has no signed links (`prefect_support.artifacts_api` says why).
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.artifacts import ProgressArtifact
from prefect.client.orchestration import get_client

from i2v.errors import I2vError
from i2v.ledger import keys
from i2v.pipeline.context import RunContext
from i2v.pipeline.events import Event, RunEnded, update_progress
from i2v.reports.live_page import live_page
from i2v.reports.progress import RunProgress
from i2v.reports.run_page import RunPageInfo, VideoLinks, run_page, sample_videos
from i2v.reports.run_report import Report
from i2v.s3_uri import S3Uri
from prefect_support.artifacts_api import KeyedPage, update_artifact, write_or_drop
from prefect_support.events import EventEmitter
from prefect_support.run_names import current_run

log = logging.getLogger(__name__)
KEY = "i2v-run"
"""One key for all runs, so that Prefect keeps their history together."""
BAR_SECONDS = 5.0
PAGE_EVERY = 3
"""The live page is written once every three updates of the bar."""


@asynccontextmanager
async def publish_progress(run: RunContext) -> AsyncIterator[None]:
    """Show the run in Prefect's UI and event feed while the block runs, and its report afterwards."""
    artifact = RunArtifact(run)
    run.add_listener(EventEmitter(run))
    run.add_listener(artifact)
    updating = asyncio.create_task(artifact.keep_updated())
    try:
        yield
    finally:
        updating.cancel()
        await asyncio.wait({updating})
        await artifact.publish()


class RunArtifact:
    """The artifacts of one run."""

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._progress = RunProgress()
        self._report: Report | None = None
        self._page = KeyedPage(KEY)
        self._bar: UUID | None = None
        self._percent = -1.0

    def on_event(self, event: Event) -> None:
        """Count the event, and keep the report for `publish`."""
        update_progress(self._progress, event)
        if isinstance(event, RunEnded):
            self._report = event.report

    async def keep_updated(self) -> None:
        """Update the bar and the live page until cancelled."""
        updates = 0
        while True:
            await asyncio.sleep(BAR_SECONDS)
            if not self._progress.total:
                continue
            await write_or_drop(self._update_bar())
            if updates % PAGE_EVERY == 0:
                await write_or_drop(self._write_live_page())
            updates += 1

    async def publish(self) -> None:
        """Write the report, or how far the run got; a run without images leaves nothing."""
        if self._bar:
            await write_or_drop(self._update_bar())
        if self._report and self._report.items:
            await write_or_drop(self._publish(self._report), final=True)
        elif self._page.exists:
            await write_or_drop(self._write_live_page())

    async def _publish(self, report: Report) -> None:
        about, links = self._about(), await self._sign(report)
        if not (self._page.exists and links):
            await self._write(run_page(report, about, {}))
        if links:
            await self._write(run_page(report, about, links))

    def _about(self) -> RunPageInfo:
        settings, run = self._run.settings, self._run
        until = datetime.now(UTC) + timedelta(seconds=settings.link_seconds)
        about = RunPageInfo(label=run.label, images=str(settings.images), links_until=until)
        if run.dry_run:
            return about
        report, lines = keys.run_uri(settings, run.run_id), keys.run_items_uri(settings, run.run_id)
        return replace(about, report=str(report), rows=str(lines))

    async def _sign(self, report: Report) -> dict[str, VideoLinks]:
        """Return presigned links of the videos on the page; none if the settings turn them off."""
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

    async def _write_live_page(self) -> None:
        await self._write(live_page(self._progress))

    async def _write(self, text: str) -> None:
        await self._page.write(text, self._description)

    @property
    def _description(self) -> str:
        """What the run is about and how it stands, for the list of pages."""
        run = current_run()
        words = self._report.summary if self._report else f"running: {self._progress.words}"
        return f"{run.name}: {words}" if run else words

    async def _update_bar(self) -> None:
        percent = self._progress.percent
        if percent == self._percent:
            return
        words = self._progress.words
        async with get_client() as client:
            if self._bar is None:
                self._bar = (await ProgressArtifact(progress=percent, description=words).acreate(client)).id
            else:
                await update_artifact(client, self._bar, data=percent, description=words)
        self._percent = percent
