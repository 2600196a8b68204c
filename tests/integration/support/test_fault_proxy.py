"""The fault proxy: requests pass unchanged, and a rule applies only where it matches."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError

from sandbox import Sandbox
from sandbox.sandbox import ACCESS_KEY, REGION, SECRET_KEY
from tests.support.fault_proxy import FaultProxy, FaultRule

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedMultipartUploadTypeDef

BIG = bytes(range(256)) * 40_000


@pytest.fixture
def proxy(sandbox: Sandbox) -> Iterator[FaultProxy]:
    """Return a proxy in front of the sandbox's S3."""
    with FaultProxy(sandbox.aws.address) as proxy:
        yield proxy


def client(proxy: FaultProxy, tries: int = 1) -> S3Client:
    """Return a boto3 client that uses the proxy."""
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": tries, "mode": "standard"},
    )
    session = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name=REGION)
    return session.client("s3", endpoint_url=proxy.url, config=config)


def test_objects_pass_unchanged(sandbox: Sandbox, proxy: FaultProxy) -> None:
    """Bodies of any length, metadata and parts pass unchanged, and HEAD has no body."""
    s3, bucket, key = client(proxy), sandbox.bucket, "a b/ü.bin"
    for body in (b"", b"x", BIG):
        s3.put_object(Bucket=bucket, Key=key, Body=body, Metadata={"prompt": "p"}, ContentType="video/mp4")
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == body
        assert s3.head_object(Bucket=bucket, Key=key)["Metadata"] == {"prompt": "p"}
    upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    etag = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=BIG)["ETag"]
    parts: CompletedMultipartUploadTypeDef = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload=parts)
    assert sandbox.read("a b/ü.bin") == BIG
    s3.delete_object(Bucket=bucket, Key=key)
    assert sandbox.keys() == []
    assert [entry.method for entry in proxy.log].count("PUT") == 4


def test_signatures_stay_valid(sandbox: Sandbox, proxy: FaultProxy) -> None:
    """The server receives the signed Host: a presigned URL works, and a modified one does not."""
    sandbox.put_image("images/a.jpg", b"x")
    params = {"Bucket": sandbox.bucket, "Key": "images/a.jpg"}
    url = client(proxy).generate_presigned_url("get_object", params)
    assert url.startswith(proxy.url)
    assert httpx.get(url).content == b"x"
    assert httpx.get(url.replace("Expires=3600", "Expires=3601")).status_code == HTTPStatus.FORBIDDEN


def test_chunked_bodies_pass_unchanged(sandbox: Sandbox, proxy: FaultProxy) -> None:
    """A chunked body arrives complete."""
    params = {"Bucket": sandbox.bucket, "Key": "chunked"}
    url = client(proxy).generate_presigned_url("put_object", params)
    assert httpx.put(url, content=iter([b"one ", b"two ", BIG])).is_success
    assert sandbox.read("chunked") == b"one two " + BIG


def test_expect_100_continue_is_answered(proxy: FaultProxy) -> None:
    """`Expect: 100-continue` gets a 100 before the body is sent."""
    lines = ("PUT /no-such-bucket/key HTTP/1.1", f"Host: {proxy.address}", "Content-Length: 3", "Expect: 100-continue")
    head = "".join(f"{line}\r\n" for line in (*lines, ""))
    with socket.create_connection((proxy.host, proxy.port), timeout=5) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"abc")
        assert connection.recv(1000).startswith(b"HTTP/1.1 404 ")


def test_response_headers_pass_unchanged(sandbox: Sandbox, proxy: FaultProxy) -> None:
    """The response headers keep their names, spelling and order."""
    path = f"/{sandbox.bucket}?list-type=2"
    direct, through = (httpx.get(url + path).headers.raw for url in (sandbox.aws.url, proxy.url))
    assert [name for name, _ in through] == [name for name, _ in direct]


@pytest.mark.parametrize(("when", "there"), [("before", []), ("after", ["key"])])
@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "InternalError"), (503, "SlowDown"), (403, "AccessDenied"), (409, "ConditionalRequestConflict")],
)
def test_a_failure_is_an_s3_error(
    sandbox: Sandbox, proxy: FaultProxy, status: int, code: str, when: Literal["before", "after"], there: list[str]
) -> None:
    """boto3 parses status and code of the failure; the request takes effect only with `after`."""
    proxy.add(FaultRule("fail", "PUT", "key", when=when, status=status, code=code))
    with pytest.raises(ClientError) as failure:
        client(proxy).put_object(Bucket=sandbox.bucket, Key="key", Body=b"x")
    assert failure.value.response["Error"].get("Code") == code
    assert failure.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert sandbox.keys() == there


@pytest.mark.parametrize(("when", "there"), [("before", []), ("after", ["key"])])
def test_a_dropped_connection_loses_the_response(
    sandbox: Sandbox, proxy: FaultProxy, when: Literal["before", "after"], there: list[str]
) -> None:
    """The response is lost, and the request takes effect only with `after`."""
    proxy.add(FaultRule("drop", "PUT", when=when))
    with pytest.raises(HTTPClientError):
        client(proxy).put_object(Bucket=sandbox.bucket, Key="key", Body=b"x")
    assert sandbox.keys() == there
    assert [(entry.forwarded, entry.answered) for entry in proxy.log] == [(when == "after", False)]


def test_boto3_gets_412_for_its_own_write_after_a_lost_response(sandbox: Sandbox, proxy: FaultProxy) -> None:
    """The case that the ledger must recognize: boto3 repeats a conditional write and conflicts with itself."""
    proxy.add(FaultRule("drop", "PUT", when="after"))
    with pytest.raises(ClientError) as failure:
        client(proxy, tries=2).put_object(Bucket=sandbox.bucket, Key="key", Body=b"x", IfNoneMatch="*")
    assert failure.value.response["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.PRECONDITION_FAILED
    assert sandbox.read("key") == b"x"


@pytest.mark.parametrize(("when", "there"), [("before", []), ("after", ["key"])])
def test_a_process_is_killed_at_a_request(
    sandbox: Sandbox, proxy: FaultProxy, when: Literal["before", "after"], there: list[str]
) -> None:
    """The process is killed before its request is forwarded, or after the server has handled it."""
    params = {"Bucket": sandbox.bucket, "Key": "key"}
    url = client(proxy).generate_presigned_url("put_object", params)
    code = f"import sys, httpx; sys.stdin.readline(); httpx.put({url!r}, content=b'x')"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:  # noqa: S603 - our own
        proxy.add(FaultRule("kill", "PUT", when=when, pid=process.pid))
        process.communicate(b"go\n")
    proxy.wait_idle()
    assert process.returncode == -signal.SIGKILL
    assert sandbox.keys() == there


def test_a_rule_applies_only_to_what_matches(sandbox: Sandbox, proxy: FaultProxy) -> None:
    """Method, target, body, skip and times must all match."""
    rule = proxy.add(FaultRule("fail", "PUT", r"/key\d", "stop", skip=1, times=2, status=403))
    s3, failed = client(proxy), []
    for number in range(6):
        for key, body in ((f"key{number}", b"stop"), (f"key{number}", b"go"), (f"other{number}", b"stop")):
            try:
                s3.put_object(Bucket=sandbox.bucket, Key=key, Body=body)
            except ClientError:
                failed.append((key, body))
    assert failed == [("key1", b"stop"), ("key2", b"stop")]
    assert (rule.hits, proxy.log[0].status) == (2, HTTPStatus.OK)
    proxy.reset()
    assert proxy.log == []


def _put_until_timeout(url: str) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.put(url, content=b"x", timeout=1)


def test_a_held_request_does_not_block_others(sandbox: Sandbox, proxy: FaultProxy) -> None:
    """A held request is handled and never answered until the client leaves; others pass meanwhile."""
    proxy.add(FaultRule("hold", "PUT", when="after"))
    url = client(proxy).generate_presigned_url("put_object", {"Bucket": sandbox.bucket, "Key": "key"})
    waiting = threading.Thread(target=_put_until_timeout, args=(url,))
    waiting.start()
    while not sandbox.keys("key"):
        assert waiting.is_alive()
    assert client(proxy).list_objects_v2(Bucket=sandbox.bucket)["KeyCount"] == 1
    waiting.join()
    proxy.wait_idle(1)


def test_links_lead_back_to_a_proxy_that_rewrites_addresses(sandbox: Sandbox) -> None:
    """Such a proxy replaces the server's address with its own in response bodies."""
    with FaultProxy(sandbox.aws.address, rewrite_address=True) as proxy:
        sandbox.s3().put_object(Bucket=sandbox.bucket, Key="link", Body=f"see {sandbox.aws.url}/x".encode())
        url = client(proxy).generate_presigned_url("get_object", {"Bucket": sandbox.bucket, "Key": "link"})
        assert httpx.get(url).text == f"see {proxy.url}/x"
