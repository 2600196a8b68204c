"""Failed S3 requests: each error names its cause and what to do, and shows no password."""

from __future__ import annotations

import pytest
from botocore import exceptions as boto

from i2v.errors import AccessDenied, Conflict, NoBucket, NotFound, StorageError
from i2v.s3.failures import WebPageError, to_storage_error
from i2v.s3_uri import S3Uri

URI = S3Uri("b-1", "a.jpg")
SECRET = "hunter2"
ENDPOINT = f"https://user:{SECRET}@s3.example"


def failed(code: str, status: int, operation: str = "GetObject", message: str = "Said S3") -> boto.ClientError:
    """Return boto3's error for an error response."""
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return boto.ClientError(response, operation)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            failed("AccessDenied", 403),
            AccessDenied,
            "denied GetObject of s3://b-1/a.jpg|permissions and the bucket's policy",
        ),
        (failed("AccessDenied", 403, message="kms:Decrypt on resource"), AccessDenied, "encryption key|kms:Decrypt"),
        (failed("RequestTimeTooSkewed", 403), AccessDenied, "clock is wrong|NTP"),
        (failed("ExpiredToken", 400), StorageError, "credentials have expired|aws sso login"),
        (failed("ExpiredToken", 403), AccessDenied, "credentials have expired|aws sso login"),
        (failed("InvalidAccessKeyId", 403), AccessDenied, "access key is unknown|AWS_ACCESS_KEY_ID"),
        (failed("SignatureDoesNotMatch", 403), AccessDenied, "signature is wrong|AWS_SECRET_ACCESS_KEY"),
        (failed("AuthorizationHeaderMalformed", 400), StorageError, "region is wrong|AWS_REGION"),
        (failed("PermanentRedirect", 301), StorageError, "region is wrong|AWS_REGION"),
        (failed("SlowDown", 503), StorageError, "limits the request rate|I2V_MAX_IN_FLIGHT"),
        (failed("InternalError", 500), StorageError, "500 InternalError|Try again later"),
        (failed("NotImplemented", 501, "PutObject"), StorageError, "conditional writes|docs/s3.md"),
        (failed("NotImplemented", 501, "CopyObject"), StorageError, "does not implement it|docs/s3.md"),
        (failed("InvalidObjectState", 403), AccessDenied, "archived|Restore"),
        (failed("NoSuchBucket", 404), NoBucket, "does not exist|I2V_BUCKET"),
        (failed("404", 404, "PutObject"), NoBucket, "does not exist|AWS_ENDPOINT_URL with its path"),
        (failed("NoSuchKey", 404), NotFound, "does not exist"),
        (failed("PreconditionFailed", 412, "PutObject"), Conflict, "another writer was first"),
        (boto.NoCredentialsError(), AccessDenied, "No AWS credentials|AWS_PROFILE"),
        (boto.UnauthorizedSSOTokenError(), AccessDenied, "cannot be loaded|aws sso login"),
        (boto.SSLError(endpoint_url=ENDPOINT, error=OSError("self-signed")), StorageError, "TLS error|AWS_CA_BUNDLE"),
        (boto.ProxyConnectionError(proxy_url=ENDPOINT), StorageError, "through the proxy|docs/network.md"),
        (boto.EndpointConnectionError(endpoint_url=ENDPOINT), StorageError, "Cannot connect to S3|AWS_ENDPOINT_URL"),
        (boto.ConnectTimeoutError(endpoint_url=ENDPOINT), StorageError, "Cannot connect to S3|AWS_ENDPOINT_URL"),
        (boto.ReadTimeoutError(endpoint_url=ENDPOINT), StorageError, "request for s3://b-1/a.jpg failed|network"),
        (WebPageError(status=200, content_type="text/html"), StorageError, "not answer as S3 does|login page"),
        (KeyError("x"), StorageError, "KeyError|network"),
    ],
)
def test_an_error_names_cause_and_remedy(error: Exception, kind: type[StorageError], words: str) -> None:
    """The message says what happened to which object, the hint what to do; passwords in URLs are left out."""
    found = to_storage_error(error, URI, ENDPOINT)
    assert type(found) is kind
    for word in words.split("|"):
        assert word in str(found)
    assert SECRET not in str(found)
    assert "i2v doctor" not in str(found)


def test_a_message_that_only_repeats_the_code_is_left_out() -> None:
    """Amazon says "Access Denied" where it says no more; a longer message is kept."""
    assert "Access Denied" not in str(
        to_storage_error(failed("AccessDenied", 403, message="Access Denied"), URI, ENDPOINT)
    )
    assert "(AccessDenied): no policy" in str(
        to_storage_error(failed("AccessDenied", 403, message="no policy"), URI, ENDPOINT)
    )


def test_an_error_of_ours_stays_as_it_is() -> None:
    """What i2v itself raised while it read a response is not wrapped."""
    ours = StorageError("no ETag header", "hint")
    assert to_storage_error(ours, URI, ENDPOINT) is ours
