"""The provider gets the version of the image that was hashed, or the manifest has a flag."""

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
    """Return the sandbox with a versioned bucket."""
    sandbox.s3().put_bucket_versioning(Bucket=sandbox.bucket, VersioningConfiguration={"Status": "Enabled"})
    return sandbox


async def test_a_replaced_image_is_submitted_in_the_validated_version(
    versioned: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """In a versioned bucket the provider gets the version that was hashed, even if the image was replaced."""
    uri = put_photo(versioned, seed=1)
    validated = hashlib.sha256(versioned.read("images/tom.jpg")).hexdigest()
    async with new_run() as run:
        order = await order_for(run, uri)
        put_photo(versioned, seed=2)
        job, status, _ = await poll(run, await submit(run, order))
        assert status
        job = await store(run, job, status)
    assert order.image.facts.sha256 == validated
    assert [task.image_sha256 for task in provider.tasks.values()] == [validated]
    assert job.record.video
    assert job.record.video.flags == ()


async def test_a_deleted_image_is_submitted_in_the_validated_version(
    versioned: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """In a versioned bucket the provider can still read the validated version after its key was deleted."""
    uri = put_photo(versioned)
    async with new_run() as run:
        order = await order_for(run, uri)
        versioned.s3().delete_object(Bucket=versioned.bucket, Key="images/tom.jpg")
        job, status, _ = await poll(run, await submit(run, order))
        assert status
        job = await store(run, job, status)
    assert job.record.state is JobState.STORED


async def test_the_submitted_image_is_checked_for_replacement(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """If a job is paid with the URL of an equal image, the flag depends on whether that image was replaced."""
    first, second = put_photo(sandbox, "a.jpg"), put_photo(sandbox, "b.jpg")
    async with new_run() as run:
        order = await order_for(run, first)
        await ready(run.ledger, order.key, order.image, order.request)
        job = await submit(run, await order_for(run, second))
        put_photo(sandbox, "b.jpg", 77)
        job, status, _ = await poll(run, job)
        assert status
        job = await store(run, job, status)
    assert job.record.image.label == second
    assert job.record.video
    assert "replaced" in job.record.video.flags[0]
