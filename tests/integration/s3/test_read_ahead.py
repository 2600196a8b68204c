"""Long listings are read ahead: the next page is asked for while one is worked on, and nothing of it is left over."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import boto3
import pytest

from i2v.errors import StorageError
from i2v.s3.client import s3_client
from i2v.s3.listing import S3Entry
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from tests.support.listing_server import listing_server
from tests.support.raw_server import Play, RawServer, hang, running, send

PREFIX = S3Uri("b-1", "p/")
SOON = 10
REFUSED = send(403, b"<Error><Code>AccessDenied</Code></Error>")


def page(number: int, more: str = "") -> Play:
    """A page of one key, and the token for the next."""
    token = f"<NextContinuationToken>{more}</NextContinuationToken>" if more else ""
    text = (
        f"<ListBucketResult><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{token}<Contents><Key>p/{number}</Key>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>1</ETag><Size>1</Size></Contents>"
        "</ListBucketResult>"
    )
    return send(200, text.encode(), Content_Type="application/xml")


def storage_at(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A storage whose S3 is this server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    return Storage(session=boto3.Session("k", "s", region_name="us-east-1"))


async def asked(server: RawServer, times: int) -> None:
    """Wait until the server was asked so often."""
    async with asyncio.timeout(SOON):
        while len(server.requests) < times:
            server.asked.clear()
            await server.asked.wait()


async def keys(pages: AsyncGenerator[Sequence[S3Entry], None]) -> list[str]:
    """The next page."""
    return [entry.uri.key for entry in await anext(pages)]


async def test_the_next_page_is_asked_for_while_one_is_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wants one page asks once; from the second on the server is at work too; each comes once, in order."""
    async with running(page(0, "1"), page(1, "2"), page(2, "3 &amp;+/="), page(3)) as server:
        with storage_at(server, monkeypatch) as storage:
            pages = storage.pages(PREFIX)
            assert await keys(pages) == ["p/0"]
            await asyncio.sleep(0.1)
            assert len(server.requests) == 1
            assert await keys(pages) == ["p/1"]
            await asked(server, 3)
            assert [await keys(pages), await keys(pages)] == [["p/2"], ["p/3"]]
            with pytest.raises(StopAsyncIteration):
                await keys(pages)
    tokens = [exchange.target.partition("continuation-token=")[2] for exchange in server.requests]
    assert tokens == ["", "1", "2", "3%20%26%2B%2F%3D"]


@pytest.mark.parametrize("ends", [hang, REFUSED], ids=["slow", "refused"])
async def test_who_reads_no_further_hears_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ends: Play
) -> None:
    """A page that was asked for ahead, and that nobody wants, is neither waited for nor complained about."""
    async with running(page(0, "1"), page(1, "2"), ends) as server:
        with storage_at(server, monkeypatch) as storage:
            async with asyncio.timeout(SOON), aclosing(storage.pages(PREFIX)) as pages:
                assert [await keys(pages), await keys(pages)] == [["p/0"], ["p/1"]]
                await asked(server, 3)
                await asyncio.sleep(0.1)
            gc.collect()
    assert caplog.text == ""


async def test_a_page_that_was_refused_ahead_is_told_where_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read before stays; the error comes with the page that it is of."""
    async with running(page(0, "1"), page(1, "2"), REFUSED) as server:
        with storage_at(server, monkeypatch) as storage:
            pages = storage.pages(PREFIX)
            assert [await keys(pages), await keys(pages)] == [["p/0"], ["p/1"]]
            with pytest.raises(StorageError, match="refuses ListObjectsV2 of s3://b-1/p/"):
                await keys(pages)


async def test_a_page_that_boto3_must_ask_for_is_one_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where S3 is not well in the middle, boto3 goes on at the same place."""
    async with running(page(0, "1"), send(500), page(1, "2"), page(2)) as server:
        with storage_at(server, monkeypatch) as storage:
            assert [entry.uri.key async for entry in storage.list(PREFIX)] == ["p/0", "p/1", "p/2"]


async def test_it_reads_what_boto3_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that tempt, on several pages: the same entries as by boto3 alone."""
    for name, value in {"ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with listing_server(1500, 10) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with Storage() as own, Storage(s3_client()) as by_boto3:
            for prefix, count in ((S3Uri("big", "images/"), 1500), (S3Uri("big", "videos/"), 4050)):
                read, expected = [[entry async for entry in each.list(prefix)] for each in (own, by_boto3)]
                assert len(expected) == count
                assert expected == read
