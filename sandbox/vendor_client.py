"""The vendor's contract in a few lines, sharing nothing with i2v's client: to try the emulator by hand and in tests."""

from __future__ import annotations

from typing import Any, Self

import httpx

from sandbox.provider import Provider

MODEL = "hailuo-2-3-fast"
STANDARD = "standard-image-to-video"
PRO = "pro-image-to-video"


class VendorClient:
    """Calls one emulator with its own key. Answers are as they come; only `end` waits."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        headers = {"Authorization": f"Bearer {provider.options.api_key}"}
        self.client = httpx.Client(base_url=provider.base_url, headers=headers, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def submit(self, image_url: str, **fields: Any) -> httpx.Response:
        """Order a standard video of 6 s; `fields` change the input, None leaves one out."""
        order = {"mode": STANDARD, "prompt": "it moves", "image_urls": [image_url], "duration": 6} | fields
        return self.post({"input": {name: value for name, value in order.items() if value is not None}})

    def post(self, body: Any) -> httpx.Response:
        """Submit any body."""
        return self.client.post(f"/generateTask/{MODEL}", json=body)

    def status(self, task_id: str) -> httpx.Response:
        """Ask for a task."""
        return self.client.get(f"/statusTask/{MODEL}", params={"taskId": task_id})

    def end(self, image_url: str, **fields: Any) -> dict[str, Any]:
        """Order, wait for the end without asking, and return the status' data."""
        task_id = self.submit(image_url, **fields).json()["data"]["taskId"]
        self.provider.wait(lambda: self.provider.tasks[task_id].state != "processing")
        data: dict[str, Any] = self.status(task_id).json()["data"]
        return data
