"""The provider emulator: what it takes, what it answers, what it bills."""

from __future__ import annotations

import io
import json
import time
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
from sandbox.vendor_client import MODEL, PRO, STANDARD, VendorClient
from tests.support.paths import FIXTURES


@pytest.fixture
def caller(provider: Provider) -> Iterator[VendorClient]:
    """Speaks the vendor's contract and shares nothing with i2v."""
    with VendorClient(provider) as caller:
        yield caller


def signed(sandbox: Sandbox, data: bytes, key: str = "images/a b.jpg") -> str:
    """A presigned URL of an image that lies in the bucket."""
    return sandbox.presign(sandbox.put_image(key, data))


def _picture(frame: av.VideoFrame) -> Image.Image:
    picture: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
    return picture


@pytest.mark.parametrize(
    ("mode", "duration", "width", "height", "cost"),
    [
        (STANDARD, 6, 1024, 768, "0.192"),
        (STANDARD, "10", 1024, 768, "0.320"),
        (PRO, None, 1440, 1080, "0.33"),
        (PRO, 10, 1440, 1080, "0.33"),
    ],
)
def test_video_is_made_from_the_image_as_ordered(
    sandbox: Sandbox, caller: VendorClient, mode: str, duration: Any, width: int, height: int, cost: str
) -> None:
    """An order becomes a real h264 file of the ordered size and length, and is billed by the vendor's table."""
    data = caller.end(signed(sandbox, make_jpeg(640, 480)), mode=mode, duration=duration)
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
    assert caller.provider.billed_usd == Decimal(cost)
    assert caller.client.get("/apikeys/current-balance").json()["data"] == float(1000 - Decimal(cost))


def test_first_frame_shows_the_image(sandbox: Sandbox, caller: VendorClient) -> None:
    """Different images become different videos, and each shows its own colours."""
    for number, colour in enumerate([(200, 30, 30), (30, 30, 200)]):
        buffer = io.BytesIO()
        Image.new("RGB", (400, 400), colour).save(buffer, "PNG")
        data = caller.end(signed(sandbox, buffer.getvalue(), f"images/{number}.png"))
        url = json.loads(data["resultJson"])["resultUrls"][0]
        with av.open(io.BytesIO(httpx.get(url, trust_env=False).content), "r", format="mp4") as video:
            shown = _picture(next(video.decode(video=0))).getpixel((384, 384))
        assert isinstance(shown, tuple)
        assert all(abs(seen - sent) < 12 for seen, sent in zip(shown, colour, strict=True))


@pytest.mark.parametrize(
    ("body", "said"),
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
def test_wrong_body_is_refused_and_costs_nothing(caller: VendorClient, body: Any, said: str) -> None:
    """What the contract does not allow is answered 400 in the vendor's envelope, and nothing is billed."""
    answer = caller.post(body)
    assert answer.status_code == answer.json()["code"] == 400
    assert answer.json()["message"] == "Invalid request"
    assert said in answer.json()["data"]["error"]
    assert caller.provider.tasks == {}
    assert caller.provider.billed_usd == 0


def test_wrong_key_model_and_task_are_refused(caller: VendorClient) -> None:
    """A wrong key is 401 everywhere; an unknown model or task is 404; all in the envelope."""
    url = "https://example.com/a.jpg"
    assert (
        caller.client.post(f"/generateTask/{MODEL}", json={}, headers={"Authorization": "Bearer x"}).status_code == 401
    )
    for path in (f"/statusTask/{MODEL}?taskId=x", "/apikeys/current-balance"):
        answer = caller.client.get(path, headers={"Authorization": "sandbox-key"})
        assert answer.status_code == answer.json()["code"] == 401
    for answer in (
        caller.client.post("/generateTask/hailuo-9", json={"input": {"image_urls": [url]}}),
        caller.client.get(f"/statusTask/{MODEL}?taskId=task_0"),
        caller.client.get("/nothing"),
    ):
        assert answer.status_code == answer.json()["code"] == 404
    assert [entry.outcome for entry in caller.provider.request_log.find("submit")] == ["401", "404"]


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
def test_image_is_really_fetched_and_checked(
    sandbox: Sandbox, caller: VendorClient, image: bytes, code: str | None
) -> None:
    """An image that breaks the vendor's rules becomes a failed task, one at the very edge of them a video."""
    data = caller.end(signed(sandbox, image))
    assert data.get("failCode") == code
    assert data["state"] == ("failed" if code else "success")
    assert ("resultJson" in data) is (code is None)


def test_image_without_a_live_signature_is_not_fetched(sandbox: Sandbox, caller: VendorClient) -> None:
    """An S3 URL without a signature, a missing object and a dead host fail as a download."""
    url = signed(sandbox, make_jpeg())
    dead = "http://127.0.0.1:9/a.jpg"
    for broken in (url.split("?")[0], url.replace("a%20b", "c"), dead):
        assert caller.end(broken)["failCode"] == "IMAGE_DOWNLOAD_FAILED"


def test_no_balance_no_task(sandbox: Sandbox, caller: VendorClient) -> None:
    """Below the price a submit is answered 402 and nothing is made."""
    caller.provider.set_options(balance_usd="0.191")
    answer = caller.submit(signed(sandbox, make_jpeg()))
    assert answer.status_code == answer.json()["code"] == 402
    assert caller.provider.balance_usd == Decimal("0.191")


def test_limits_answer_429(sandbox: Sandbox, caller: VendorClient) -> None:
    """Both limits answer 429, with Retry-After only where that is set."""
    url = signed(sandbox, make_jpeg())
    caller.provider.set_options(running_limit=1, render_seconds=60)
    assert caller.submit(url).status_code == 200
    answer = caller.submit(url)
    assert (answer.status_code, answer.headers.get("retry-after")) == (429, None)
    caller.provider.set_options(running_limit=None, requests_per_second=1, retry_after=3)
    assert [caller.submit(url).headers.get("retry-after") for _ in range(3)].count("3") >= 2
    assert len(caller.provider.tasks) == 2


def test_result_link_ends_and_comes_fresh(sandbox: Sandbox, caller: VendorClient) -> None:
    """A link that is over or forged is 403, and the next status brings a live one."""
    caller.provider.set_options(url_seconds=0.05)
    data = caller.end(signed(sandbox, make_jpeg()))
    (url,) = json.loads(data["resultJson"])["resultUrls"]
    time.sleep(0.06)
    assert httpx.get(url, trust_env=False).status_code == 403
    caller.provider.set_options(url_seconds=60)
    fresh = json.loads(caller.status(data["taskId"]).json()["data"]["resultJson"])["resultUrls"][0]
    assert httpx.get(fresh, trust_env=False).status_code == 200
    assert httpx.get(fresh[:-1] + "x", trust_env=False).status_code == 403


def test_journal_tells_who_was_billed_for_what(sandbox: Sandbox, caller: VendorClient) -> None:
    """The journal counts bills by image and request, and status requests by task; equal images are rendered once."""
    image = make_jpeg(500, 400, seed=77)
    made = caller.provider.videos_rendered
    one, two = (caller.end(signed(sandbox, image, key))["taskId"] for key in ("images/1.jpg", "images/2.jpg"))
    assert list(caller.provider.billed().values()) == [2]
    assert caller.provider.status_requests() == {one: 1, two: 1}
    assert caller.provider.videos_rendered == made + 1
    told = httpx.get(f"{caller.provider.url}/_sandbox/journal?endpoint=submit", trust_env=False).json()["entries"]
    assert [entry["billed_usd"] for entry in told] == ["0.192", "0.192"]
    tasks = httpx.get(f"{caller.provider.url}/_sandbox/tasks", trust_env=False)
    assert "Signature" not in tasks.text
    assert tasks.json()["billed_usd"] == "0.384"


def test_shared_rendering_makes_one_film_a_size(sandbox: Sandbox, caller: VendorClient) -> None:
    """With render=shared, hundreds of different images of one size cost one rendering."""
    caller.provider.set_options(render="shared")
    made = caller.provider.videos_rendered
    for seed in range(3):
        assert caller.end(signed(sandbox, make_jpeg(610, 480, seed), f"images/{seed}.jpg"))["state"] == "success"
    assert caller.provider.videos_rendered == made + 1


def test_video_can_be_filled_up(sandbox: Sandbox, caller: VendorClient) -> None:
    """For measurements a video can be as long as the vendor's, and is still a whole mp4."""
    caller.provider.set_options(file_bytes=3_000_000)
    (url,) = json.loads(caller.end(signed(sandbox, make_jpeg()))["resultJson"])["resultUrls"]
    content = httpx.get(url, trust_env=False).content
    assert len(content) == 3_000_000
    with av.open(io.BytesIO(content), "r", format="mp4") as video:
        assert sum(1 for packet in video.demux() if packet.size) == video.streams.video[0].frames == 24


def test_answers_have_the_shape_of_the_published_examples(sandbox: Sandbox, caller: VendorClient) -> None:
    """Field by field, every answer has the names and types of the vendor's own examples, and his bodies are taken."""
    url = signed(sandbox, make_jpeg())
    caller.provider.set_options(render_seconds=1)
    submitted = caller.submit(url).json()
    processing = caller.status(submitted["data"]["taskId"]).json()
    caller.provider.set_options(render_seconds=0)
    success = caller.status(caller.end(url)["taskId"]).json()
    failed = caller.status(caller.end(url.split("?")[0])["taskId"]).json()
    balance = caller.client.get("/apikeys/current-balance").json()
    told = {"submit_answer": submitted, "status_processing": processing, "status_success": success}
    told |= {"status_failed": failed, "balance": balance, "error": caller.post({}).json()}
    assert {name: shape(answer) for name, answer in told.items()} == {name: shape(example(name)) for name in told}
    assert shape(json.loads(success["data"]["resultJson"])) == {"resultUrls": [str]}
    caller.provider.add_fault(on="image", kind="fails", times=None)
    caller.provider.add_fault(on="callback", kind="lost", times=None)
    for name in ("submit_standard", "submit_pro", "submit_callback"):
        assert caller.post(example(name)).status_code == 200


def example(name: str) -> Any:
    """One of the vendor's published examples."""
    return json.loads((FIXTURES / "apixo" / f"{name}.json").read_text())


def shape(value: Any) -> Any:
    """Names and types without values."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    return [shape(part) for part in value] if isinstance(value, list) else type(value)


def test_control_over_http(caller: VendorClient) -> None:
    """Another process can turn the dials and reset; a wrong dial is refused."""
    url = f"{caller.provider.url}/_sandbox"
    with httpx.Client(trust_env=False) as client:
        answer = client.post(f"{url}/settings", json={"render_seconds": 9, "balance_usd": "5"})
        assert answer.json()["render_seconds"] == 9
        assert caller.provider.balance_usd == 5
        assert client.post(f"{url}/settings", json={"speed": 9}).status_code == 400
        assert client.post(f"{url}/reset").json() == {"reset": True}
        assert caller.provider.balance_usd == 1000
        assert caller.provider.options.render_seconds == 0.2
