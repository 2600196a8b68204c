"""Find and validate images before the flow runs, while its server starts: `ValidatedAhead`.

The flow lists the images again and validates them as it always does, but reads none twice.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import TypeVar
from uuid import uuid4

from i2v.cli.output.progress import Progress
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import InputItem, find_items
from i2v.ledger.run_record import new_run
from i2v.net.fetcher import Fetcher
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, prepare
from i2v.pipeline.run import make_context
from i2v.pipeline.validate import ResolvedImage, ValidationResult, validate_image
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

Results = dict[tuple[S3Uri, str], ValidationResult]
"""By object and etag."""
T = TypeVar("T")


class ValidatedAhead:
    """What is known of the images of a run before it starts."""

    def __init__(
        self,
        images: Sequence[str | BatchRow],
        default: RequestOptions,
        settings: Settings,
        progress: Progress,
        *,
        skip_bad_rows: bool,
    ) -> None:
        self.results: Results = {}
        self._images, self._default, self._settings, self._progress = images, default, settings, progress
        self._skip_bad_rows = skip_bad_rows

    async def until(self, ready: Awaitable[T], stage: str) -> T:
        """Validate images until this is ready, and return it; show the stage while there is nothing else to do.

        Raise what `find_items` raises.
        """
        waiting, working = asyncio.ensure_future(ready), asyncio.ensure_future(self._validate(stage))
        try:
            await asyncio.wait({waiting, working}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            return await waiting
        finally:
            waiting.cancel()
            working.cancel()
            await asyncio.wait({working})

    async def _validate(self, stage: str) -> None:
        """Do what a dry run does before it looks at the ledger. An image's error is left to the run itself."""
        settings = self._settings
        if self._images and not settings.aws_block:  # credentials from a block need the server
            with Storage() as storage:
                items = await find_items(self._images, storage, settings, skip_bad_rows=self._skip_bad_rows)
                objects = [item for item in items if item.ref.uri is not None]
                self._progress.doing(f"{stage}, and validating images", len(objects))
                async with Fetcher(settings) as fetcher:
                    run = make_context(settings, storage, None, fetcher, new_run(str(uuid4())), dry_run=True)
                    await asyncio.gather(*map(partial(self._prepare, run), objects))
        self._progress.doing(stage)

    async def _prepare(self, run: RunContext, item: InputItem) -> None:
        await prepare(run, item, self._default, Steps(validate=self._validate_image))
        self._progress.advance()

    async def _validate_image(self, run: RunContext, image: ResolvedImage) -> ValidationResult:
        result = await validate_image(run, image)
        if image.ref.uri and image.etag:
            self.results[image.ref.uri, image.etag] = result
        return result
