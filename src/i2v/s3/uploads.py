"""Files into S3: `put_file`, whole or not at all.

Small ones go in one request, larger ones in parts that are never left behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from i2v.errors import StorageError
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri

log = logging.getLogger(__name__)
ONE_PUT_BYTES = 512 << 20
"""A file is sent as it is read, so what one request may take is a matter of how much is sent again where it fails."""
PART_BYTES = 5 << 20
"""The least that S3 takes: memory rises with it, several times over, and speed does not."""
PARTS_AT_ONCE = 2
ABANDONED_AFTER = timedelta(hours=1)
"""No living upload of a video is so old."""


async def put_file(
    storage: Storage,
    path: Path,
    uri: S3Uri,
    *,
    size: int,
    sha256: str,
    content_type: str,
    metadata: Mapping[str, str],
    if_match: str | None = None,
) -> None:
    """Put a file where none is, or over the version `if_match`, with a checksum that S3 verifies.

    Args:
        storage: S3.
        path: the file.
        uri: where it goes.
        size: of it, in bytes.
        sha256: of its bytes, in hex.
        content_type: what it is.
        metadata: what stands with it.
        if_match: the etag of the version that it replaces.

    Raises:
        Conflict: the condition did not hold; nothing is left behind.
        StorageError: S3 did not answer well; nothing is visible.
    """
    if size <= ONE_PUT_BYTES:
        checked = bytes.fromhex(sha256)
        how: dict[str, Any] = {"content_type": content_type, "metadata": metadata, "if_match": if_match}
        await storage.put_file(uri, path, sha256=checked, **how)
        return
    await abort_uploads(storage, uri)
    place = {"Bucket": uri.bucket, "Key": uri.key}
    client = storage.client
    made = await storage.call(
        uri,
        client.create_multipart_upload,
        **place,
        ContentType=content_type,
        Metadata=dict(metadata),
        ChecksumAlgorithm="SHA256",
    )
    upload = {**place, "UploadId": made["UploadId"]}
    try:
        parts = await _put_parts(storage, path, size, uri, made["UploadId"])
        condition = {"IfMatch": if_match} if if_match else {"IfNoneMatch": "*"}
        await storage.call(
            uri, client.complete_multipart_upload, **upload, **condition, MultipartUpload={"Parts": parts}
        )
    except BaseException:
        await _abort(storage, uri, upload)
        raise


async def _put_parts(storage: Storage, path: Path, size: int, uri: S3Uri, upload: str) -> list[dict[str, Any]]:
    """The first that fails ends it, once those beside it have ended too."""
    parts: list[dict[str, Any]] = []
    numbers = range(1, ceil(size / PART_BYTES) + 1)
    for beside in (numbers[at : at + PARTS_AT_ONCE] for at in range(0, len(numbers), PARTS_AT_ONCE)):
        puts = (storage.put_part(uri, upload, number, partial(_read_part, path, number)) for number in beside)
        for made in await asyncio.gather(*puts, return_exceptions=True):
            if isinstance(made, BaseException):
                raise made
            parts.append(made)
    return parts


def _read_part(path: Path, number: int) -> bytes:
    with path.open("rb") as file:
        file.seek((number - 1) * PART_BYTES)
        return file.read(PART_BYTES)


async def _abort(storage: Storage, uri: S3Uri, upload: dict[str, Any]) -> None:
    try:
        await storage.call(uri, storage.client.abort_multipart_upload, **upload)
    except StorageError as error:
        log.warning("an upload to %s could not be aborted; the next one clears it away: %s", uri, error)


async def abort_uploads(storage: Storage, uri: S3Uri) -> None:
    """Clear away what a process that died left of an upload to this very key.

    Raises:
        StorageError: S3 did not answer well.
    """
    found = await storage.call(uri, storage.client.list_multipart_uploads, Bucket=uri.bucket, Prefix=uri.key)
    long_ago = datetime.now(UTC) - ABANDONED_AFTER
    for upload in found.get("Uploads", ()):
        if upload["Key"] == uri.key and upload["Initiated"] < long_ago:
            await storage.call(
                uri,
                storage.client.abort_multipart_upload,
                Bucket=uri.bucket,
                Key=uri.key,
                UploadId=upload["UploadId"],
            )
