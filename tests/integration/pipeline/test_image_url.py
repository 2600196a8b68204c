"""What the provider fetches: the image's bytes with its own type, whatever its key and stored headers are."""

from __future__ import annotations

import httpx
import pytest

from i2v.pipeline.generate import Steps, process_order
from i2v.reports.run_report import Outcome
from sandbox import Sandbox
from sandbox.server import TIMEOUT_SECONDS
from sandbox.synthetic_images import make_jpeg
from tests.support.orders import OpenRun, order_for

IMAGE = make_jpeg(400, 320)
HEADERS = {
    "as it should be": ({"ContentType": "image/jpeg"}, False),
    "generic type": ({"ContentType": "binary/octet-stream"}, False),
    "other image type": ({"ContentType": "image/png"}, False),
    "no type": ({}, False),
    "a page": ({"ContentType": "text/html"}, True),
    "json": ({"ContentType": "application/json; charset=utf-8"}, True),
    "false encoding": ({"ContentType": "image/jpeg", "ContentEncoding": "gzip"}, True),
    "another encoding": ({"ContentEncoding": "br"}, True),
}
"""Headers that are stored with the object, and whether the provider gets a copy."""


async def fetched(sandbox: Sandbox, new_run: OpenRun, key: str) -> tuple[httpx.Response, str]:
    """Make a video of the image; return the response to its URL, as the provider gets it, and the URL."""
    async with new_run() as run:
        line = await process_order(run, await order_for(run, f"s3://{sandbox.bucket}/{key}"), Steps())
    assert line.outcome is Outcome.STORED
    (task,) = sandbox.provider.tasks.values()
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_SECONDS) as client:
        return await client.get(task.request.image_url), task.request.image_url


@pytest.mark.parametrize("case", HEADERS)
async def test_the_provider_gets_the_right_type(sandbox: Sandbox, new_run: OpenRun, case: str) -> None:
    """The response has the image's type, no encoding, and the bytes that were validated."""
    stored, copied = HEADERS[case]
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key="images/a.jpg", Body=IMAGE, **stored)  # type: ignore[arg-type]
    response, url = await fetched(sandbox, new_run, "images/a.jpg")
    assert (response.status_code, response.content) == (200, IMAGE)
    assert response.headers["content-type"] == "image/jpeg"
    assert "content-encoding" not in response.headers
    assert ("/jobs/inputs/" in url) == copied


@pytest.mark.parametrize("key", ["images/./a.jpg", "images/x/../a.jpg", "images//a.jpg", "/images/a.jpg"])
async def test_a_key_that_clients_fold_is_handed_over_as_a_copy(sandbox: Sandbox, new_run: OpenRun, key: str) -> None:
    """Clients resolve dots in a path and servers merge slashes, so the provider gets a plain key."""
    sandbox.put_image("images/a.jpg", make_jpeg(400, 320, seed=2))  # what a folded key would name
    sandbox.put_image(key, IMAGE)
    response, url = await fetched(sandbox, new_run, key)
    assert response.content == IMAGE
    assert "/jobs/inputs/" in url
