"""S3 for asynchronous callers: `Storage`. It knows objects and conditions, not what they mean.

boto3 runs in threads over one shared client. Every failure is raised as an `i2v.errors.StorageError`.
"""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

import boto3
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError, IncompleteReadError
from urllib3.exceptions import HTTPError

from i2v.errors import StorageError
from i2v.s3.client import THREADS, new_session, s3_client
from i2v.s3.failures import to_storage_error
from i2v.s3.listing import Page, S3Entry, page_from_response
from i2v.s3.objects import S3Object, object_from_response
from i2v.s3_uri import S3Uri

BODY_ATTEMPTS = 2
"""How often a body is read that breaks off: boto3 retries a request only until its response begins."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Written:
    """The version that a put created."""

    etag: str
    version_id: str | None


class Storage:
    """Objects in S3. Close it, or use it in `with`, to end its threads."""

    def __init__(self, client: Any | None = None, session: boto3.Session | None = None) -> None:
        self._session = session or new_session()
        self.client = s3_client(self._session) if client is None else client
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="s3")

    def close(self) -> None:
        """End the threads and close the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def call(self, uri: S3Uri, function: Callable[..., T], /, **arguments: Any) -> T:
        """Run a blocking call in a thread; an error that it raises becomes a StorageError that names `uri`."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, lambda: function(**arguments))
        except Exception as error:  # boto3 also passes on errors of its parser and of the socket
            raise to_storage_error(error, uri, str(self.client.meta.endpoint_url)) from error

    async def get(self, uri: S3Uri, *, limit: int | None = None, version_id: str | None = None) -> S3Object:
        """Read an object; of one larger than `limit` bytes, read the first `limit + 1`.

        Raises:
            NotFound: the object does not exist.
        """
        return await self.call(uri, self._get, uri=uri, limit=limit, version_id=version_id)

    def _get(self, uri: S3Uri, limit: int | None, version_id: str | None) -> S3Object:
        version = {"VersionId": version_id} if version_id else {}
        for attempt in range(BODY_ATTEMPTS):
            response = self.client.get_object(Bucket=uri.bucket, Key=uri.key, **version)
            try:
                return object_from_response(uri, response, _read_body(response, limit))
            except (BotoCoreError, HTTPError):
                if attempt == BODY_ATTEMPTS - 1:
                    raise
        raise AssertionError

    async def head(self, uri: S3Uri) -> S3Object:
        """Return an object without its body.

        Raises:
            NotFound: the object does not exist.
        """
        return await self.call(uri, self._head, uri=uri)

    def _head(self, uri: S3Uri) -> S3Object:
        return object_from_response(uri, self.client.head_object(Bucket=uri.bucket, Key=uri.key))

    async def put(
        self,
        uri: S3Uri,
        body: bytes,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
        create: bool = False,
        if_match: str | None = None,
    ) -> Written:
        """Write an object, whose checksum S3 verifies: always, only if none exists (`create`), or over an etag.

        Raises:
            Conflict: the condition did not hold (412), or another write was under way (409).
        """
        condition = {"IfNoneMatch": "*"} if create else {"IfMatch": if_match} if if_match else {}

        def send() -> Written:
            return self._put(uri, body, hashlib.sha256(body).digest(), content_type, metadata or {}, condition)

        return await self.call(uri, send)

    async def put_file(
        self,
        uri: S3Uri,
        path: Path,
        *,
        sha256: str,
        content_type: str,
        metadata: Mapping[str, str],
        if_match: str | None = None,
    ) -> Written:
        """Stream a file of up to 5 GB into one object, only if none exists or over the etag `if_match`.

        S3 refuses the object unless its bytes have this `sha256` (in hex).

        Raises:
            Conflict: the condition did not hold (412), or another write was under way (409).
            StorageError: the request failed, or the file cannot be read; no object is visible.
        """
        condition = {"IfMatch": if_match} if if_match else {"IfNoneMatch": "*"}

        def send() -> Written:
            with path.open("rb") as file:
                return self._put(uri, file, bytes.fromhex(sha256), content_type, metadata, condition)

        return await self.call(uri, send)

    def _put(
        self,
        uri: S3Uri,
        body: bytes | BinaryIO,
        sha256: bytes,
        content_type: str,
        metadata: Mapping[str, str],
        condition: Mapping[str, str],
    ) -> Written:
        response = self.client.put_object(
            Bucket=uri.bucket,
            Key=uri.key,
            Body=body,
            ChecksumSHA256=b64encode(sha256).decode(),
            ContentType=content_type,
            Metadata=dict(metadata),
            **condition,
        )
        return Written(response["ETag"].strip('"'), response.get("VersionId"))

    async def copy(self, source: S3Uri, target: S3Uri) -> None:
        """Copy an object within S3, with its metadata and content type.

        Raises:
            NotFound: the source does not exist.
        """
        await self.call(
            source,
            self.client.copy_object,
            Bucket=target.bucket,
            Key=target.key,
            CopySource={"Bucket": source.bucket, "Key": source.key},
        )

    async def delete(self, uri: S3Uri) -> None:
        """Delete an object; it need not exist."""
        await self.call(uri, self.client.delete_object, Bucket=uri.bucket, Key=uri.key)

    async def server_time(self, prefix: S3Uri) -> datetime:
        """Return the time by S3's own clock, which `last_modified` in listings goes by."""
        answer = await self.call(
            prefix, self.client.list_objects_v2, Bucket=prefix.bucket, Prefix=prefix.key, MaxKeys=1
        )
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return parsedate_to_datetime(date) if date else datetime.now(UTC)

    async def delete_many(self, uris: Sequence[S3Uri]) -> None:
        """Delete up to 1,000 objects of one bucket in one request; they need not exist.

        Raises:
            StorageError: the request failed, or S3 did not delete all of them.
        """
        objects = {"Objects": [{"Key": uri.key} for uri in uris], "Quiet": True}
        response = await self.call(uris[0], self.client.delete_objects, Bucket=uris[0].bucket, Delete=objects)
        if errors := response.get("Errors"):
            raise StorageError(
                f"S3 did not delete {len(errors)} of {len(uris)} objects such as {uris[0]} ({errors[0].get('Code')})",
                "Check the permission to delete: i2v doctor",
            )

    async def list(self, prefix: S3Uri, *, start_after: str = "", deep: bool = True) -> AsyncIterator[S3Entry]:
        """Yield the objects under a prefix in the order of their keys; `deep=False` stops at the next `/`."""
        async with aclosing(self.pages(prefix, start_after=start_after, deep=deep)) as pages:
            async for page in pages:
                for entry in page:
                    yield entry

    async def pages(
        self, prefix: S3Uri, *, start_after: str = "", deep: bool = True
    ) -> AsyncGenerator[Sequence[S3Entry], None]:
        """Yield the same in pages of 1,000. After the second page, each next one is requested ahead."""
        query = {"Prefix": prefix.key, "StartAfter": start_after} if start_after else {"Prefix": prefix.key}
        query |= {} if deep else {"Delimiter": "/"}
        page = await self._page(prefix, query)
        yield page.entries
        ahead: asyncio.Task[Page] | None = None
        try:
            while page.next_token:
                page = await (ahead or self._page(prefix, query, page.next_token))
                ahead = asyncio.create_task(self._page(prefix, query, page.next_token)) if page.next_token else None
                yield page.entries
        finally:
            if ahead:
                ahead.cancel()

    async def _page(self, prefix: S3Uri, query: Mapping[str, str], token: str = "") -> Page:
        continuation = {"ContinuationToken": token} if token else {}

        def request() -> Page:
            response = self.client.list_objects_v2(Bucket=prefix.bucket, **query, **continuation)
            return page_from_response(prefix.bucket, response)

        return await self.call(prefix, request)

    async def presign(self, uri: S3Uri, *, seconds: int, version_id: str | None = None) -> str:
        """Return a URL that lets anyone GET the object, or one version of it, for so many seconds."""
        version = {"VersionId": version_id} if version_id else {}
        url: str = await self.call(
            uri,
            self.client.generate_presigned_url,
            ClientMethod="get_object",
            Params={"Bucket": uri.bucket, "Key": uri.key, **version},
            ExpiresIn=seconds,
        )
        return url

    def credentials_end_within(self, seconds: int) -> bool:
        """Return whether the credentials, and with them every URL they signed, expire within so many seconds."""
        credentials = self._session.get_credentials()
        return isinstance(credentials, RefreshableCredentials) and credentials.refresh_needed(seconds)


def _read_body(response: Mapping[str, Any], limit: int | None) -> bytes:
    """Read the body to its end, or `limit + 1` bytes of it; closing an unread rest closes the connection too."""
    size: int = response["ContentLength"]
    expected = size if limit is None else min(size, limit + 1)
    with response["Body"] as stream:
        body: bytes = stream.read(None if expected == size else expected)
    if len(body) != expected:
        raise IncompleteReadError(actual_bytes=len(body), expected_bytes=expected)
    return body
