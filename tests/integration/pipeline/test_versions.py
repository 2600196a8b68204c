"""The image handed over is the image hashed, or the manifest says that it may not be."""

from __future__ import annotations

import hashlib

import pytest

from i2v.ledger.job import JobState
from i2v.pipeline.poll import poll
from i2v.pipeline.store import store
from i2v.pipeline.submit import submit
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.memory_storage import ready
from tests.support.orders import OpenRun, order_for, put_photo


@pytest.fixture
def versioned(sandbox: Sandbox) -> Sandbox:
    """A bucket that keeps versions."""
    sandbox.s3().put_bucket_versioning(Bucket=sandbox.bucket, VersioningConfiguration={"Status": "Enabled"})
    return sandbox


async def test_a_replaced_image_is_handed_over_as_it_was_checked(
    versioned: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """In a bucket with versions the provider gets the version that was hashed, whatever lies at the key by then."""
    uri = put_photo(versioned, seed=1)
    checked = hashlib.sha256(versioned.read("images/tom.jpg")).hexdigest()
    async with new_run() as run:
        order = await order_for(run, uri)
        put_photo(versioned, seed=2)
        held, status, _ = await poll(run, await submit(run, order))
        assert status
        held = await store(run, held, status)
    assert order.image.facts.sha256 == checked
    assert [task.image_sha256 for task in provider.tasks.values()] == [checked]
    assert held.record.video
    assert held.record.video.flags == ()


async def test_a_deleted_image_is_handed_over_as_it_was_checked(
    versioned: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A version outlives the deletion of its key, and its job with it."""
    uri = put_photo(versioned)
    async with new_run() as run:
        order = await order_for(run, uri)
        versioned.s3().delete_object(Bucket=versioned.bucket, Key="images/tom.jpg")
        held, status, _ = await poll(run, await submit(run, order))
        assert status
        held = await store(run, held, status)
    assert held.record.state is JobState.STORED


async def test_the_image_that_is_compared_at_the_end_is_the_one_handed_over(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A record made for one image and paid with an equal one's address is flagged where that other one is replaced."""
    first, second = put_photo(sandbox, "a.jpg"), put_photo(sandbox, "b.jpg")
    async with new_run() as run:
        order = await order_for(run, first)
        await ready(run.ledger, order.key, order.image, order.request)
        held = await submit(run, await order_for(run, second))
        put_photo(sandbox, "b.jpg", 77)
        held, status, _ = await poll(run, held)
        assert status
        held = await store(run, held, status)
    assert held.record.image.label == second
    assert held.record.video
    assert "replaced" in held.record.video.flags[0]
