"""S3 for asynchronous callers: `Storage`. It knows objects and conditions, not what they mean.

boto3 runs in threads over one shared client. Every failure is raised as an `i2v.errors.StorageError`.
"""

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

import boto3
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError
from urllib3.exceptions import HTTPError

from i2v.advised_commands import command
from i2v.errors import StorageError
from i2v.s3.client import THREADS, new_session, s3_client
from i2v.s3.conditional_put import condition, put_if
from i2v.s3.downloads import get_to_file
from i2v.s3.etags import EtagForm, opaque_etag
from i2v.s3.extra_args import add_extra_args
from i2v.s3.failures import to_storage_error
from i2v.s3.links import LinkSigner
from i2v.s3.listing import Page, S3Entry, page_from_response
from i2v.s3.objects import NOT_S3, S3Object, object_from_response, read_body, response_time
from i2v.s3_uri import S3Uri
from i2v.settings import read_settings

BODY_ATTEMPTS = 2
"""How often a body is read that breaks off: boto3 retries a request only until its response begins."""
T = TypeVar("T")


class Storage:
    """Objects in S3. Close it, or use it in `with`, to end its threads.

    Raise `UsageError` if boto3's settings or I2V_S3_EXTRA_ARGS cannot be used.
    """

    etag_form: EtagForm | None = None
    """The form of ETags that this server accepts, once `i2v.s3.preconditions` has proven it."""

    def __init__(self, client: Any | None = None, session: boto3.Session | None = None) -> None:
        self._session = session or new_session()
        self.client = s3_client(self._session) if client is None else client
        extra = read_settings().s3_extra_args
        add_extra_args(self.client, extra)
        self._links = LinkSigner(self.client, self._session if client is None else None, extra)
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
        """Run a blocking call in a thread; convert its error to a StorageError that names `uri`."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, lambda: function(**arguments))
        except Exception as error:  # boto3 also passes on errors of its parser and of the socket
            raise to_storage_error(error, uri, str(self.client.meta.endpoint_url)) from error

    async def get(self, uri: S3Uri, *, limit: int | None = None, version_id: str | None = None) -> S3Object:
        """Read an object, or the first `limit + 1` bytes of a larger one. Raise NotFound if there is none."""
        return await self.call(uri, self._get, uri=uri, limit=limit, version_id=version_id)

    def _get(self, uri: S3Uri, limit: int | None, version_id: str | None) -> S3Object:
        version = {"VersionId": version_id} if version_id else {}
        for attempt in range(BODY_ATTEMPTS):
            response = self.client.get_object(Bucket=uri.bucket, Key=uri.key, **version)
            try:
                return object_from_response(uri, response, read_body(response, limit))
            except (BotoCoreError, HTTPError):
                if attempt == BODY_ATTEMPTS - 1:
                    raise
        raise AssertionError

    async def get_file(self, uri: S3Uri, path: Path) -> S3Object:
        """Stream an object to a file and return it without its body. Raise NotFound if there is none."""
        return await self.call(uri, self._get_file, uri=uri, path=path)

    def _get_file(self, uri: S3Uri, path: Path) -> S3Object:
        try:
            return get_to_file(self.client, uri, path)
        except (BotoCoreError, HTTPError):
            return get_to_file(self.client, uri, path)

    async def head(self, uri: S3Uri) -> S3Object:
        """Return an object without its body. Raise NotFound if there is none."""
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
        etag_form: EtagForm | None = None,
    ) -> str:
        """Write an object, let S3 verify its checksum, and return its etag.

        With `create`, write only if there is no object; with `if_match`, only over the version with this etag, sent in
        `etag_form` alone if that is given. Raise `Conflict` if the condition does not hold (412) or another write is
        under way (409).
        """

        def send(**condition: str) -> str:
            return self._put(uri, body, hashlib.sha256(body).digest(), content_type, metadata or {}, condition)

        if etag_form:
            return await self.call(uri, send, **condition(if_match, etag_form))
        if create or if_match:
            return await put_if(self, uri, send, if_match)
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
    ) -> str:
        """Stream a file of up to 5 GB into one object, only if there is none or over the version with etag `if_match`.

        S3 rejects the object unless its bytes have this `sha256` (in hex): a half object is never visible. Raise
        `Conflict` as `put` does.
        """

        def send(**condition: str) -> str:
            with path.open("rb") as file:
                return self._put(uri, file, bytes.fromhex(sha256), content_type, metadata, condition)

        return await put_if(self, uri, send, if_match)

    def _put(
        self,
        uri: S3Uri,
        body: bytes | BinaryIO,
        sha256: bytes,
        content_type: str,
        metadata: Mapping[str, str],
        condition: Mapping[str, str],
    ) -> str:
        response = self.client.put_object(
            Bucket=uri.bucket,
            Key=uri.key,
            Body=body,
            ChecksumSHA256=b64encode(sha256).decode(),
            ContentType=content_type,
            Metadata=dict(metadata),
            **condition,
        )
        if not response.get("ETag"):
            raise StorageError(f"The response to the write of {uri} has no ETag header", NOT_S3)
        return opaque_etag(response["ETag"])

    async def copy(
        self, source: S3Uri, target: S3Uri, *, metadata: Mapping[str, str] | None = None, content_type: str = ""
    ) -> None:
        """Copy an object within S3, with its metadata and content type or these. Raise NotFound if there is none."""
        own = {"Metadata": metadata, "ContentType": content_type, "MetadataDirective": "REPLACE"} if metadata else {}
        copy_source = {"Bucket": source.bucket, "Key": source.key}
        copy = self.client.copy_object
        await self.call(source, copy, Bucket=target.bucket, Key=target.key, CopySource=copy_source, **own)

    async def delete(self, uri: S3Uri) -> None:
        """Delete an object if it exists."""
        await self.call(uri, self.client.delete_object, Bucket=uri.bucket, Key=uri.key)

    async def server_time(self, prefix: S3Uri) -> datetime:
        """Return the time by S3's own clock, as `last_modified` in listings."""
        query = {"Bucket": prefix.bucket, "Prefix": prefix.key, "MaxKeys": 1}
        return response_time(await self.call(prefix, self.client.list_objects_v2, **query))

    async def delete_many(self, uris: Sequence[S3Uri]) -> None:
        """Delete up to 1,000 objects of one bucket in one request. Raise StorageError unless all of them are gone."""
        objects = {"Objects": [{"Key": uri.key} for uri in uris], "Quiet": True}
        response = await self.call(uris[0], self.client.delete_objects, Bucket=uris[0].bucket, Delete=objects)
        if errors := response.get("Errors"):
            raise StorageError(
                f"S3 did not delete {len(errors)} of {len(uris)} objects such as {uris[0]} ({errors[0].get('Code')})",
                f"Check the permission to delete: {command('doctor')}",
            )

    async def list(self, prefix: S3Uri, *, start_after: str = "", recursive: bool = True) -> AsyncIterator[S3Entry]:
        """Yield the objects under a prefix by key; with `recursive=False`, only those without a further `/`."""
        async with aclosing(self.pages(prefix, start_after=start_after, recursive=recursive)) as pages:
            async for page in pages:
                for entry in page:
                    yield entry

    async def pages(
        self, prefix: S3Uri, *, start_after: str = "", recursive: bool = True
    ) -> AsyncGenerator[Sequence[S3Entry], None]:
        """Yield what `list` yields in pages of 1,000. From the third page on, each is requested ahead."""
        query = {"Prefix": prefix.key, "StartAfter": start_after} if start_after else {"Prefix": prefix.key}
        query |= {} if recursive else {"Delimiter": "/"}
        page = await self._page(prefix, query)
        yield page.entries
        ahead: asyncio.Task[Page] | None = None
        try:
            while page.next_token:
                token = page.next_token
                page = await (ahead or self._page(prefix, query, token))
                if page.next_token == token:
                    raise StorageError(
                        f"The listing of {prefix} does not end: each page names the same next one", NOT_S3
                    )
                ahead = asyncio.create_task(self._page(prefix, query, page.next_token)) if page.next_token else None
                yield page.entries
        finally:
            if ahead:
                ahead.cancel()

    async def _page(self, prefix: S3Uri, query: Mapping[str, str], token: str = "") -> Page:
        continuation = {"ContinuationToken": token} if token else {}

        def request() -> Page:
            response = self.client.list_objects_v2(Bucket=prefix.bucket, **query, **continuation)
            return page_from_response(prefix, response)

        return await self.call(prefix, request)

    async def presign(
        self,
        uri: S3Uri,
        *,
        seconds: int,
        version_id: str | None = None,
        content_type: str | None = None,
        disposition: str | None = None,
    ) -> str:
        """Return a URL that lets anyone GET the object, or one version of it, for so many seconds.

        S3 answers it with this `content_type` and `disposition`, whatever is stored with the object.
        """
        params = {
            "Bucket": uri.bucket,
            "Key": uri.key,
            "VersionId": version_id,
            "ResponseContentType": content_type,
            "ResponseContentDisposition": disposition,
        }
        given = {name: value for name, value in params.items() if value}
        return await self.call(uri, self._links.sign, params=given, seconds=seconds)

    def credentials_end_within(self, seconds: int) -> bool:
        """Return whether the credentials, and with them every URL they signed, expire within so many seconds."""
        credentials = self._session.get_credentials()
        return isinstance(credentials, RefreshableCredentials) and credentials.refresh_needed(seconds)
