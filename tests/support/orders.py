"""Images in the bucket, their orders, and their job records in the ledger."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.ledger.job import JobRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.validate import resolve_image, validate_image
from i2v.pipeline.video_order import Order, make_order, make_request
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg

OpenRun = Callable[..., AbstractAsyncContextManager[RunContext]]
"""Type of the `new_run` fixture of `tests/integration`."""


async def order_for(run: RunContext, uri: str, prompt: str = "a slow zoom", **options: object) -> Order:
    """Return the order of one image after the real validation; options are fields of `RequestOptions`."""
    (item,) = await find_items(uri, run.storage, run.settings)
    resolved = await resolve_image(run, item, RequestOptions.model_validate({"prompt": prompt, **options}))
    return make_order(run, resolved, await validate_image(run, resolved), make_request(resolved))


def put_photo(sandbox: Sandbox, name: str = "tom.jpg", seed: int = 1) -> str:
    """Put a valid image below `images/` and return its address."""
    return sandbox.put_image(f"images/{name}", make_jpeg(640, 480, seed=seed))


def put_photos(sandbox: Sandbox, count: int) -> list[str]:
    """Put small valid images, all different, at `images/000.jpg` and up, and return their addresses."""
    return [sandbox.put_image(f"images/{number:03}.jpg", make_jpeg(400, 400, seed=number)) for number in range(count)]


def put_copies(sandbox: Sandbox, count: int) -> None:
    """Put one photo many times, each with other trailing bytes. Faster than `put_photos` for large numbers."""
    photo = make_jpeg(640, 480)
    for number in range(count):
        sandbox.put_image(f"images/{number:03}.jpg", photo + b"%d" % number)


def job_records(sandbox: Sandbox) -> list[JobRecord]:
    """Return all job records in the ledger."""
    keys = [key for key in sandbox.keys("jobs/") if len(key) == len("jobs/.json") + 64]
    return [JobRecord.model_validate_json(sandbox.read(key)) for key in keys]
