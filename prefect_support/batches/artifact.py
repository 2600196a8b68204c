"""A batch in Prefect's UI: one markdown artifact, `i2v-batch`, with its shards; first live and then final.

The shards' own runs have their own pages, under another key.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from i2v.batches.merge import MergedBatch
from i2v.batches.page import batch_page, batch_words, live_batch_page
from i2v.batches.process import BatchRun
from i2v.pipeline.context import RunContext
from prefect_support.artifacts_api import KeyedPage, write_or_drop
from prefect_support.run_names import current_run

KEY = "i2v-batch"
UPDATE_SECONDS = 15.0


class BatchArtifact:
    """The artifact of one batch."""

    def __init__(self, run: RunContext, batch: BatchRun) -> None:
        self._run = run
        self._batch = batch
        self._page = KeyedPage(KEY)

    @asynccontextmanager
    async def live(self) -> AsyncIterator[None]:
        """Keep the page up to date while the block runs."""
        updating = asyncio.create_task(self._keep_updated())
        try:
            yield
        finally:
            updating.cancel()
            await asyncio.wait({updating})

    async def _keep_updated(self) -> None:
        while True:
            batch = self._batch
            text = live_batch_page(batch.plan, batch.runs, batch.done, self._run.max_spend_usd, batch.note)
            words = f"running: {batch_words(batch.plan, batch.runs, batch.done)}"
            await write_or_drop(self._page.write(text, _named(words)))
            await asyncio.sleep(UPDATE_SECONDS)

    async def publish(self, merged: MergedBatch, *, awaits_callbacks: bool) -> None:
        """Write the final page."""
        text = batch_page(
            self._batch.plan,
            self._batch.runs,
            merged,
            self._run.settings,
            self._run.max_spend_usd,
            awaits_callbacks=awaits_callbacks,
        )
        words = merged.total.summary(self._batch.plan.inputs, awaits_callbacks=awaits_callbacks)
        await write_or_drop(self._page.write(text, _named(words)), final=True)


def _named(words: str) -> str:
    run = current_run()
    return f"{run.name}: {words}" if run else words
