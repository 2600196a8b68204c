"""Listings of a bucket: `S3Entry` and `Page`. `i2v.s3.storage` requests them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from i2v.errors import StorageError
from i2v.s3.etags import opaque_etag
from i2v.s3.objects import NOT_S3, response_time
from i2v.s3_uri import S3Uri


class S3Entry(NamedTuple):
    """One object of a listing."""

    uri: S3Uri
    etag: str
    size: int
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """Up to 1,000 entries, and the token for the next page, empty on the last."""

    entries: list[S3Entry]
    next_token: str = ""


def page_from_response(prefix: S3Uri, response: Mapping[str, Any]) -> Page:
    """Build a page from boto3's response to ListObjectsV2. Raise `StorageError` if it is not a whole page.

    An entry without an ETag gets none, so its image is read; one without a time is as new as the page.
    """
    entries, contents = [], response.get("Contents", ())
    token = response.get("NextContinuationToken", "")
    if "IsTruncated" not in response or (response["IsTruncated"] and not token):
        raise StorageError(f"The listing of {prefix} is not complete", NOT_S3)
    for entry in contents:
        if not entry.get("Key"):
            raise StorageError(f"The listing of {prefix} has an object without a key", NOT_S3)
        etag, modified = opaque_etag(entry.get("ETag", "")), entry.get("LastModified") or response_time(response)
        entries.append(S3Entry(S3Uri(prefix.bucket, entry["Key"]), etag, entry.get("Size", 0), modified))
    return Page(entries, token if response["IsTruncated"] else "")
