"""Images that a listing told of: what is asked for them is the same as of those that are named one by one."""

from __future__ import annotations

import pytest

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import InputItem, find_items
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, prepare
from i2v.pipeline.order import Order
from i2v.pipeline.validate import ResolvedImage, ValidationResult, validate_image
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.orders import OpenRun, put_photo

DEFAULT = RequestOptions(prompt="the run's", mode="standard", duration=6)


async def listed(run: RunContext, sandbox: Sandbox) -> InputItem:
    """The one image of the bucket."""
    (item,) = await find_items(f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
    return item


async def ordered(run: RunContext, item: InputItem, steps: Steps | None = None) -> Order:
    """What would be paid for."""
    order = await prepare(run, item, DEFAULT, steps or Steps())
    assert isinstance(order, Order), order
    return order


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize(
    ("metadata", "text", "prompt", "duration"),
    [
        ({}, None, "the run's", 6),
        ({}, "the sidecar's", "the sidecar's", 6),
        ({"prompt": "its own", "duration": "10"}, "the sidecar's", "its own", 10),
    ],
    ids=["the run's", "a sidecar", "metadata"],
)
async def test_a_listed_image_has_its_own_prompt(
    sandbox: Sandbox,
    new_run: OpenRun,
    metadata: dict[str, str],
    text: str | None,
    prompt: str,
    duration: int,
    is_cached: bool,
) -> None:
    """Metadata goes before a sidecar, and both before the run's prompt, also where a cache knows the verdict."""
    client = sandbox.s3()
    client.put_object(Bucket=sandbox.bucket, Key="images/tom.jpg", Body=make_jpeg(640, 480), Metadata=metadata)
    if text:
        client.put_object(Bucket=sandbox.bucket, Key="images/tom.jpg.txt", Body=text.encode())

    async def cached(run: RunContext, seen: ResolvedImage) -> ValidationResult:
        return ValidationResult.model_validate((await validate_image(run, seen)).model_dump(mode="json"))

    async with new_run() as run:
        item = await listed(run, sandbox)
        if is_cached:
            first = await ordered(run, item, Steps(validate=cached))
            known = ValidationResult(etag=first.image.etag, at=first.image.at, facts=first.image.facts)

            async def from_cache(run: RunContext, seen: ResolvedImage) -> ValidationResult:
                return known

            order = await ordered(run, item, Steps(validate=from_cache))
        else:
            order = await ordered(run, item)
    assert (order.request.prompt, order.request.duration) == (prompt, duration)


async def test_an_image_replaced_since_it_was_listed_is_looked_at_anew(sandbox: Sandbox, new_run: OpenRun) -> None:
    """What is paid for is what lies there now, with its own metadata, and not what a listing told minutes ago."""
    put_photo(sandbox, "tom.jpg", 1)
    async with new_run() as run:
        item = await listed(run, sandbox)
        client = sandbox.s3()
        body = make_jpeg(640, 480, seed=2)
        client.put_object(Bucket=sandbox.bucket, Key="images/tom.jpg", Body=body, Metadata={"prompt": "its new one"})
        order = await ordered(run, item)
        now = await run.storage.head(order.image.at)
    assert (order.image.etag, order.request.prompt) == (now.etag, "its new one")


async def test_the_version_that_was_read_is_handed_over(sandbox: Sandbox, new_run: OpenRun) -> None:
    """A listing knows no versions: the one that was read whole is the one that the provider is given."""
    client = sandbox.s3()
    client.put_bucket_versioning(Bucket=sandbox.bucket, VersioningConfiguration={"Status": "Enabled"})
    put_photo(sandbox, "tom.jpg", 1)
    async with new_run() as run:
        order = await ordered(run, await listed(run, sandbox))
    assert order.image.version_id == client.head_object(Bucket=sandbox.bucket, Key="images/tom.jpg")["VersionId"]
