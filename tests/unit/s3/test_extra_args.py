"""I2V_S3_EXTRA_ARGS: checked against boto3, added to each put and copy, and to reads that know the argument."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from i2v.errors import UsageError
from i2v.s3.client import s3_client
from i2v.s3.extra_args import add_extra_args
from tests.support.aws_sessions import made_up_session

KMS = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key", "Tagging": "team=a", "ACL": "private"}
ACCOUNT = {"ExpectedBucketOwner": "111122223333", "RequestPayer": "requester"}
SENT: dict[str, Any] = {"Bucket": "b-1", "Key": "a"}


class Sent(Exception):
    """The headers of a request."""


def headers_of(extra: dict[str, Any], operation: str, **arguments: Any) -> dict[str, str]:
    """Return the headers that boto3 would send."""
    client = s3_client(made_up_session("us-west-2"))
    add_extra_args(client, extra)

    def stop(request: Any, **_: object) -> None:
        raise Sent({name.lower(): str(value) for name, value in request.headers.items()})

    client.meta.events.register("request-created.s3", stop)
    with pytest.raises(Sent) as sent:
        getattr(client, operation)(**arguments)
    return dict(sent.value.args[0])


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [("put_object", {**SENT, "Body": b""}), ("copy_object", {**SENT, "CopySource": "b-1/b"})],
)
def test_puts_and_copies_carry_the_arguments(operation: str, arguments: dict[str, Any]) -> None:
    """Encryption, key, tags and ACL are headers of each write."""
    headers = headers_of(KMS, operation, **arguments)
    assert headers["x-amz-server-side-encryption"] == "aws:kms"
    assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key"
    assert (headers["x-amz-tagging"], headers["x-amz-acl"]) == ("team=a", "private")
    assert headers.get("x-amz-tagging-directive") == ("REPLACE" if operation == "copy_object" else None)


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [("get_object", SENT), ("head_object", SENT), ("list_objects_v2", {"Bucket": "b-1"}), ("delete_object", SENT)],
)
def test_reads_carry_owner_and_payer(operation: str, arguments: dict[str, Any]) -> None:
    """A requester-pays bucket of another account can be read too; the other arguments stay with writes."""
    headers = headers_of(KMS | ACCOUNT, operation, **arguments)
    assert headers["x-amz-expected-bucket-owner"] == "111122223333"
    assert headers["x-amz-request-payer"] == "requester"
    assert "x-amz-acl" not in headers


def test_a_presigned_url_needs_no_headers() -> None:
    """The payer is in the query of a presigned URL, since the provider sends no headers of ours."""
    client = s3_client(made_up_session("us-west-2"))
    add_extra_args(client, KMS | ACCOUNT)
    query = parse_qs(urlsplit(client.generate_presigned_url("get_object", SENT)).query)
    assert (query["X-Amz-SignedHeaders"], query["x-amz-request-payer"]) == (["host"], ["requester"])


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"Encryption": "x"}, "'Encryption' cannot be set.*ServerSideEncryption"),
        ({"Bucket": "b"}, "'Bucket' cannot be set"),
        ({"IfMatch": "e"}, "'IfMatch' cannot be set"),
        ({"ContentType": "text/html"}, "'ContentType' cannot be set"),
        ({"SSECustomerKey": "k"}, "'SSECustomerKey' cannot be set"),
        ({"SSEKMSKeyId": 5}, "SSEKMSKeyId must be a string, not 5"),
        ({"BucketKeyEnabled": "yes"}, "BucketKeyEnabled must be a boolean, not 'yes'"),
        ({"SSEKMSKeyId": True}, "SSEKMSKeyId must be a string"),
        ({"ServerSideEncryption": "kms"}, "ServerSideEncryption must be one of .*aws:kms"),
    ],
)
def test_an_argument_that_boto3_does_not_know_is_refused(extra: dict[str, Any], words: str) -> None:
    """The message names the variable, the argument and what is possible."""
    with pytest.raises(UsageError, match=f"I2V_S3_EXTRA_ARGS: {words}"):
        add_extra_args(s3_client(made_up_session("us-west-2")), extra)
