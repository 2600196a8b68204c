"""S3, awaited: `Storage`, by boto3 and past it. It knows objects and conditions, not what they mean.

boto3 runs in threads over one shared client. Every failure leaves as an `i2v.errors.StorageError` that names the
address and says what to do. Uploads of files are in `i2v.s3.uploads`.
"""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import boto3
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError

from i2v.errors import StorageError
from i2v.s3.answers import S3Object, boto3_object, plain_object, translate
from i2v.s3.client import THREADS, new_session, s3_client
from i2v.s3.direct import Direct, SentFile
from i2v.s3.listing import Page, S3Entry, by_boto3, read_page
from i2v.s3_uri import S3Uri

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Written:
    """What a put made."""

    etag: str
    version_id: str | None


@dataclass(frozen=True, slots=True)
class _Put:
    """What is to be written, and on which condition: `If-Match` or `If-None-Match`."""

    uri: S3Uri
    body: bytes | SentFile
    content_type: str
    metadata: Mapping[str, str]
    conditions: Mapping[str, str]
    sha256: bytes


class Storage:
    """Objects in S3. Close it, or use it in `with`, to end its threads."""

    def __init__(self, client: Any | None = None, session: boto3.Session | None = None) -> None:
        self._session = session or new_session()
        self.client = s3_client(self._session) if client is None else client
        self.direct = Direct(self.client, self._session) if client is None else None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="s3")

    def close(self) -> None:
        """End the threads and the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def call(self, uri: S3Uri, function: Callable[..., T], /, **arguments: Any) -> T:
        """Run one blocking call in a thread and translate what it raises; `uri` is what the error names."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, lambda: function(**arguments))
        except (ClientError, BotoCoreError) as error:
            raise translate(error, uri, str(self.client.meta.endpoint_url)) from error
        except Exception as error:  # boto3 lets its parser's and the socket's own through; none may drop a task id
            raise StorageError(
                f"S3 failed at {uri}: {type(error).__name__}: {error}", "Check the AWS_* settings and the network"
            ) from error

    async def get(self, uri: S3Uri, *, limit: int | None = None, version_id: str | None = None) -> S3Object:
        """Read an object whole; of one larger than `limit` bytes only the first `limit + 1`.

        Raises:
            NotFound: there is none.
            StorageError: S3 did not answer well.
        """
        return await self.call(uri, self._read, uri=uri, limit=limit, version_id=version_id)

    def _read(self, uri: S3Uri, limit: int | None, version_id: str | None) -> S3Object:
        if self.direct and not version_id and (answer := self.direct.ask("GET", uri, {}, limit=limit)):
            return plain_object(uri, answer)
        version = {"VersionId": version_id} if version_id else {}
        answer = self.client.get_object(Bucket=uri.bucket, Key=uri.key, **version)
        with answer["Body"] as stream:
            body = stream.read() if limit is None else stream.read(limit + 1)
        return boto3_object(uri, answer, body)

    async def head(self, uri: S3Uri) -> S3Object:
        """Ask what an object is without reading it.

        Raises:
            NotFound: there is none.
            StorageError: S3 did not answer well.
        """
        return await self.call(uri, self._head, uri=uri)

    def _head(self, uri: S3Uri) -> S3Object:
        if self.direct and (answer := self.direct.ask("HEAD", uri, {})):
            return plain_object(uri, answer)
        return boto3_object(uri, self.client.head_object(Bucket=uri.bucket, Key=uri.key), b"")

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
        """Write an object with its checksum: unconditionally, only where none is (`create`), or over `if_match`.

        Raises:
            Conflict: the condition did not hold (412), or another write was under way (409).
            StorageError: S3 did not answer well.
        """
        conditions = {"If-None-Match": "*"} if create else {"If-Match": if_match} if if_match else {}

        def send() -> Written:
            return self._send(_Put(uri, body, content_type, metadata or {}, conditions, hashlib.sha256(body).digest()))

        return await self.call(uri, send)

    async def put_file(
        self,
        uri: S3Uri,
        path: Path,
        *,
        sha256: bytes,
        content_type: str,
        metadata: Mapping[str, str],
        if_match: str | None = None,
    ) -> Written:
        """Write a file, which is sent as it is read, only where none is, or over `if_match`.

        S3 refuses it where what comes has another `sha256`.

        Raises:
            Conflict: the condition did not hold (412), or another write was under way (409).
            StorageError: S3 did not answer well, or the file cannot be read.
        """
        conditions = {"If-Match": if_match} if if_match else {"If-None-Match": "*"}

        def send() -> Written:
            with SentFile(path) as file:
                return self._send(_Put(uri, file, content_type, metadata, conditions, sha256))

        return await self.call(uri, send)

    async def put_part(self, uri: S3Uri, upload: str, number: int, read: Callable[[], bytes]) -> dict[str, Any]:
        """Send a part of a multipart upload, which is read and hashed in the thread that sends it.

        Returns:
            The part as `complete_multipart_upload` takes it.

        Raises:
            StorageError: S3 did not answer well, or the part cannot be read.
        """

        def send() -> dict[str, Any]:
            body = read()
            digest = hashlib.sha256(body)
            checksum = b64encode(digest.digest()).decode()
            query, headers = {"partNumber": str(number), "uploadId": upload}, {"x-amz-checksum-sha256": checksum}
            if self.direct and (
                done := self.direct.ask("PUT", uri, headers, body=body, sha256=digest.hexdigest(), query=query)
            ):
                return {"PartNumber": number, "ETag": done.headers["etag"], "ChecksumSHA256": checksum}
            place = {"Bucket": uri.bucket, "Key": uri.key, "UploadId": upload, "PartNumber": number}
            made = self.client.upload_part(**place, Body=body, ChecksumSHA256=checksum)
            return {"PartNumber": number, "ETag": made["ETag"], "ChecksumSHA256": checksum}

        return await self.call(uri, send)

    def _send(self, put: _Put) -> Written:
        checksum = b64encode(put.sha256).decode()
        headers = {"Content-Type": put.content_type, "x-amz-checksum-sha256": checksum, **put.conditions}
        headers |= {f"x-amz-meta-{name}": value for name, value in put.metadata.items()}
        if self.direct and (done := self.direct.ask("PUT", put.uri, headers, body=put.body, sha256=put.sha256.hex())):
            return Written(done.headers["etag"].strip('"'), done.headers.get("x-amz-version-id"))
        if isinstance(put.body, SentFile):
            put.body.seek(0)
        answer = self.client.put_object(
            Bucket=put.uri.bucket,
            Key=put.uri.key,
            Body=put.body,
            ContentType=put.content_type,
            Metadata=dict(put.metadata),
            ChecksumSHA256=checksum,
            **{name.replace("-", ""): value for name, value in put.conditions.items()},
        )
        return Written(answer["ETag"].strip('"'), answer.get("VersionId"))

    async def copy(self, source: S3Uri, target: S3Uri, *, if_match: str | None = None) -> None:
        """Copy within S3, with metadata and type; `if_match` is the source's etag.

        Raises:
            Conflict: the source has changed.
            NotFound: there is no source.
            StorageError: S3 did not answer well.
        """
        condition = {"CopySourceIfMatch": if_match} if if_match else {}
        await self.call(
            source,
            self.client.copy_object,
            Bucket=target.bucket,
            Key=target.key,
            CopySource={"Bucket": source.bucket, "Key": source.key},
            **condition,
        )

    async def delete(self, uri: S3Uri) -> None:
        """Remove an object; that there is none is well.

        Raises:
            StorageError: S3 did not answer well.
        """
        await self.call(uri, self._delete, uri=uri)

    def _delete(self, uri: S3Uri) -> None:
        if not self.direct or self.direct.ask("DELETE", uri, {}) is None:
            self.client.delete_object(Bucket=uri.bucket, Key=uri.key)

    async def delete_many(self, uris: Sequence[S3Uri]) -> None:
        """Remove at most 1,000 objects of one bucket in one request; that one is not there is well.

        Raises:
            StorageError: S3 did not answer well, or left one of them.
        """
        bucket, keys = uris[0].bucket, [{"Key": uri.key} for uri in uris]
        what = {"Objects": keys, "Quiet": True}
        answer = await self.call(uris[0], self.client.delete_objects, Bucket=bucket, Delete=what)
        if left := answer.get("Errors"):
            raise StorageError(
                f"S3 left {len(left)} of {len(uris)} objects such as {uris[0]} ({left[0].get('Code')})",
                "Check the credentials' right to delete: i2v doctor",
            )

    async def list(self, prefix: S3Uri, *, start_after: str = "", deep: bool = True) -> AsyncIterator[S3Entry]:
        """All objects under a prefix in S3's order; `deep=False` stops at the next `/`.

        Raises:
            StorageError: S3 did not answer well.
        """
        async with aclosing(self.pages(prefix, start_after=start_after, deep=deep)) as pages:
            async for page in pages:
                for entry in page:
                    yield entry

    async def pages(
        self, prefix: S3Uri, *, start_after: str = "", deep: bool = True
    ) -> AsyncGenerator[Sequence[S3Entry], None]:
        """The same, a page of 1,000 at a time. From the second on the next is asked for while one is worked on.

        Raises:
            StorageError: S3 did not answer well.
        """
        query = {"prefix": prefix.key} | ({"start-after": start_after} if start_after else {})
        query |= {} if deep else {"delimiter": "/"}
        page = await self._page(prefix, query)
        yield page.entries
        coming: asyncio.Task[Page] | None = None
        try:
            while page.more:
                page = await (coming or self._page(prefix, query, page.more))
                coming = asyncio.create_task(self._page(prefix, query, page.more)) if page.more else None
                yield page.entries
        finally:
            if coming:
                coming.cancel()

    async def _page(self, prefix: S3Uri, query: Mapping[str, str], after: str = "") -> Page:
        query = {**query, **({"continuation-token": after} if after else {})}
        return await self.call(prefix, self._list, bucket=prefix.bucket, query=query)

    def _list(self, bucket: str, query: Mapping[str, str]) -> Page:
        asked = {"list-type": "2", "encoding-type": "url", **query}
        answer = self.direct.ask("GET", S3Uri(bucket, ""), {}, query=asked) if self.direct else None
        if answer and (page := read_page(bucket, answer.body)):
            return page
        arguments = {name.title().replace("-", ""): value for name, value in query.items()}
        return by_boto3(bucket, self.client.list_objects_v2(Bucket=bucket, **arguments))

    async def presign(self, uri: S3Uri, *, seconds: int, version_id: str | None = None) -> str:
        """A URL by which anybody can GET the object (that very version, if given) for so many seconds.

        Raises:
            StorageError: there are no credentials to sign with.
        """
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
        """Whether the credentials are known to end so soon, and with them every URL they signed."""
        credentials = self._session.get_credentials()
        return isinstance(credentials, RefreshableCredentials) and credentials.refresh_needed(seconds)
