"""An object as S3 returns it: `S3Object`, and how it is read from a response."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import IncompleteReadError

from i2v.errors import StorageError
from i2v.s3.etags import opaque_etag
from i2v.s3_uri import S3Uri

NOT_S3 = "Check AWS_ENDPOINT_URL and what answers there: it does not behave as S3 does"
_REQUIRED = {"ETag": "ETag", "LastModified": "Last-Modified"}


@dataclass(frozen=True, slots=True)
class S3Object:
    """One version of an object; `body` is empty after a HEAD. Times are UTC, sizes bytes, the etag has no quotes."""

    uri: S3Uri
    etag: str
    size: int
    last_modified: datetime
    served_at: datetime
    """S3's clock at the time of the response, so that an age does not depend on the local clock."""
    version_id: str | None = None
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    content_encoding: str = ""

    @property
    def age_seconds(self) -> float:
        """Seconds since the last write, by S3's clock."""
        return (self.served_at - self.last_modified).total_seconds()


def object_from_response(uri: S3Uri, response: Mapping[str, Any], body: bytes = b"") -> S3Object:
    """Build the object from boto3's response to a GET or HEAD. Raise `StorageError` if it lacks what i2v needs."""
    missing = [header for name, header in _REQUIRED.items() if not response.get(name)]
    if missing:
        raise StorageError(f"The response for {uri} has no {' and no '.join(missing)} header", NOT_S3)
    return S3Object(
        uri=uri,
        etag=opaque_etag(response["ETag"]),
        size=response.get("ContentLength", len(body)),
        last_modified=response["LastModified"],
        served_at=response_time(response),
        version_id=version if (version := response.get("VersionId")) not in (None, "null") else None,
        content_type=response.get("ContentType", ""),
        metadata=response.get("Metadata", {}),
        body=body,
        content_encoding=response.get("ContentEncoding", ""),
    )


def response_time(response: Mapping[str, Any]) -> datetime:
    """Return the time by S3's clock at which it sent a response."""
    date = response["ResponseMetadata"]["HTTPHeaders"].get("date")
    try:
        return parsedate_to_datetime(date) if date else datetime.now(UTC)
    except ValueError:
        return datetime.now(UTC)


def read_body(response: Mapping[str, Any], limit: int | None) -> bytes:
    """Read the body, or its first `limit + 1` bytes, and close it: with an unread rest, this closes the connection."""
    size: int | None = response.get("ContentLength")  # none if the body is sent in chunks
    expected = size if limit is None or size is None else min(size, limit + 1)
    most = None if limit is None else limit + 1
    with response["Body"] as stream:
        body: bytes = stream.read(most if expected is None else None if expected == size else expected)
    if expected is not None and len(body) != expected:
        raise IncompleteReadError(actual_bytes=len(body), expected_bytes=expected)
    return body
