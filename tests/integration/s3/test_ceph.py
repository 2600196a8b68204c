"""Runs on a server that really is another one: Ceph's gateway, which wants If-Match without quotes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import pytest

from i2v.doctor.checks import examine
from i2v.doctor.findings import Level
from i2v.errors import Conflict
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.run import open_run
from i2v.s3.etags import EtagForm
from i2v.s3.preconditions import prove_conditional_writes
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.ceph_server import CephServer


@pytest.fixture
def ceph(ceph_server: CephServer, sandbox: Sandbox, aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """Use Ceph as S3, for i2v and for the provider."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", ceph_server.url)
    sandbox.provider.set_options(s3_address=ceph_server.address, render="shared")
    with Storage() as storage:
        storage.client.create_bucket(Bucket=sandbox.bucket)
        yield storage


@pytest.fixture
def ceph_settings(ceph: Storage, ceph_server: CephServer, settings: Settings) -> Settings:
    """Let images be fetched from Ceph."""
    return settings.model_copy(update={"private_hosts": settings.private_hosts | {ceph_server.address}})


async def test_the_form_of_etags_is_found(ceph: Storage, sandbox: Sandbox) -> None:
    """The proof finds that Ceph accepts ETags without quotes, and keeps that form."""
    uri = S3Uri(sandbox.bucket, "jobs/x")
    await ceph.put(uri, b"1", create=True)
    await prove_conditional_writes(ceph, uri)
    assert ceph.etag_form is EtagForm.BARE


@pytest.mark.parametrize("create", [True, False])
async def test_of_sixteen_writers_one_wins(ceph: Storage, sandbox: Sandbox, create: bool) -> None:
    """Of sixteen conditional writes at once, one succeeds and the others conflict."""
    uri = S3Uri(sandbox.bucket, "jobs/x")
    etag = None if create else await ceph.put(uri, b"first")
    writes = (ceph.put(uri, b"%d" % number, create=create, if_match=etag) for number in range(16))
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(result) for result in results if not isinstance(result, str)] == [Conflict] * 15


async def test_a_run_stores_its_videos_once(ceph: Storage, ceph_settings: Settings, sandbox: Sandbox) -> None:
    """Two runs over odd keys: the first stores all videos, the second finds them. The doctor finds no fault."""
    for number, name in enumerate(("tom.jpg", "a b+c%20.jpg", "Zoë/../x.jpg")):
        uri = S3Uri(sandbox.bucket, f"images/{name}")
        await ceph.put(uri, make_jpeg(400, 320, seed=number), content_type="text/plain" if number else "image/jpeg")
    for _ in range(2):
        async with asyncio.timeout(60), open_run(ceph_settings, str(uuid4())) as run:
            items = await find_items(f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
            report, _ = await generate(run, items, RequestOptions(prompt="it moves"), Steps())
    assert report.summary.startswith("3 cached")
    assert len(sandbox.provider.tasks) == 3
    assert [one for one in await examine(ceph_settings, ceph) if one.level is Level.FAULT] == []
