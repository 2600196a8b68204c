"""A minimal client of the vendor's contract that shares nothing with `i2v.apixo`: for tests of the emulator."""

from __future__ import annotations

from typing import Any, Self

import httpx

from sandbox.provider import Provider
from sandbox.server import NO_TLS

MODEL = "hailuo-2-3-fast"
STANDARD = "standard-image-to-video"
PRO = "pro-image-to-video"


class VendorClient:
    """Calls one emulator with its API key and returns the raw responses."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        headers = {"Authorization": f"Bearer {provider.options.api_key}"}
        self.http = httpx.Client(base_url=provider.base_url, headers=headers, trust_env=False, verify=NO_TLS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def submit(self, image_url: str, **fields: Any) -> httpx.Response:
        """Submit a standard video of 6 s. `fields` replace input fields; None removes one."""
        values = {"mode": STANDARD, "prompt": "it moves", "image_urls": [image_url], "duration": 6} | fields
        return self.post({"input": {name: value for name, value in values.items() if value is not None}})

    def post(self, body: Any) -> httpx.Response:
        """Submit any body."""
        return self.http.post(f"/generateTask/{MODEL}", json=body)

    def status(self, task_id: str) -> httpx.Response:
        """Request a task's status."""
        return self.http.get(f"/statusTask/{MODEL}", params={"taskId": task_id})

    def run_to_end(self, image_url: str, **fields: Any) -> dict[str, Any]:
        """Submit, wait for the end without polling, and return the status response's data."""
        task_id = self.submit(image_url, **fields).json()["data"]["taskId"]
        self.provider.wait(lambda: self.provider.tasks[task_id].state != "processing")
        data: dict[str, Any] = self.status(task_id).json()["data"]
        return data
