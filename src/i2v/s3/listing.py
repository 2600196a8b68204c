"""Pages of listings: `read_page` reads one as S3 sends it, in a fifth of the CPU that boto3 takes for it.

What it does not know for certain is `None`, and boto3 asks and reads again. What asks for pages is `i2v.s3.storage`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

from i2v.s3_uri import S3Uri


class S3Entry(NamedTuple):
    """One line of a listing."""

    uri: S3Uri
    etag: str
    size: int
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """Some lines of a listing, and the token by which the next are asked for: empty at the end."""

    entries: list[S3Entry]
    more: str = ""


def by_boto3(bucket: str, answer: Mapping[str, Any]) -> Page:
    """A page that boto3 has read."""
    entries = [
        S3Entry(S3Uri(bucket, found["Key"]), found["ETag"].strip('"'), found["Size"], found["LastModified"])
        for found in answer.get("Contents", ())
    ]
    return Page(entries, answer["NextContinuationToken"] if answer.get("IsTruncated") else "")


def read_page(bucket: str, body: bytes) -> Page | None:
    """A page by its XML, whose keys are encoded as in a URL where it says so; `None` for all that is no such page."""
    try:
        root = ET.fromstring(body)  # noqa: S314 - as botocore reads it, from whom the credentials are for
        space = root.tag.removesuffix("ListBucketResult")
        told = {child.tag.removeprefix(space): child.text or "" for child in root}
        if any("}" in name for name in told):
            return None
        entries = list(_entries(bucket, root.iterfind(f"{space}Contents"), space, told.get("EncodingType") == "url"))
        more = told["NextContinuationToken"] if told["IsTruncated"] == "true" else ""
    except (ET.ParseError, KeyError, ValueError):
        return None
    return Page(entries, more)


def _entries(bucket: str, found: Iterator[ET.Element], space: str, is_encoded: bool) -> Iterator[S3Entry]:
    key, etag, size, last_modified = (space + name for name in ("Key", "ETag", "Size", "LastModified"))
    for element in found:
        told = {child.tag: child.text or "" for child in element}
        name = unquote_plus(told[key]) if is_encoded else told[key]
        moment = datetime.fromisoformat(told[last_modified])
        yield S3Entry(S3Uri(bucket, name), told[etag].strip('"'), int(told[size]), moment)
