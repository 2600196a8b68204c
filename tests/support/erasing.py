"""Runs that make videos of images, and their erasure, as the command does it."""

from __future__ import annotations

from i2v.erasure.erase import Erasure, erase
from i2v.erasure.search import search
from i2v.erasure.selection import Selection
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.generate import Steps, generate
from i2v.reports.run_report import Report
from i2v.s3_uri import S3Uri
from tests.support.orders import OpenRun

NAME, PROMPT, SKU = "Jane-Doe-4711-portrait", "Jane waves at her daughter", "sku-of-jane-0815"
WORDS = {"name": NAME, "prompt": PROMPT, "column": SKU, "folder": "customer-jane-doe"}
DEFAULT = RequestOptions.model_validate({"prompt": "a slow zoom"})


def row_of(uri: str, **more: object) -> BatchRow:
    """Return a row with Jane's prompt and column."""
    return BatchRow.model_validate({"image": uri, "prompt": PROMPT, "sku": SKU, **more})


async def run_images(new_run: OpenRun, *rows: str | BatchRow, by_name: bool = True, **changes: object) -> Report:
    """Generate the videos of these images in a separate run."""
    async with new_run(**changes) as run:
        items = await find_items(list(rows), run.storage, run.settings, by_name=by_name)
        report, _ = await generate(run, items, DEFAULT, Steps())
    return report


async def forget(
    new_run: OpenRun, *labels: str, prefix: str = "", with_images: bool = False, **changes: object
) -> Erasure:
    """Erase images as the command does."""
    async with new_run(**changes) as run:
        await run.heartbeat.end()
        selection = Selection(run.settings, S3Uri.parse(prefix) if prefix else None)
        selection.add(labels)
        await search(run.ledger, selection)
        return await erase(run.ledger, selection, with_images=with_images)
