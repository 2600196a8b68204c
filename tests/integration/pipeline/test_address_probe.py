"""The first presigned URL of a run is fetched as the provider would, before the first submit."""

from __future__ import annotations

import asyncio
import logging

import pytest

from i2v.errors import FetchError, NotTried
from i2v.net.fetcher import FirstByte
from i2v.pipeline.generate import Steps, process_order
from i2v.pipeline.submit import submit
from i2v.reports.run_report import Outcome
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.fault_proxy import FaultProxy, FaultRule
from tests.support.memory_provider import MemoryProvider, put_order
from tests.support.memory_storage import MemoryBucket, MemoryFetcher, MemoryStorage, memory_run
from tests.support.orders import OpenRun, order_for, put_photo

SIZE = 100
WRONG = {
    "region": (FirstByte(400, None, "application/xml", None, "AuthorizationHeaderMalformed"), "400", "AWS_REGION"),
    "encryption": (FirstByte(400, None, "application/xml", None, "InvalidArgument"), "400", "encrypted"),
    "rights or clock": (FirstByte(403, None, "application/xml", None, "AccessDenied"), "403 AccessDenied", "clock"),
    "endpoint": (FirstByte(404, None, "text/html", None, ""), "404", "endpoint"),
    "redirect": (FirstByte(307, "https://elsewhere", None, None, ""), "redirects (307)", "AWS_REGION"),
    "unusual": (FirstByte(418, None, None, None, ""), "418", "i2v doctor"),
    "another length": (FirstByte(206, None, "image/jpeg", SIZE + 1, ""), "101 bytes", "before S3"),
    "a page": (FirstByte(200, None, "text/html; charset=utf-8", None, ""), "content type text/html", "before S3"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_url_that_does_not_work_stops_the_run_unpaid(case: str) -> None:
    """A wrong status, redirect, length or type ends the image with the reason and a hint, and stops all submits."""
    answer, what, hint = WRONG[case]
    bucket, provider, fetcher = MemoryBucket(), MemoryProvider(), MemoryFetcher()
    fetcher.answer = answer
    run = memory_run(MemoryStorage(bucket), client=provider, fetcher=fetcher)
    with pytest.raises(NotTried) as first:
        await submit(run, put_order(bucket, 1))
    assert what in first.value.message
    assert hint in first.value.hint
    with pytest.raises(NotTried, match="presigned URL"):
        await submit(run, put_order(bucket, 2))
    assert (provider.submits, len(fetcher.urls), run.budget.spent_usd) == ([], 1, run.budget.spent_usd * 0)
    assert not [uri for uri in bucket.objects if uri.key.startswith("jobs/") and len(uri.key) == 74], (
        "no job is claimed"
    )


@pytest.mark.parametrize(
    "answer",
    [
        FirstByte(206, None, "image/jpeg", SIZE, ""),
        FirstByte(200, None, "binary/octet-stream", None, ""),
        FirstByte(206, None, None, None, ""),
    ],
    ids=["range", "whole", "no type"],
)
async def test_a_url_that_works_is_tried_once_a_run(answer: FirstByte) -> None:
    """If the first URL works, whatever type the object has, no other is tried; not even by submits at the same time."""
    bucket, provider, fetcher = MemoryBucket(), MemoryProvider(), MemoryFetcher()
    fetcher.answer = answer
    run = memory_run(MemoryStorage(bucket), client=provider, fetcher=fetcher)
    await asyncio.gather(*(submit(run, put_order(bucket, number)) for number in range(5)))
    assert (len(provider.submits), len(fetcher.urls)) == (5, 1)


async def test_a_connection_that_fails_from_here_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    """If this host cannot connect, the provider may still be able to: the image is submitted, and the log says so."""
    caplog.set_level(logging.INFO)
    bucket, provider, fetcher = MemoryBucket(), MemoryProvider(), MemoryFetcher()
    fetcher.answer = FetchError("b-1.example could not be connected to")
    run = memory_run(MemoryStorage(bucket), client=provider, fetcher=fetcher)
    await submit(run, put_order(bucket))
    assert len(provider.submits) == 1
    assert "could not be tried from here" in caplog.text


@pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (503, "SlowDown")])
async def test_a_server_error_says_nothing_about_the_url(status: int, code: str) -> None:
    """If S3 fails for now, the image is submitted, and the next image's URL is tried."""
    bucket, provider, fetcher = MemoryBucket(), MemoryProvider(), MemoryFetcher()
    run = memory_run(MemoryStorage(bucket), client=provider, fetcher=fetcher)
    fetcher.answer = FirstByte(status, None, "application/xml", None, code)
    await submit(run, put_order(bucket, 1))
    fetcher.answer = FirstByte(403, None, "application/xml", None, "AccessDenied")
    with pytest.raises(NotTried, match="403"):
        await submit(run, put_order(bucket, 2))
    assert (len(provider.submits), len(fetcher.urls)) == (1, 2)


@pytest.mark.parametrize(("status", "code"), [(403, "SignatureDoesNotMatch"), (400, "AuthorizationHeaderMalformed")])
async def test_a_url_that_s3_refuses_costs_nothing(
    sandbox: Sandbox, provider: Provider, s3_proxy: FaultProxy, new_run: OpenRun, status: int, code: str
) -> None:
    """If S3 refuses the presigned URL of a real image, nothing is paid; once it works, the image is stored."""
    uri = put_photo(sandbox)
    reachable = frozenset({s3_proxy.address, provider.address})
    rule = s3_proxy.add(FaultRule("fail", "GET", "X-Amz-Signature", status=status, code=code))
    async with new_run(private_hosts=reachable) as run:
        with pytest.raises(NotTried, match=f"{status} {code}"):
            await process_order(run, await order_for(run, uri), Steps())
    assert (rule.hits, provider.tasks) == (1, {})
    async with new_run(private_hosts=reachable) as run:
        line = await process_order(run, await order_for(run, uri), Steps())
    assert line.outcome is Outcome.STORED
