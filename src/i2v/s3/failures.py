"""Failed requests as sentences: `to_storage_error` turns botocore's exceptions into `i2v.errors.StorageError`.

Each message names the operation, the object and the cause; each hint says what to do. Add an error code to `CAUSES`.
"""

from http import HTTPStatus

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from i2v.errors import AccessDenied, Conflict, I2vError, NoBucket, NotFound, StorageError
from i2v.s3_uri import S3Uri
from i2v.urls import redact_urls

_CONDITIONAL = {"PutObject", "CopyObject", "DeleteObject"}
"""Operations for which a 409 is a lost race. For others it means something else."""
_NO_CONDITIONS = "the server does not implement conditional writes"
NEEDS_CONDITIONS = "Use a server that honors them (docs/s3.md): without them two runs could pay for one video"
_CLOCK = ("this machine's clock is wrong", "Synchronize the clock with NTP")
_EXPIRED = ("the credentials have expired", "Renew the AWS credentials, e.g. with: aws sso login")
_KEY = ("the access key is unknown to this server", "Check AWS_ACCESS_KEY_ID, AWS_PROFILE and AWS_ENDPOINT_URL")
_SECRET = (
    "the signature is wrong",
    "Check AWS_SECRET_ACCESS_KEY; a proxy before S3 must pass on the host and the whole path unchanged",
)
_REGION = ("the region is wrong", "Set AWS_REGION to the bucket's region")
_BUSY = (
    "S3 limits the request rate",
    "Run again later, with fewer images at a time (I2V_MAX_IN_FLIGHT); AWS_RETRY_MODE=adaptive slows requests down",
)
_ARCHIVED = ("the object is archived", "Restore it from its storage class first")
_KMS = ("its encryption key cannot be used", "Check the key and its kms:Decrypt and kms:GenerateDataKey permissions")
_FULL = ("the storage is full", "Free space or raise the quota")
CAUSES = {
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": _EXPIRED,
    "InvalidAccessKeyId": _KEY,
    "InvalidClientTokenId": _KEY,
    "SignatureDoesNotMatch": _SECRET,
    "AuthorizationHeaderMalformed": _REGION,
    "AuthorizationQueryParametersError": _REGION,
    "PermanentRedirect": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "SlowDown": _BUSY,
    "SlowDownRead": _BUSY,
    "SlowDownWrite": _BUSY,
    "TooManyRequests": _BUSY,
    "Throttling": _BUSY,
    "ThrottlingException": _BUSY,
    "RequestLimitExceeded": _BUSY,
    "InvalidObjectState": _ARCHIVED,
    "KMS.DisabledException": _KMS,
    "KMS.NotFoundException": _KMS,
    "KMS.KMSInvalidStateException": _KMS,
    "QuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
    "NotImplemented": (_NO_CONDITIONS, NEEDS_CONDITIONS),
}
"""What an error code means, and what to do."""
_RIGHTS = {
    "HeadBucket": "it needs s3:ListBucket",
    "HeadObject": "it needs s3:GetObject, and s3:ListBucket if the object may be missing",
}
"""The rights of operations whose responses have no body, so S3 cannot name them."""
PERMISSIONS = "Check the credentials (AWS_*), their permissions and the bucket's policy (docs/s3.md)"
_SERVER = "Try again later; if it lasts, check the S3 service and AWS_ENDPOINT_URL"
_NETWORK = "Check AWS_ENDPOINT_URL, the region and the network (docs/network.md)"


REASON_CHARS = 300


class WebPageError(boto.BotoCoreError):
    """A response is a web page."""

    fmt = "a web page came instead of an S3 response ({status} {content_type})"


_FAILURES: tuple[tuple[tuple[type[Exception], ...], type[StorageError], str, str], ...] = (
    (
        (boto.NoCredentialsError, boto.PartialCredentialsError),
        AccessDenied,
        "No AWS credentials found for {uri}",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    ),
    (
        (boto.SSOError, boto.TokenRetrievalError, boto.CredentialRetrievalError),
        AccessDenied,
        "The AWS credentials for {uri} cannot be loaded: {reason}",
        "Sign in again, e.g. with: aws sso login",
    ),
    (
        (boto.SSLError,),
        StorageError,
        "TLS error: the certificate of {at} is not accepted: {reason}",
        "For a private CA, set AWS_CA_BUNDLE or SSL_CERT_FILE to its certificate",
    ),
    ((boto.ProxyConnectionError,), StorageError, "Cannot reach S3 through the proxy for {uri}: {reason}", _NETWORK),
    (
        (boto.EndpointConnectionError, boto.ConnectTimeoutError),
        StorageError,
        "Cannot connect to S3 at {at} for {uri}",
        _NETWORK,
    ),
    (
        (WebPageError, ResponseParserError),
        StorageError,
        "{at} does not answer as S3 does for {uri}: {reason}",
        "A login page, a proxy or a wrong AWS_ENDPOINT_URL: check the network (docs/network.md)",
    ),
)
"""Exceptions without a response: their types, the error to raise, its message and hint."""
_OTHER = (StorageError, "The S3 request for {uri} failed: {reason}", _NETWORK)


def to_storage_error(error: Exception, uri: S3Uri, endpoint: str) -> I2vError:
    """Return the error to raise for a request for `uri` that failed with `error`."""
    if isinstance(error, I2vError):
        return error
    if isinstance(error, boto.ClientError):
        return _from_response(error, uri)
    reason = str(error) if isinstance(error, boto.BotoCoreError) else f"{type(error).__name__}: {error}"
    kind, message, hint = next((row[1:] for row in _FAILURES if isinstance(error, row[0])), _OTHER)
    at, reason = redact_urls(endpoint), redact_urls(reason)[:REASON_CHARS]
    return kind(message.format(uri=uri, at=at, reason=reason), hint)


def _from_response(error: boto.ClientError, uri: S3Uri) -> StorageError:
    metadata = error.response.get("ResponseMetadata", {})
    status, attempts = metadata.get("HTTPStatusCode", 0), metadata.get("RetryAttempts", 0) + 1
    code, message = (str(error.response.get("Error", {}).get(name, "")) for name in ("Code", "Message"))
    operation = error.operation_name
    if status == HTTPStatus.PRECONDITION_FAILED or (status == HTTPStatus.CONFLICT and operation in _CONDITIONAL):
        return Conflict(f"S3 returned {status} {code} for {operation} of {uri}: another writer was first")
    if code == "NoSuchBucket" or (status == HTTPStatus.NOT_FOUND and operation == "PutObject" and code != "NoSuchKey"):
        return NoBucket(
            f"The bucket of {uri} does not exist", "Check I2V_BUCKET, AWS_ENDPOINT_URL with its path, and the region"
        )
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(f"{uri} does not exist")
    is_key_denied = code == "AccessDenied" and "kms" in message.lower()
    cause, hint = _KMS if is_key_denied else CAUSES.get(code, ("", ""))
    if status == HTTPStatus.NOT_IMPLEMENTED and operation != "PutObject":
        cause, hint = "the server does not implement it", "docs/s3.md lists servers"
    named = str(status) if code == str(status) else f"{status} {code}"
    tried = f" after {attempts} attempts" if attempts > 1 else ""
    if message.replace(" ", "") == code:  # Access Denied
        message = ""
    said = f": {cause} ({message})" if cause and message else f": {cause or message}" if cause or message else ""
    if status == HTTPStatus.FORBIDDEN:
        said = said if operation not in _RIGHTS or cause else f": {_RIGHTS[operation]}"
        return AccessDenied(f"S3 denied {operation} of {uri} ({code}){said}", hint or PERMISSIONS)
    hint = hint or (_SERVER if status >= HTTPStatus.INTERNAL_SERVER_ERROR else PERMISSIONS)
    return StorageError(f"S3 returned {named} for {operation} of {uri}{tried}{said}", hint)


def refuses_etag_form(error: StorageError) -> bool:
    """Return whether S3 rejected a conditional write because it does not accept this form of an ETag."""
    code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
    return code in {"InvalidArgument", "InvalidRequest", "BadRequest", "NotImplemented"}
