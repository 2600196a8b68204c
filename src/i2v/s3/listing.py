"""Listings of a bucket: `S3Entry` and `Page`. `i2v.s3.storage` requests them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

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


def page_from_response(bucket: str, response: Mapping[str, Any]) -> Page:
    """Build a page from boto3's response to ListObjectsV2."""
    entries = [
        S3Entry(S3Uri(bucket, entry["Key"]), entry["ETag"].strip('"'), entry["Size"], entry["LastModified"])
        for entry in response.get("Contents", ())
    ]
    return Page(entries, response["NextContinuationToken"] if response["IsTruncated"] else "")
