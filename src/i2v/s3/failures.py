"""Failed requests as sentences: `to_storage_error` turns botocore's exceptions into `i2v.errors.StorageError`.

Each message names the operation, the object and what S3 returned; each hint says what to do.
"""

from http import HTTPStatus

from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError

from i2v.errors import AccessDenied, Conflict, NoBucket, NotFound, StorageError
from i2v.s3_uri import S3Uri

_CONDITIONAL = {"PutObject", "CopyObject", "DeleteObject"}
"""Operations for which a 409 is a lost race. For others it means something else."""


def to_storage_error(error: Exception, uri: S3Uri, endpoint: str) -> StorageError:
    """Return the error to raise for a request for `uri` that failed with `error`."""
    match error:
        case ClientError():
            return _from_response(error, uri)
        case NoCredentialsError():
            return AccessDenied(
                f"No AWS credentials found for {uri}", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        case EndpointConnectionError():
            return StorageError(
                f"Cannot connect to S3 at {endpoint} for {uri}", "Check AWS_ENDPOINT_URL, AWS_REGION and the network"
            )
        case BotoCoreError():
            reason = str(error)
        case _:
            reason = f"{type(error).__name__}: {error}"
    return StorageError(f"The S3 request for {uri} failed: {reason}", "Check the AWS_* settings and the network")


def _from_response(error: ClientError, uri: S3Uri) -> StorageError:
    metadata = error.response.get("ResponseMetadata", {})
    status, attempts = metadata.get("HTTPStatusCode", 0), metadata.get("RetryAttempts", 0) + 1
    code, message = (str(error.response.get("Error", {}).get(name, "")) for name in ("Code", "Message"))
    operation = error.operation_name
    if status == HTTPStatus.PRECONDITION_FAILED or (status == HTTPStatus.CONFLICT and operation in _CONDITIONAL):
        return Conflict(f"S3 returned {status} {code} for {operation} of {uri}: another writer was first")
    if code == "NoSuchBucket":
        return NoBucket(f"The bucket of {uri} does not exist", "Check I2V_BUCKET and the region")
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(f"{uri} does not exist")
    if status == HTTPStatus.FORBIDDEN:
        return AccessDenied(
            f"S3 denied {operation} of {uri} ({code})", "Check the credentials and their permissions: i2v doctor"
        )
    named = str(status) if code == str(status) else f"{status} {code}"
    tried = f" after {attempts} attempts" if attempts > 1 else ""
    said = f": {message}" if message else ""
    return StorageError(
        f"S3 returned {named} for {operation} of {uri}{tried}{said}", "Try again later, or run: i2v doctor"
    )
