"""One image up to the point where it can be submitted: put it in the bucket, validate it, build its order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.context import RunContext
from i2v.pipeline.order import Order, make_order, make_request
from i2v.pipeline.validate import resolve_image, validate_image
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
