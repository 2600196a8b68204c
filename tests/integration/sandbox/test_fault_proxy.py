"""The tollgate: what passes is untouched, and a toll is taken exactly where it was put."""

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
from sandbox.fault_proxy import FaultProxy, FaultRule
from sandbox.sandbox import ACCESS_KEY, REGION, SECRET_KEY

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedMultipartUploadTypeDef

BIG = bytes(range(256)) * 40_000


@pytest.fixture
def gate(sandbox: Sandbox) -> Iterator[FaultProxy]:
    """A gate before the sandbox's S3."""
    with FaultProxy(sandbox.aws.address) as gate:
        yield gate


def client(gate: FaultProxy, tries: int = 1) -> S3Client:
    """A boto3 client that goes through the gate."""
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": tries, "mode": "standard"},
    )
    session = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name=REGION)
    return session.client("s3", endpoint_url=gate.url, config=config)


def test_objects_pass_as_they_are(sandbox: Sandbox, gate: FaultProxy) -> None:
    """Bodies of any length, metadata and parts come out as they went in, and HEAD has no body."""
    s3, bucket, key = client(gate), sandbox.bucket, "a b/ü.bin"
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
    assert [entry.method for entry in gate.log].count("PUT") == 4


def test_signatures_hold_through_the_gate(sandbox: Sandbox, gate: FaultProxy) -> None:
    """The Host that was signed is the Host that arrives: a presigned URL works, and one that was changed does not."""
    sandbox.put_image("images/a.jpg", b"x")
    params = {"Bucket": sandbox.bucket, "Key": "images/a.jpg"}
    url = client(gate).generate_presigned_url("get_object", params)
    assert url.startswith(gate.url)
    assert httpx.get(url).content == b"x"
    assert httpx.get(url.replace("Expires=3600", "Expires=3601")).status_code == HTTPStatus.FORBIDDEN


def test_chunked_bodies_pass(sandbox: Sandbox, gate: FaultProxy) -> None:
    """A body that comes in chunks arrives whole."""
    params = {"Bucket": sandbox.bucket, "Key": "chunked"}
    url = client(gate).generate_presigned_url("put_object", params)
    assert httpx.put(url, content=iter([b"one ", b"two ", BIG])).is_success
    assert sandbox.read("chunked") == b"one two " + BIG


def test_who_asks_before_sending_a_body_is_answered(gate: FaultProxy) -> None:
    """`Expect: 100-continue` gets its 100 before any byte of the body is sent."""
    head = (
        f"PUT /no-such-bucket/key HTTP/1.1\r\nHost: {gate.address}\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection((gate.host, gate.port), timeout=5) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"abc")
        assert connection.recv(1000).startswith(b"HTTP/1.1 404 ")


def test_answers_come_with_the_servers_own_headers(sandbox: Sandbox, gate: FaultProxy) -> None:
    """Names, spelling and order of an answer's headers are the server's."""
    path = f"/{sandbox.bucket}?list-type=2"
    direct, through = (httpx.get(url + path).headers.raw for url in (sandbox.aws.url, gate.url))
    assert [name for name, _ in through] == [name for name, _ in direct]


@pytest.mark.parametrize(("when", "there"), [("before", []), ("after", ["key"])])
@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "InternalError"), (503, "SlowDown"), (403, "AccessDenied"), (409, "ConditionalRequestConflict")],
)
def test_a_failure_is_worded_as_s3_does(
    sandbox: Sandbox, gate: FaultProxy, status: int, code: str, when: Literal["before", "after"], there: list[str]
) -> None:
    """boto3 reads status and code of a scripted failure; the request was done only where it fails after."""
    gate.add(FaultRule("fail", "PUT", "key", when=when, status=status, code=code))
    with pytest.raises(ClientError) as failure:
        client(gate).put_object(Bucket=sandbox.bucket, Key="key", Body=b"x")
    assert failure.value.response["Error"].get("Code") == code
    assert failure.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert sandbox.keys() == there


@pytest.mark.parametrize(("when", "there"), [("before", []), ("after", ["key"])])
def test_a_dropped_connection_brings_no_answer(
    sandbox: Sandbox, gate: FaultProxy, when: Literal["before", "after"], there: list[str]
) -> None:
    """The answer is lost, and only after it was done is there something."""
    gate.add(FaultRule("drop", "PUT", when=when))
    with pytest.raises(HTTPClientError):
        client(gate).put_object(Bucket=sandbox.bucket, Key="key", Body=b"x")
    assert sandbox.keys() == there
    assert [(entry.forwarded, entry.answered) for entry in gate.log] == [(when == "after", False)]


def test_boto3_gets_412_for_a_write_of_its_own_whose_answer_was_lost(sandbox: Sandbox, gate: FaultProxy) -> None:
    """What the ledger has to recognise does happen: boto3 repeats a conditional write and loses against itself."""
    gate.add(FaultRule("drop", "PUT", when="after"))
    with pytest.raises(ClientError) as failure:
        client(gate, tries=2).put_object(Bucket=sandbox.bucket, Key="key", Body=b"x", IfNoneMatch="*")
    assert failure.value.response["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.PRECONDITION_FAILED
    assert sandbox.read("key") == b"x"


@pytest.mark.parametrize(("when", "there"), [("before", []), ("after", ["key"])])
def test_a_process_is_killed_at_its_request(
    sandbox: Sandbox, gate: FaultProxy, when: Literal["before", "after"], there: list[str]
) -> None:
    """The process with that id is gone, before its request was passed on or after it was done."""
    params = {"Bucket": sandbox.bucket, "Key": "key"}
    url = client(gate).generate_presigned_url("put_object", params)
    code = f"import sys, httpx; sys.stdin.readline(); httpx.put({url!r}, content=b'x')"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:  # noqa: S603 - our own
        gate.add(FaultRule("kill", "PUT", when=when, pid=process.pid))
        process.communicate(b"go\n")
    gate.wait_idle()
    assert process.returncode == -signal.SIGKILL
    assert sandbox.keys() == there


def test_a_toll_counts_what_matches(sandbox: Sandbox, gate: FaultProxy) -> None:
    """Method, path, body, how many pass first and how often: only those that match in all are stopped."""
    toll = gate.add(FaultRule("fail", "PUT", r"/key\d", "stop", skip=1, times=2, status=403))
    s3, failed = client(gate), []
    for number in range(6):
        for key, body in ((f"key{number}", b"stop"), (f"key{number}", b"go"), (f"other{number}", b"stop")):
            try:
                s3.put_object(Bucket=sandbox.bucket, Key=key, Body=body)
            except ClientError:
                failed.append((key, body))
    assert failed == [("key1", b"stop"), ("key2", b"stop")]
    assert (toll.hits, gate.log[0].status) == (2, HTTPStatus.OK)
    gate.reset()
    assert gate.log == []


def _put_in_vain(url: str) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.put(url, content=b"x", timeout=1)


def test_a_held_request_waits_for_nobody_else(sandbox: Sandbox, gate: FaultProxy) -> None:
    """A held request is done and never answered, until whoever asked leaves; others pass meanwhile."""
    gate.add(FaultRule("hold", "PUT", when="after"))
    url = client(gate).generate_presigned_url("put_object", {"Bucket": sandbox.bucket, "Key": "key"})
    waiting = threading.Thread(target=_put_in_vain, args=(url,))
    waiting.start()
    while not sandbox.keys("key"):
        assert waiting.is_alive()
    assert client(gate).list_objects_v2(Bucket=sandbox.bucket)["KeyCount"] == 1
    waiting.join()
    gate.wait_idle(1)


def test_links_lead_back_through_a_gate_that_relinks(sandbox: Sandbox) -> None:
    """In what such a gate answers, its own address stands for the server's."""
    with FaultProxy(sandbox.aws.address, rewrite_address=True) as gate:
        sandbox.s3().put_object(Bucket=sandbox.bucket, Key="link", Body=f"see {sandbox.aws.url}/x".encode())
        url = client(gate).generate_presigned_url("get_object", {"Bucket": sandbox.bucket, "Key": "link"})
        assert httpx.get(url).text == f"see {gate.url}/x"
