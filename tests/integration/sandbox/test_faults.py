"""Scripted faults of the emulator: each really happens on the wire, to whom it was meant for, as often as ordered."""

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
from sandbox.vendor_client import MODEL, VendorClient

PRICE = Decimal("0.192")


@pytest.fixture
def caller(provider: Provider) -> Iterator[VendorClient]:
    """Speaks the vendor's contract and shares nothing with i2v."""
    with VendorClient(provider) as caller:
        yield caller


@pytest.fixture
def url(sandbox: Sandbox) -> str:
    """A presigned URL of a good image."""
    return sandbox.presign(sandbox.put_image("images/a.jpg", make_jpeg()))


def raw_submit(provider: Provider, image_url: str) -> bytes:
    """Submit on a bare socket and return all that comes until the server closes."""
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
def test_answer_is_lost_before_or_after_it_was_billed(
    provider: Provider, url: str, kind: str, accepted: bool, resets: bool
) -> None:
    """Closing and resetting really happen, without a byte of an answer, and bill exactly where they say so."""
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


@pytest.mark.parametrize("accepted", [False, True])
def test_hanging_submit_never_answers(caller: VendorClient, url: str, accepted: bool) -> None:
    """A hanging submit ends only by the client's own timeout, billed or not as ordered."""
    caller.provider.add_fault(on="submit", kind="hang", accepted=accepted)
    caller.client.timeout = httpx.Timeout(0.3)
    with pytest.raises(httpx.ReadTimeout):
        caller.submit(url)
    assert len(caller.provider.tasks) == accepted


@pytest.mark.parametrize(
    ("fault", "status", "body"),
    [
        ({"kind": "empty"}, 200, b""),
        ({"kind": "no_task_id"}, 200, b'{"code": 200, "message": "success", "data": {}}'),
        ({"kind": "answer", "status": 504, "body": "<html>"}, 504, b"<html>"),
        ({"kind": "answer", "status": 200, "document": {"code": 500}}, 200, b'{"code":500}'),
    ],
)
def test_body_is_what_was_ordered(
    caller: VendorClient, url: str, fault: dict[str, Any], status: int, body: bytes
) -> None:
    """A 200 may come empty or without its task id, and any status with any body."""
    caller.provider.add_fault(on="submit", **fault)
    answer = caller.submit(url)
    assert (answer.status_code, answer.content) == (status, body)
    assert len(caller.provider.tasks) == (fault["kind"] != "answer")


@pytest.mark.parametrize("on", ["submit", "status", "balance"])
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429, 500, 502, 503, 504])
def test_every_code_comes_in_the_envelope(caller: VendorClient, url: str, on: str, status: int) -> None:
    """Every HTTP code of the contract can be ordered at every endpoint, once, with Retry-After and a message."""
    caller.provider.add_fault(on=on, kind="answer", status=status, retry_after="7", message="as ordered")
    calls = {
        "submit": lambda: caller.submit(url),
        "status": lambda: caller.status("task_0"),
        "balance": lambda: caller.client.get("/apikeys/current-balance"),
    }
    answer = calls[on]()
    assert answer.status_code == answer.json()["code"] == status
    assert (answer.json()["message"], answer.headers["retry-after"]) == ("as ordered", "7")
    assert caller.provider.billed_usd == 0
    assert calls[on]().status_code == (404 if on == "status" else 200)


def test_garbage_html_and_no_http(caller: VendorClient, url: str) -> None:
    """A body that is no JSON, a page for people, and bytes that are no HTTP at all; each was billed."""
    for kind in ("garbage", "html", "not_http"):
        caller.provider.add_fault(on="submit", kind=kind)
    assert caller.submit(url).content.startswith(b'{"code": 200, "mess')
    page = caller.submit(url)
    assert page.headers["content-type"] == "text/html"
    assert page.content.startswith(b"<html>")
    with pytest.raises(httpx.RemoteProtocolError):
        caller.submit(url)
    assert caller.provider.billed_usd == 3 * PRICE


def test_fail_code_in_place_of_a_task(caller: VendorClient, url: str) -> None:
    """A submit may be answered 200 with a fail code."""
    caller.provider.add_fault(on="submit", kind="fail_code", code="SensitiveContent")
    assert caller.submit(url).json()["data"]["failCode"] == "SensitiveContent"


def test_cut_late_and_dripping(caller: VendorClient, url: str) -> None:
    """An answer may promise more than it brings, come late, or come in drops."""
    task = caller.end(url)
    caller.provider.add_fault(on="status", kind="cut")
    with pytest.raises(httpx.RemoteProtocolError):
        caller.status(task["taskId"])
    for kind in ("late", "drip"):
        caller.provider.add_fault(on="status", kind=kind, seconds=0.3)
        began = time.monotonic()
        assert caller.status(task["taskId"]).json()["data"]["state"] == "success"
        assert 0.28 < time.monotonic() - began < 2


def test_fault_strikes_whom_it_was_meant_for(caller: VendorClient, url: str) -> None:
    """Conditions, skip and times choose the request; chance is the same for the same seed."""
    caller.provider.add_fault(on="submit", kind="answer", status=502, prompt="cat", skip=1, times=2)
    answers = [caller.submit(url, prompt=prompt).status_code for prompt in ("a cat", "a dog", "cat", "cats", "cat")]
    assert answers == [200, 200, 502, 502, 200]
    caller.provider.clear_faults()
    caller.provider.add_fault(on="balance", kind="answer", probability=0.5, seed=3, times=None)
    first = [caller.client.get("/apikeys/current-balance").status_code for _ in range(20)]
    caller.provider.clear_faults()
    caller.provider.add_fault(on="balance", kind="answer", probability=0.5, seed=3, times=None)
    assert [caller.client.get("/apikeys/current-balance").status_code for _ in range(20)] == first
    assert set(first) == {200, 500}


def test_unknown_fault_is_refused(provider: Provider) -> None:
    """A fault that does not exist is refused with the names of those that do."""
    with pytest.raises(ValueError, match="lost_answer"):
        provider.add_fault(on="submit", kind="explode")


def test_faults_over_http(caller: VendorClient) -> None:
    """Another process can script, count and clear faults."""
    address = f"{caller.provider.url}/_sandbox/faults"
    with httpx.Client(trust_env=False) as client:
        client.post(address, json={"on": "balance", "kind": "answer", "status": 503})
        assert caller.client.get("/apikeys/current-balance").status_code == 503
        assert client.get(address).json()["faults"][0]["hits"] == 1
        assert client.post(address, json={"on": "balance", "kind": "no"}).status_code == 400
        assert client.delete(address).json() == {"faults": []}


def test_task_fails_with_the_ordered_code(caller: VendorClient, url: str) -> None:
    """A task can fail with any code, and whether it stays billed is a setting."""
    caller.provider.add_fault(on="task", kind="fails", code="NSFW", message="no", times=2)
    data = caller.end(url)
    assert (data["state"], data["failCode"], data["failMsg"]) == ("failed", "NSFW", "no")
    assert caller.provider.billed_usd == PRICE
    caller.provider.set_options(bill_failed=False)
    caller.end(url)
    assert caller.provider.billed_usd == PRICE


def test_unknown_word_for_running_and_bare_success(caller: VendorClient, url: str) -> None:
    """A running task can be called anything, and a success can come without its times."""
    caller.provider.add_fault(on="task", kind="state", state="processing_r2")
    caller.provider.add_fault(on="task", kind="bare")
    task_id = caller.submit(url).json()["data"]["taskId"]
    assert caller.status(task_id).json()["data"]["state"] == "processing_r2"
    data = caller.end(url)
    assert data["state"] == "success"
    assert not {"completeTime", "costTime"} & set(data)


def test_stuck_task_never_ends(caller: VendorClient, url: str) -> None:
    """A stuck task is still processing long after its time."""
    caller.provider.set_options(render_seconds=0.05)
    caller.provider.add_fault(on="task", kind="stuck")
    task_id = caller.submit(url).json()["data"]["taskId"]
    time.sleep(0.4)
    assert caller.status(task_id).json()["data"]["state"] == "processing"


def test_video_differs_from_what_was_ordered(caller: VendorClient, url: str) -> None:
    """The delivered file can have another size or length than ordered."""
    caller.provider.add_fault(on="task", kind="wrong_size", pixels=480)
    caller.provider.add_fault(on="task", kind="wrong_length", seconds=3)
    seen = []
    for _ in range(2):
        with av.open(io.BytesIO(download(caller, url).content), "r", format="mp4") as video:
            seen.append((video.streams.video[0].height, video.duration))
    assert seen == [(480, 6_000_000), (768, 3_000_000)]


def download(caller: VendorClient, url: str) -> httpx.Response:
    """Order a video and fetch its file once."""
    (result,) = json.loads(caller.end(url)["resultJson"])["resultUrls"]
    return httpx.get(result, trust_env=False)


def test_file_faults(caller: VendorClient, url: str) -> None:
    """The file can be shorter than it is, something else, dead for a while, or broken off."""
    whole = download(caller, url).content
    caller.provider.add_fault(on="file", kind="truncated")
    caller.provider.add_fault(on="file", kind="jpeg")
    caller.provider.add_fault(on="file", kind="html")
    caller.provider.add_fault(on="file", kind="answer", status=404)
    caller.provider.add_fault(on="file", kind="cut")
    caller.provider.add_fault(on="status", kind="expired_url", skip=5)
    short = download(caller, url)
    assert len(short.content) == len(whole) * 7 // 10 == int(short.headers["content-length"])
    assert download(caller, url).content.startswith(b"\xff\xd8")
    assert download(caller, url).headers["content-type"] == "text/html"
    assert download(caller, url).status_code == 404
    with pytest.raises(httpx.RemoteProtocolError):
        download(caller, url)
    assert download(caller, url).status_code == 403
    assert download(caller, url).content == whole


def test_image_can_fail_to_arrive(caller: VendorClient, url: str) -> None:
    """The provider can fail to fetch an image that is there."""
    caller.provider.add_fault(on="image", kind="fails", code="INVALID_IMAGE_URL", image="a.jpg")
    assert caller.end(url)["failCode"] == "INVALID_IMAGE_URL"


def test_provider_can_be_away(caller: VendorClient) -> None:
    """While it is away new connections are refused, and afterwards it is as before."""
    address = f"{caller.provider.base_url}/apikeys/current-balance"
    with caller.provider.offline(), pytest.raises(httpx.ConnectError):
        httpx.get(address, trust_env=False)
    assert httpx.get(address, trust_env=False).status_code == 401
