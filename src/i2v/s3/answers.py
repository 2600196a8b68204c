"""What S3 answers: `S3Object`, and errors as sentences that name the address and say what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError

from i2v.errors import Conflict, NoBucket, NotFound, StorageError
from i2v.s3.direct import Answer
from i2v.s3_uri import S3Uri


@dataclass(frozen=True, slots=True)
class S3Object:
    """One version of an object as S3 told it; `body` is empty after a HEAD. Times are UTC, sizes bytes."""

    uri: S3Uri
    etag: str
    size: int
    last_modified: datetime
    served_at: datetime
    """S3's own clock when it answered, so that an age depends on no host's."""
    version_id: str | None = None
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def age_seconds(self) -> float:
        """Seconds since the last write, by S3's clock."""
        return (self.served_at - self.last_modified).total_seconds()


def plain_object(uri: S3Uri, answer: Answer) -> S3Object:
    """By the answer to a direct request."""
    headers, meta = answer.headers, "x-amz-meta-"
    served_at = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
    return S3Object(
        uri=uri,
        etag=headers["etag"].strip('"'),
        size=int(headers["content-length"]),
        last_modified=parsedate_to_datetime(headers["last-modified"]),
        served_at=served_at,
        version_id=version if (version := headers.get("x-amz-version-id")) not in (None, "null") else None,
        content_type=headers.get("content-type", ""),
        metadata={name.removeprefix(meta): value for name, value in headers.items() if name.startswith(meta)},
        body=answer.body,
    )


def boto3_object(uri: S3Uri, answer: Mapping[str, Any], body: bytes) -> S3Object:
    """By what boto3 returned."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return S3Object(
        uri=uri,
        etag=answer["ETag"].strip('"'),
        size=int(answer["ContentLength"]),
        last_modified=answer["LastModified"],
        served_at=parsedate_to_datetime(date) if date else datetime.now(UTC),
        version_id=version if (version := answer.get("VersionId")) not in (None, "null") else None,
        content_type=answer.get("ContentType", ""),
        metadata=answer.get("Metadata", {}),
        body=body,
    )


def translate(error: ClientError | BotoCoreError, uri: S3Uri, endpoint: str) -> StorageError:
    """Say what S3 refused, where, and what to do."""
    if isinstance(error, NoCredentialsError):
        return StorageError(
            f"No AWS credentials to reach {uri}", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if isinstance(error, EndpointConnectionError):
        return StorageError(
            f"S3 cannot be reached at {endpoint} for {uri}", "Check AWS_ENDPOINT_URL, AWS_REGION and the network"
        )
    if not isinstance(error, ClientError):
        return StorageError(f"S3 failed at {uri}: {error}", "Check the AWS_* settings and the network")
    return _translate_answer(error, uri)


def _translate_answer(error: ClientError, uri: S3Uri) -> StorageError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    what = error.operation_name
    if status == HTTPStatus.PRECONDITION_FAILED or (
        status == HTTPStatus.CONFLICT and what in {"PutObject", "CompleteMultipartUpload", "DeleteObject"}
    ):
        return Conflict(f"{what} of {uri} lost against another writer ({code})")
    if code == "NoSuchBucket":
        return NoBucket(f"The bucket of {uri} does not exist", "Check I2V_BUCKET and the region")
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(f"{uri} does not exist")
    if status == HTTPStatus.FORBIDDEN:
        return StorageError(
            f"S3 refuses {what} of {uri} ({code})", "Check the credentials and their rights: i2v doctor"
        )
    message = error.response.get("Error", {}).get("Message", "")
    return StorageError(f"S3 answered {what} of {uri} with {status} {code}: {message}", "Try again; see i2v doctor")
