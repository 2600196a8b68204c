"""Listings: the next page is requested while the caller works on one, and nothing is lost between pages."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from urllib.parse import parse_qs, urlsplit

import pytest

from i2v.errors import StorageError
from i2v.s3.listing import S3Entry
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from tests.support.aws_sessions import made_up_session
from tests.support.listing_server import etag_of, listing_server, modified_at, name_of
from tests.support.raw_server import RawServer, Responder, hang, running, send

PREFIX = S3Uri("b-1", "p/")
SOON = 60
REFUSED = send(403, b"<Error><Code>AccessDenied</Code></Error>")


def xml(number: int, more: str = "") -> bytes:
    """A page of one key, and the token for the next."""
    token = f"<NextContinuationToken>{more}</NextContinuationToken>" if more else ""
    return (
        f"<ListBucketResult><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{token}<Contents><Key>p/{number}</Key>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>1</ETag><Size>1</Size></Contents>"
        "</ListBucketResult>"
    ).encode()


ENTRY = xml(0)


def page(number: int, more: str = "") -> Responder:
    """Answer with a page of one key."""
    return send(200, xml(number, more), Content_Type="application/xml")


def storage_at(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A storage at this server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    return Storage(session=made_up_session())


async def wait_for_requests(server: RawServer, times: int) -> None:
    """Wait until the server has received this many requests."""
    async with asyncio.timeout(SOON):
        while len(server.requests) < times:
            server.request_received.clear()
            await server.request_received.wait()


async def keys(pages: AsyncGenerator[Sequence[S3Entry], None]) -> list[str]:
    """The keys of the next page."""
    return [entry.uri.key for entry in await anext(pages)]


async def test_the_next_page_is_requested_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """One page is one request; from the second on the next is requested ahead; each comes once, in order."""
    async with running(page(0, "1"), page(1, "2"), page(2, "3 &amp;+/="), page(3)) as server:
        with storage_at(server, monkeypatch) as storage:
            pages = storage.pages(PREFIX)
            assert await keys(pages) == ["p/0"]
            await asyncio.sleep(0.1)
            assert len(server.requests) == 1
            assert await keys(pages) == ["p/1"]
            await wait_for_requests(server, 3)
            assert [await keys(pages), await keys(pages)] == [["p/2"], ["p/3"]]
            with pytest.raises(StopAsyncIteration):
                await keys(pages)
    queries = [parse_qs(urlsplit(request.target).query) for request in server.requests]
    assert [query.get("continuation-token") for query in queries] == [None, ["1"], ["2"], ["3 &+/="]]


@pytest.mark.parametrize("ends", [hang, REFUSED], ids=["slow", "refused"])
async def test_a_page_that_nobody_reads_is_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ends: Responder
) -> None:
    """A page requested ahead and then not read is not waited for, and its failure is not logged."""
    async with running(page(0, "1"), page(1, "2"), ends) as server:
        with storage_at(server, monkeypatch) as storage:
            async with asyncio.timeout(SOON), aclosing(storage.pages(PREFIX)) as pages:
                assert [await keys(pages), await keys(pages)] == [["p/0"], ["p/1"]]
                await wait_for_requests(server, 3)
                await asyncio.sleep(0.1)
            gc.collect()
    assert caplog.text == ""


async def test_the_error_of_a_page_requested_ahead_is_raised_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages before it are returned first."""
    async with running(page(0, "1"), page(1, "2"), REFUSED) as server:
        with storage_at(server, monkeypatch) as storage:
            pages = storage.pages(PREFIX)
            assert [await keys(pages), await keys(pages)] == [["p/0"], ["p/1"]]
            with pytest.raises(StorageError, match="S3 denied ListObjectsV2 of s3://b-1/p/"):
                await keys(pages)


async def test_a_page_is_retried_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a server error in the middle, the listing continues with the same page."""
    async with running(page(0, "1"), send(500), page(1, "2"), page(2)) as server:
        with storage_at(server, monkeypatch) as storage:
            assert [entry.uri.key async for entry in storage.list(PREFIX)] == ["p/0", "p/1", "p/2"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"<html><body>Sign in</body></html>",
        ENTRY[:-30],
        ENTRY.replace(b"<IsTruncated>false</IsTruncated>", b""),
        ENTRY.replace(b"<IsTruncated>false<", b"<IsTruncated>true<"),
        ENTRY.replace(b"<Key>p/0</Key>", b""),
        ENTRY.replace(b"2026-01-01T", b"yesterday"),
        ENTRY.replace(b"<Size>1<", b"<Size><"),
    ],
)
async def test_a_response_that_is_not_a_page_is_an_error(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """A 200 with a captive portal's page or half a listing is an error, not the end of the listing."""
    async with running(send(200, body, Content_Type="application/xml")) as server:
        with storage_at(server, monkeypatch) as storage, pytest.raises(StorageError, match="s3://b-1/p/"):
            await keys(storage.pages(PREFIX))


async def test_all_keys_arrive_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys with spaces, plus signs, line breaks and accents come back unchanged, over several pages."""
    for name, value in {"ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with listing_server(1500, 10) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with Storage() as storage:
            entries = [entry async for entry in storage.list(S3Uri("big", "images/"))]
            assert len([entry async for entry in storage.list(S3Uri("big", "videos/"))]) == 4050
    expected = [
        (S3Uri("big", f"images/{name_of(number)}"), etag_of(number), modified_at(number)) for number in range(1500)
    ]
    assert [(entry.uri, entry.etag, entry.last_modified) for entry in entries] == expected
