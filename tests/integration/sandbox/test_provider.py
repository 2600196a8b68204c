"""The provider emulator: what it accepts, responds and bills."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import av
import httpx
import pytest
from PIL import Image

from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg, make_png, make_webp
from tests.support.paths import FIXTURES
from tests.support.vendor_client import MODEL, PRO, STANDARD, VendorClient


@pytest.fixture
def client(provider: Provider) -> Iterator[VendorClient]:
    """Return a client that shares nothing with i2v."""
    with VendorClient(provider) as client:
        yield client


def signed(sandbox: Sandbox, data: bytes, key: str = "images/a b.jpg") -> str:
    """Upload an image and return its presigned URL."""
    return sandbox.presign(sandbox.put_image(key, data))


def _to_image(frame: av.VideoFrame) -> Image.Image:
    image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
    return image


@pytest.mark.parametrize(
    ("mode", "duration", "width", "height", "cost"),
    [
        (STANDARD, 6, 1024, 768, "0.192"),
        (STANDARD, "10", 1024, 768, "0.320"),
        (PRO, None, 1440, 1080, "0.33"),
        (PRO, 10, 1440, 1080, "0.33"),
    ],
)
def test_a_submit_becomes_a_video_of_the_requested_size_and_length(
    sandbox: Sandbox, client: VendorClient, mode: str, duration: Any, width: int, height: int, cost: str
) -> None:
    """A submit becomes a real h264 file of the requested size and length, billed by the vendor's price list."""
    data = client.run_to_end(signed(sandbox, make_jpeg(640, 480)), mode=mode, duration=duration)
    assert data["state"] == "success"
    assert data["completeTime"] - data["createTime"] == data["costTime"] >= 200
    (url,) = json.loads(data["resultJson"])["resultUrls"]
    file = httpx.get(url, trust_env=False)
    assert file.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(file.content), "r", format="mp4") as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (width, height)
        assert video.duration == (10 if mode == STANDARD and duration == "10" else 6) * 1_000_000
        assert "synthetic" in video.metadata["comment"].lower()
    assert file.content.index(b"moov") < file.content.index(b"mdat")
    assert client.provider.billed_usd == Decimal(cost)
    assert client.http.get("/apikeys/current-balance").json()["data"] == float(1000 - Decimal(cost))


def test_first_frame_shows_the_image(sandbox: Sandbox, client: VendorClient) -> None:
    """Different images become different videos, and each shows its own colors."""
    for number, color in enumerate([(200, 30, 30), (30, 30, 200)]):
        buffer = io.BytesIO()
        Image.new("RGB", (400, 400), color).save(buffer, "PNG")
        data = client.run_to_end(signed(sandbox, buffer.getvalue(), f"images/{number}.png"))
        url = json.loads(data["resultJson"])["resultUrls"][0]
        with av.open(io.BytesIO(httpx.get(url, trust_env=False).content), "r", format="mp4") as video:
            shown = _to_image(next(video.decode(video=0))).getpixel((384, 384))
        assert isinstance(shown, tuple)
        assert all(abs(actual - sent) < 12 for actual, sent in zip(shown, color, strict=True))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ([], "body"),
        ({}, "input"),
        ({"input": {}}, "mode"),
        ({"input": {"mode": "text-to-video", "prompt": "p", "image_urls": ["http://a/b"], "duration": 6}}, "mode"),
        ({"input": {"mode": STANDARD, "image_urls": ["http://a/b"], "duration": 6}}, "prompt"),
        ({"input": {"mode": STANDARD, "prompt": "  ", "image_urls": ["http://a/b"], "duration": 6}}, "prompt"),
        ({"input": {"mode": STANDARD, "prompt": "p" * 2001, "image_urls": ["http://a/b"], "duration": 6}}, "2001"),
        ({"input": {"mode": STANDARD, "prompt": "p", "duration": 6}}, "image_urls"),
        ({"input": {"mode": STANDARD, "prompt": "p", "image_urls": [], "duration": 6}}, "image_urls"),
        ({"input": {"mode": STANDARD, "prompt": "p", "image_urls": "http://a/b", "duration": 6}}, "image_urls"),
        ({"input": {"mode": STANDARD, "prompt": "p", "image_urls": ["http://a/b"] * 2, "duration": 6}}, "image_urls"),
        ({"input": {"mode": STANDARD, "prompt": "p", "image_urls": ["ftp://a/b"], "duration": 6}}, "image_urls"),
        ({"input": {"mode": STANDARD, "prompt": "p", "image_urls": ["http://a/b"]}}, "duration"),
        ({"input": {"mode": STANDARD, "prompt": "p", "image_urls": ["http://a/b"], "duration": 7}}, "duration"),
        ({"input": {"mode": STANDARD, "prompt": "p", "image_urls": ["http://a/b"], "duration": 6.0}}, "duration"),
        ({"input": {"mode": STANDARD, "prompt": "p", "image_urls": ["http://a/b"], "duration": True}}, "duration"),
        ({"input": {"mode": PRO, "prompt": "p", "image_urls": ["http://a/b"], "seed": 1}}, "seed"),
        ({"request_type": "sync", "input": {}}, "request_type"),
        ({"request_type": "callback", "input": {}}, "callback_url"),
        ({"request_type": "callback", "callback_url": "http://example.com/", "input": {}}, "callback_url"),
        ({"request_type": "async", "callback_url": "https://example.com/", "input": {}}, "callback_url"),
        ({"provider": "cheap", "input": {}}, "provider"),
    ],
)
def test_an_invalid_body_is_rejected_and_not_billed(client: VendorClient, body: Any, error: str) -> None:
    """A body that violates the contract gets 400 in the vendor's envelope and is not billed."""
    answer = client.post(body)
    assert answer.status_code == answer.json()["code"] == 400
    assert answer.json()["message"] == "Invalid request"
    assert error in answer.json()["data"]["error"]
    assert client.provider.tasks == {}
    assert client.provider.billed_usd == 0


def test_a_wrong_key_model_or_task_is_rejected(client: VendorClient) -> None:
    """A wrong key gets 401 everywhere, an unknown model or task gets 404, all in the envelope."""
    url = "https://example.com/a.jpg"
    assert client.http.post(f"/generateTask/{MODEL}", json={}, headers={"Authorization": "Bearer x"}).status_code == 401
    for path in (f"/statusTask/{MODEL}?taskId=x", "/apikeys/current-balance"):
        answer = client.http.get(path, headers={"Authorization": "sandbox-key"})
        assert answer.status_code == answer.json()["code"] == 401
    for answer in (
        client.http.post("/generateTask/hailuo-9", json={"input": {"image_urls": [url]}}),
        client.http.get(f"/statusTask/{MODEL}?taskId=task_0"),
        client.http.get("/nothing"),
    ):
        assert answer.status_code == answer.json()["code"] == 404
    assert [entry.outcome for entry in client.provider.request_log.find("submit")] == ["401", "404"]


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (make_jpeg(301, 301), None),
        (make_png(750, 301), None),
        (make_jpeg(300, 400), "InvalidImageSize"),
        (make_jpeg(1000, 400), "InvalidImageSize"),
        (make_jpeg(400, 1000), "InvalidImageSize"),
        (make_webp(), "ImageFormatIncorrect"),
        (make_jpeg()[:-2000], "ImageFormatIncorrect"),
        (b"no image", "ImageFormatIncorrect"),
        (make_jpeg() + bytes(20 * 1024 * 1024), "IMAGE_TOO_LARGE"),
    ],
)
def test_images_are_fetched_and_checked(sandbox: Sandbox, client: VendorClient, image: bytes, code: str | None) -> None:
    """An image that breaks the vendor's rules fails the task; one at the limit becomes a video."""
    data = client.run_to_end(signed(sandbox, image))
    assert data.get("failCode") == code
    assert data["state"] == ("failed" if code else "success")
    assert ("resultJson" in data) is (code is None)


def test_an_image_url_that_cannot_be_fetched_fails_the_task(sandbox: Sandbox, client: VendorClient) -> None:
    """An S3 URL without a signature, a missing object and an unreachable host are download failures."""
    url = signed(sandbox, make_jpeg())
    dead = "http://127.0.0.1:9/a.jpg"
    for broken in (url.split("?")[0], url.replace("a%20b", "c"), dead):
        assert client.run_to_end(broken)["failCode"] == "IMAGE_DOWNLOAD_FAILED"


def test_a_low_balance_is_answered_402(sandbox: Sandbox, client: VendorClient) -> None:
    """A submit whose price exceeds the balance gets 402 and creates no task."""
    client.provider.set_options(balance_usd="0.191")
    answer = client.submit(signed(sandbox, make_jpeg()))
    assert answer.status_code == answer.json()["code"] == 402
    assert client.provider.balance_usd == Decimal("0.191")


def test_a_result_url_expires_and_is_renewed(sandbox: Sandbox, client: VendorClient) -> None:
    """An expired or forged URL gets 403, and the next status response has a valid one."""
    client.provider.add_fault(on="status", kind="expired_url", times=None)
    data = client.run_to_end(signed(sandbox, make_jpeg()))
    (url,) = json.loads(data["resultJson"])["resultUrls"]
    assert httpx.get(url, trust_env=False).status_code == 403
    client.provider.clear_faults()
    fresh = json.loads(client.status(data["taskId"]).json()["data"]["resultJson"])["resultUrls"][0]
    assert httpx.get(fresh, trust_env=False).status_code == 200
    assert httpx.get(fresh[:-1] + "x", trust_env=False).status_code == 403


def test_bills_and_requests_are_logged(sandbox: Sandbox, client: VendorClient) -> None:
    """Bills are counted by image and request, status requests by task; equal images are rendered once."""
    image = make_jpeg(500, 400, seed=77)
    made = client.provider.videos_rendered
    one, two = (client.run_to_end(signed(sandbox, image, key))["taskId"] for key in ("images/1.jpg", "images/2.jpg"))
    assert list(client.provider.billed().values()) == [2]
    assert client.provider.status_requests() == {one: 1, two: 1}
    assert client.provider.videos_rendered == made + 1
    entries = httpx.get(f"{client.provider.url}/_sandbox/requests?endpoint=submit", trust_env=False).json()["entries"]
    assert [entry["billed_usd"] for entry in entries] == ["0.192", "0.192"]
    tasks = httpx.get(f"{client.provider.url}/_sandbox/tasks", trust_env=False)
    assert "Signature" not in tasks.text
    assert tasks.json()["billed_usd"] == "0.384"


def test_shared_rendering_makes_one_video_per_size(sandbox: Sandbox, client: VendorClient) -> None:
    """With render=shared, different images of one size are rendered once."""
    client.provider.set_options(render="shared")
    made = client.provider.videos_rendered
    for seed in range(3):
        assert client.run_to_end(signed(sandbox, make_jpeg(610, 480, seed), f"images/{seed}.jpg"))["state"] == "success"
    assert client.provider.videos_rendered == made + 1


def test_a_video_can_be_padded(sandbox: Sandbox, client: VendorClient) -> None:
    """A video can be padded to the size of the vendor's and is still a complete mp4."""
    client.provider.set_options(file_bytes=3_000_000)
    (url,) = json.loads(client.run_to_end(signed(sandbox, make_jpeg()))["resultJson"])["resultUrls"]
    content = httpx.get(url, trust_env=False).content
    assert len(content) == 3_000_000
    with av.open(io.BytesIO(content), "r", format="mp4") as video:
        assert sum(1 for packet in video.demux() if packet.size) == video.streams.video[0].frames == 6


def test_responses_match_the_published_examples(sandbox: Sandbox, client: VendorClient) -> None:
    """Every response has the fields and types of the vendor's examples, and the example bodies are accepted."""
    url = signed(sandbox, make_jpeg())
    client.provider.set_options(render_seconds=1)
    submitted = client.submit(url).json()
    processing = client.status(submitted["data"]["taskId"]).json()
    client.provider.set_options(render_seconds=0)
    success = client.status(client.run_to_end(url)["taskId"]).json()
    failed = client.status(client.run_to_end(url.split("?")[0])["taskId"]).json()
    balance = client.http.get("/apikeys/current-balance").json()
    responses = {"submit_answer": submitted, "status_processing": processing, "status_success": success}
    responses |= {"status_failed": failed, "balance": balance, "error": client.post({}).json()}
    assert {name: shape(answer) for name, answer in responses.items()} == {
        name: shape(example(name)) for name in responses
    }
    assert shape(json.loads(success["data"]["resultJson"])) == {"resultUrls": [str]}
    client.provider.add_fault(on="image", kind="fails", times=None)
    client.provider.add_fault(on="callback", kind="lost", times=None)
    for name in ("submit_standard", "submit_pro", "submit_callback"):
        assert client.post(example(name)).status_code == 200


def example(name: str) -> Any:
    """Return one of the vendor's published examples."""
    return json.loads((FIXTURES / "apixo" / f"{name}.json").read_text())


def shape(value: Any) -> Any:
    """Return field names and types without values."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    return [shape(part) for part in value] if isinstance(value, list) else type(value)


def test_control_over_http(client: VendorClient) -> None:
    """Another process can change options and reset; an unknown option is rejected."""
    url = f"{client.provider.url}/_sandbox"
    with httpx.Client(trust_env=False) as http:
        answer = http.post(f"{url}/options", json={"render_seconds": 9, "balance_usd": "5"})
        assert answer.json()["render_seconds"] == 9
        assert client.provider.balance_usd == 5
        assert http.post(f"{url}/options", json={"speed": 9}).status_code == 400
        assert http.post(f"{url}/reset").json() == {"reset": True}
        assert client.provider.balance_usd == 1000
        assert client.provider.options.render_seconds == 0.2
