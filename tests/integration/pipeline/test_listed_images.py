"""Images found by listing a prefix get the same request and version as images named one by one."""

from __future__ import annotations

import pytest

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import InputItem, find_items
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, prepare
from i2v.pipeline.validate import ResolvedImage, ValidationResult, validate_image
from i2v.pipeline.video_order import Order
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.orders import OpenRun, put_photo

DEFAULT = RequestOptions(prompt="the run's", mode="standard", duration=6)


async def list_image(run: RunContext, sandbox: Sandbox) -> InputItem:
    """List the only image of the bucket."""
    (item,) = await find_items(f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
    return item


async def make_order(run: RunContext, item: InputItem, steps: Steps | None = None) -> Order:
    """Validate an item and return its order."""
    order = await prepare(run, item, DEFAULT, steps or Steps())
    assert isinstance(order, Order), order
    return order


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize(
    ("metadata", "sidecar", "prompt", "duration"),
    [
        ({}, None, "the run's", 6),
        ({}, "the sidecar's", "the sidecar's", 6),
        ({"prompt": "the metadata's", "duration": "10"}, "the sidecar's", "the metadata's", 10),
    ],
    ids=["run", "sidecar", "metadata"],
)
async def test_a_listed_image_has_its_own_prompt(
    sandbox: Sandbox,
    new_run: OpenRun,
    metadata: dict[str, str],
    sidecar: str | None,
    prompt: str,
    duration: int,
    is_cached: bool,
) -> None:
    """Metadata overrides a sidecar, and both override the run's prompt, also when validation is cached."""
    client = sandbox.s3()
    client.put_object(Bucket=sandbox.bucket, Key="images/tom.jpg", Body=make_jpeg(640, 480), Metadata=metadata)
    if sidecar:
        client.put_object(Bucket=sandbox.bucket, Key="images/tom.jpg.txt", Body=sidecar.encode())

    async def validate_as_json(run: RunContext, image: ResolvedImage) -> ValidationResult:
        return ValidationResult.model_validate((await validate_image(run, image)).model_dump(mode="json"))

    async with new_run() as run:
        item = await list_image(run, sandbox)
        if is_cached:
            first = await make_order(run, item, Steps(validate=validate_as_json))
            cached = ValidationResult(etag=first.image.etag, at=first.image.at, facts=first.image.facts)

            async def from_cache(run: RunContext, image: ResolvedImage) -> ValidationResult:
                return cached

            order = await make_order(run, item, Steps(validate=from_cache))
        else:
            order = await make_order(run, item)
    assert (order.request.prompt, order.request.duration) == (prompt, duration)


async def test_an_image_replaced_after_the_listing_is_read_again(sandbox: Sandbox, new_run: OpenRun) -> None:
    """The order has the etag and metadata of the object at the key now, not those of the listing."""
    put_photo(sandbox, "tom.jpg", 1)
    async with new_run() as run:
        item = await list_image(run, sandbox)
        client = sandbox.s3()
        body = make_jpeg(640, 480, seed=2)
        client.put_object(Bucket=sandbox.bucket, Key="images/tom.jpg", Body=body, Metadata={"prompt": "the new one"})
        order = await make_order(run, item)
        current = await run.storage.head(order.image.at)
    assert (order.image.etag, order.request.prompt) == (current.etag, "the new one")


async def test_the_order_names_the_version_that_was_validated(sandbox: Sandbox, new_run: OpenRun) -> None:
    """A listing has no version ids, so the order takes the version of the object that was read."""
    client = sandbox.s3()
    client.put_bucket_versioning(Bucket=sandbox.bucket, VersioningConfiguration={"Status": "Enabled"})
    put_photo(sandbox, "tom.jpg", 1)
    async with new_run() as run:
        order = await make_order(run, await list_image(run, sandbox))
    assert order.image.version_id == client.head_object(Bucket=sandbox.bucket, Key="images/tom.jpg")["VersionId"]
