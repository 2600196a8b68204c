"""Images that are validated before their run starts, while a temporary Prefect server does."""

from __future__ import annotations

import asyncio
from io import StringIO

import pytest
from rich.console import Console

from i2v.cli.images.validate_ahead import ValidatedAhead
from i2v.cli.output.progress import Progress
from i2v.errors import NoImages
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.generate import Steps, generate
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.fault_proxy import FaultProxy
from tests.support.orders import OpenRun, put_photos
from tests.support.request_kinds import kinds

DEFAULT = RequestOptions(prompt="it moves")
STAGE = "starting a server"


def ahead_of(sandbox: Sandbox, settings: Settings) -> ValidatedAhead:
    """Return what validates all images in the bucket."""
    images = (f"s3://{sandbox.bucket}/images/",)
    return ValidatedAhead(images, DEFAULT, settings, Progress(Console(file=StringIO())), skip_bad_rows=False)


async def validated(ahead: ValidatedAhead, count: int) -> None:
    """Wait until that many images are validated."""
    while len(ahead.results) < count:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.01)


async def run_all(sandbox: Sandbox, new_run: OpenRun, ahead: ValidatedAhead) -> str:
    """Generate a video of each image with what was validated ahead; return the summary."""
    async with new_run() as run:
        run.validated_ahead.update(ahead.results)
        items = await find_items(f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
        report, _ = await generate(run, items, DEFAULT, Steps())
    return report.summary


async def test_an_image_is_read_once(
    sandbox: Sandbox, s3_proxy: FaultProxy, settings: Settings, new_run: OpenRun
) -> None:
    """The run reads no image that was validated ahead, and refuses what was refused then; ahead, nothing is written."""
    put_photos(sandbox, 2)
    sandbox.put_image("images/small.jpg", make_jpeg(300, 400))
    before, ahead = sandbox.keys(), ahead_of(sandbox, settings)

    await ahead.until(validated(ahead, 3), STAGE)
    assert (kinds(s3_proxy.log)["GET image"], sandbox.keys()) == (3, before)

    assert await run_all(sandbox, new_run, ahead) == "2 stored · 1 refused · $0.384"
    assert kinds(s3_proxy.log)["GET image"] == 3


async def test_an_image_that_was_replaced_is_read_again(sandbox: Sandbox, settings: Settings, new_run: OpenRun) -> None:
    """Between validation and run an image becomes another one, which is too small: it is refused."""
    put_photos(sandbox, 1)
    ahead = ahead_of(sandbox, settings)

    await ahead.until(validated(ahead, 1), STAGE)
    sandbox.put_image("images/000.jpg", make_jpeg(300, 400))

    assert await run_all(sandbox, new_run, ahead) == "1 refused · $0.00"


async def test_it_ends_as_soon_as_the_server_is_ready(sandbox: Sandbox, aws: None, settings: Settings) -> None:
    """A server that is ready first is not kept waiting, and its URL is returned."""
    put_photos(sandbox, 2)
    ahead = ahead_of(sandbox, settings)

    assert await ahead.until(asyncio.sleep(0, "url"), STAGE) == "url"
    assert ahead.results == {}


async def test_images_that_do_not_exist_are_reported_without_a_server(
    sandbox: Sandbox, aws: None, settings: Settings
) -> None:
    """An empty prefix ends the command while the server still starts."""
    with pytest.raises(NoImages):
        await ahead_of(sandbox, settings).until(asyncio.Event().wait(), STAGE)
