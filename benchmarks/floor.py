"""The floor: what a user would write without i2v, as good as we can make it. `python -m benchmarks.floor`, by itself.

List, presign, submit, poll, download, put: httpx behind a gate of 24, boto3 in threads. No ledger, no checks, no
resume, no UI; it pays twice when it is run twice, and loses what it paid for when it dies.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import httpx
from botocore.config import Config

MODEL = "hailuo-2-3-fast"
CONNECTIONS = 24
THREADS = 24
LINK_SECONDS = 7200


class Floor:
    """One run of the script."""

    def __init__(self) -> None:
        self.api, self.bucket = os.environ["APIXO_BASE_URL"], os.environ["I2V_BUCKET"]
        self.first = float(os.environ["I2V_POLL_FIRST_SECONDS"])
        self.every = float(os.environ["I2V_POLL_EVERY_SECONDS"])
        config = Config(max_pool_connections=THREADS, s3={"addressing_style": "path"})
        self.s3: Any = boto3.client("s3", config=config)
        self.gate = asyncio.Semaphore(CONNECTIONS)
        self.threads = ThreadPoolExecutor(THREADS)
        self.http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {os.environ['APIXO_API_KEY']}"},
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            timeout=60,
            trust_env=False,
        )
        self.lag: list[float] = []

    async def run(self) -> int:
        """All images at once."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix="images/")
        keys = [item["Key"] for page in pages for item in page["Contents"]]
        await asyncio.gather(*map(self.one, keys))
        await self.http.aclose()
        return len(keys)

    async def one(self, key: str) -> None:
        """One image to its video."""
        url = await self.finished(await self.submit(key))
        told = time.time()
        await self.bring(url, f"videos/{key.removeprefix('images/')}.mp4")
        self.lag.append(time.time() - told)

    async def submit(self, key: str) -> str:
        """Its task id."""
        link = self.s3.generate_presigned_url("get_object", {"Bucket": self.bucket, "Key": key}, ExpiresIn=LINK_SECONDS)
        asked = {"mode": "standard-image-to-video", "prompt": "it moves", "image_urls": [link], "duration": 6}
        async with self.gate:
            answer = await self.http.post(f"{self.api}/generateTask/{MODEL}", json={"input": asked})
        task: str = answer.raise_for_status().json()["data"]["taskId"]
        return task

    async def finished(self, task: str) -> str:
        """The address of its video."""
        await asyncio.sleep(self.first)
        while True:
            async with self.gate:
                answer = await self.http.get(f"{self.api}/statusTask/{MODEL}", params={"taskId": task})
            data = answer.raise_for_status().json()["data"]
            if data["state"] == "success":
                url: str = json.loads(data["resultJson"])["resultUrls"][0]
                return url
            await asyncio.sleep(self.every)

    async def bring(self, url: str, key: str) -> None:
        """Download and put."""
        async with self.gate:
            video = (await self.http.get(url)).raise_for_status().content

        def put() -> None:
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=video, ContentType="video/mp4")

        await asyncio.get_running_loop().run_in_executor(self.threads, put)


def main() -> None:
    """Run once and print what it took."""
    from benchmarks.processes import peak_mb  # noqa: PLC0415 - the script itself needs nothing of ours

    floor, begun = Floor(), time.monotonic()
    videos = asyncio.run(floor.run())
    told = {"videos": videos, "run_seconds": time.monotonic() - begun, "peak_mb": peak_mb(), "lag": floor.lag}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
