"""Scripted faults of the emulator: each happens on the wire, to the right request, as often as scripted."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import av
import httpx
import pytest

from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.vendor_client import MODEL, VendorClient

PRICE = Decimal("0.192")


@pytest.fixture
def client(provider: Provider) -> Iterator[VendorClient]:
    """Return a client that shares nothing with i2v."""
    with VendorClient(provider) as client:
        yield client


@pytest.fixture
def url(sandbox: Sandbox) -> str:
    """Return a presigned URL of a valid image."""
    return sandbox.presign(sandbox.put_image("images/a.jpg", make_jpeg()))


def raw_submit(provider: Provider, image_url: str) -> bytes:
    """Submit on a bare socket and return everything until the server closes."""
    fields = {"mode": "pro-image-to-video", "prompt": "p", "image_urls": [image_url]}
    body = json.dumps({"input": fields}).encode()
    head = (
        f"POST /api/v1/generateTask/{MODEL} HTTP/1.1\r\nHost: {provider.address}\r\n"
        f"Authorization: Bearer sandbox-key\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((provider.host, provider.port), 5) as connection:
        connection.sendall(head.encode() + body)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


@pytest.mark.parametrize(
    ("kind", "accepted", "resets"),
    [("drop", False, False), ("reset", False, True), ("lost_answer", True, False), ("reset_answer", True, True)],
)
def test_a_response_is_lost_before_or_after_the_bill(
    provider: Provider, url: str, kind: str, accepted: bool, resets: bool
) -> None:
    """The connection is closed or reset without a byte of a response, and billed only if the kind says so."""
    script = provider.add_fault(on="submit", kind=kind)
    if resets:
        with pytest.raises(ConnectionResetError):
            raw_submit(provider, url)
    else:
        assert raw_submit(provider, url) == b""
    assert len(provider.tasks) == accepted
    assert (provider.billed_usd > 0) is accepted
    assert script.hits == 1
    assert [(entry.fault, entry.outcome) for entry in provider.request_log.find("submit")] == [(kind, kind)]


@pytest.mark.parametrize(
    ("fault", "status", "body"),
    [
        ({"kind": "empty"}, 200, b""),
        ({"kind": "no_task_id"}, 200, b'{"code": 200, "message": "success", "data": {}}'),
        ({"kind": "answer", "status": 504, "body": "<html>"}, 504, b"<html>"),
        ({"kind": "answer", "status": 200, "document": {"code": 500}}, 200, b'{"code":500}'),
    ],
)
def test_a_scripted_body_is_sent(
    client: VendorClient, url: str, fault: dict[str, Any], status: int, body: bytes
) -> None:
    """A 200 can be empty or without a task id, and any status can have any body."""
    client.provider.add_fault(on="submit", **fault)
    answer = client.submit(url)
    assert (answer.status_code, answer.content) == (status, body)
    assert len(client.provider.tasks) == (fault["kind"] != "answer")


@pytest.mark.parametrize("on", ["submit", "status", "balance"])
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429, 500, 502, 503, 504])
def test_every_status_code_can_be_scripted(client: VendorClient, url: str, on: str, status: int) -> None:
    """Every HTTP code of the contract can be scripted at every endpoint, once, with Retry-After and a message."""
    client.provider.add_fault(on=on, kind="answer", status=status, retry_after="7", message="as scripted")
    calls = {
        "submit": lambda: client.submit(url),
        "status": lambda: client.status("task_0"),
        "balance": lambda: client.http.get("/apikeys/current-balance"),
    }
    answer = calls[on]()
    assert answer.status_code == answer.json()["code"] == status
    assert (answer.json()["message"], answer.headers["retry-after"]) == ("as scripted", "7")
    assert client.provider.billed_usd == 0
    assert calls[on]().status_code == (404 if on == "status" else 200)


def test_garbage_html_and_not_http(client: VendorClient, url: str) -> None:
    """A body that is not JSON, an HTML page, and bytes that are not HTTP; each submit was billed."""
    for kind in ("garbage", "html", "not_http"):
        client.provider.add_fault(on="submit", kind=kind)
    assert client.submit(url).content.startswith(b'{"code": 200, "mess')
    page = client.submit(url)
    assert page.headers["content-type"] == "text/html"
    assert page.content.startswith(b"<html>")
    with pytest.raises(httpx.RemoteProtocolError):
        client.submit(url)
    assert client.provider.billed_usd == 3 * PRICE


def test_a_fail_code_instead_of_a_task(client: VendorClient, url: str) -> None:
    """A submit can be answered 200 with a fail code."""
    client.provider.add_fault(on="submit", kind="fail_code", code="SensitiveContent")
    assert client.submit(url).json()["data"]["failCode"] == "SensitiveContent"


def test_cut_and_late_responses(client: VendorClient, url: str) -> None:
    """A response can be shorter than announced, or late."""
    task = client.run_to_end(url)
    client.provider.add_fault(on="status", kind="cut")
    with pytest.raises(httpx.RemoteProtocolError):
        client.status(task["taskId"])
    client.provider.add_fault(on="status", kind="late", seconds=0.3)
    began = time.monotonic()
    assert client.status(task["taskId"]).json()["data"]["state"] == "success"
    assert time.monotonic() - began > 0.28


def test_a_fault_applies_to_the_matching_requests(client: VendorClient, url: str) -> None:
    """Conditions, skip and times select the requests; the same seed gives the same random selection."""
    client.provider.add_fault(on="submit", kind="answer", status=502, prompt="cat", skip=1, times=2)
    answers = [client.submit(url, prompt=prompt).status_code for prompt in ("a cat", "a dog", "cat", "cats", "cat")]
    assert answers == [200, 200, 502, 502, 200]
    client.provider.clear_faults()
    client.provider.add_fault(on="balance", kind="answer", probability=0.5, seed=3, times=None)
    first = [client.http.get("/apikeys/current-balance").status_code for _ in range(20)]
    client.provider.clear_faults()
    client.provider.add_fault(on="balance", kind="answer", probability=0.5, seed=3, times=None)
    assert [client.http.get("/apikeys/current-balance").status_code for _ in range(20)] == first
    assert set(first) == {200, 500}


def test_an_unknown_fault_is_rejected(provider: Provider) -> None:
    """An unknown fault is rejected with the names of the known ones."""
    with pytest.raises(ValueError, match="lost_answer"):
        provider.add_fault(on="submit", kind="explode")


def test_faults_over_http(client: VendorClient) -> None:
    """Another process can script, count and clear faults."""
    address = f"{client.provider.url}/_sandbox/faults"
    with httpx.Client(trust_env=False) as http:
        http.post(address, json={"on": "balance", "kind": "answer", "status": 503})
        assert client.http.get("/apikeys/current-balance").status_code == 503
        assert http.get(address).json()["faults"][0]["hits"] == 1
        assert http.post(address, json={"on": "balance", "kind": "no"}).status_code == 400
        assert http.delete(address).json() == {"faults": []}


def test_a_task_fails_with_the_scripted_code(client: VendorClient, url: str) -> None:
    """A task can fail with any code, and stays billed."""
    client.provider.add_fault(on="task", kind="fails", code="NSFW", message="no")
    data = client.run_to_end(url)
    assert (data["state"], data["failCode"], data["failMsg"]) == ("failed", "NSFW", "no")
    assert client.provider.billed_usd == PRICE


def test_a_video_differs_from_the_request(client: VendorClient, url: str) -> None:
    """The file can have another size or length than requested."""
    client.provider.add_fault(on="task", kind="wrong_size", pixels=480)
    client.provider.add_fault(on="task", kind="wrong_length", seconds=3)
    sizes = []
    for _ in range(2):
        with av.open(io.BytesIO(download(client, url).content), "r", format="mp4") as video:
            sizes.append((video.streams.video[0].height, video.duration))
    assert sizes == [(480, 6_000_000), (768, 3_000_000)]


def download(client: VendorClient, url: str) -> httpx.Response:
    """Submit a video and download its file once."""
    (result,) = json.loads(client.run_to_end(url)["resultJson"])["resultUrls"]
    return httpx.get(result, trust_env=False)


def test_file_faults(client: VendorClient, url: str) -> None:
    """The file can be truncated, of another type, temporarily missing, or cut off."""
    whole = download(client, url).content
    client.provider.add_fault(on="file", kind="truncated")
    client.provider.add_fault(on="file", kind="jpeg")
    client.provider.add_fault(on="file", kind="html")
    client.provider.add_fault(on="file", kind="answer", status=404)
    client.provider.add_fault(on="file", kind="cut")
    client.provider.add_fault(on="status", kind="expired_url", skip=5)
    short = download(client, url)
    assert len(short.content) == len(whole) * 7 // 10 == int(short.headers["content-length"])
    assert download(client, url).content.startswith(b"\xff\xd8")
    assert download(client, url).headers["content-type"] == "text/html"
    assert download(client, url).status_code == 404
    with pytest.raises(httpx.RemoteProtocolError):
        download(client, url)
    assert download(client, url).status_code == 403
    assert download(client, url).content == whole


def test_an_image_download_can_fail(client: VendorClient, url: str) -> None:
    """The provider can fail to fetch an image that exists."""
    client.provider.add_fault(on="image", kind="fails", code="INVALID_IMAGE_URL", image="a.jpg")
    assert client.run_to_end(url)["failCode"] == "INVALID_IMAGE_URL"
