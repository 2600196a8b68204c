"""The floor: the best script that a user would write without i2v. `python -m benchmarks.floor` runs it.

It lists, presigns, submits, polls, downloads and uploads, with httpx behind a semaphore and boto3 in threads. It has no
ledger, checks, resume or UI: it pays twice if it runs twice, and loses paid videos if it dies.
"""

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
PRESIGN_SECONDS = 7200


class Floor:
    """One run of the script."""

    def __init__(self) -> None:
        self.api, self.bucket = os.environ["APIXO_BASE_URL"], os.environ["I2V_BUCKET"]
        self.first = float(os.environ["I2V_POLL_FIRST_SECONDS"])
        self.every = float(os.environ["I2V_POLL_EVERY_SECONDS"])
        config = Config(max_pool_connections=THREADS, s3={"addressing_style": "path"})
        self.s3: Any = boto3.client("s3", config=config)
        self.limit = asyncio.Semaphore(CONNECTIONS)
        self.threads = ThreadPoolExecutor(THREADS)
        self.http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {os.environ['APIXO_API_KEY']}"},
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            timeout=60,
            trust_env=False,
        )
        self.store_seconds: list[float] = []

    def keys(self) -> list[str]:
        """Return the keys of all images."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix="images/")
        return [item["Key"] for page in pages for item in page["Contents"]]

    async def run(self) -> int:
        """Process all images concurrently."""
        keys = self.keys()
        await asyncio.gather(*map(self.process, keys))
        await self.http.aclose()
        return len(keys)

    async def process(self, key: str) -> None:
        """Make one image's video."""
        url = await self.poll(await self.submit(key))
        begun = time.time()
        await self.store(url, f"videos/{key.removeprefix('images/')}.mp4")
        self.store_seconds.append(time.time() - begun)

    async def submit(self, key: str) -> str:
        """Submit an image and return its task id."""
        params = {"Bucket": self.bucket, "Key": key}
        url = self.s3.generate_presigned_url("get_object", params, ExpiresIn=PRESIGN_SECONDS)
        fields = {"mode": "standard-image-to-video", "prompt": "it moves", "image_urls": [url], "duration": 6}
        async with self.limit:
            response = await self.http.post(f"{self.api}/generateTask/{MODEL}", json={"input": fields})
        task_id: str = response.raise_for_status().json()["data"]["taskId"]
        return task_id

    async def poll(self, task_id: str) -> str:
        """Wait for a task and return its result URL."""
        await asyncio.sleep(self.first)
        while True:
            async with self.limit:
                response = await self.http.get(f"{self.api}/statusTask/{MODEL}", params={"taskId": task_id})
            data = response.raise_for_status().json()["data"]
            if data["state"] == "success":
                url: str = json.loads(data["resultJson"])["resultUrls"][0]
                return url
            await asyncio.sleep(self.every)

    async def store(self, url: str, key: str) -> None:
        """Download a video and upload it."""
        async with self.limit:
            video = (await self.http.get(url)).raise_for_status().content

        def put() -> None:
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=video, ContentType="video/mp4")

        await asyncio.get_running_loop().run_in_executor(self.threads, put)


def main() -> None:
    """Run once and print a JSON object."""
    from benchmarks.processes import peak_mb  # noqa: PLC0415 - the script itself needs nothing of ours

    floor, begun = Floor(), time.monotonic()
    videos, seconds = asyncio.run(floor.run()), time.monotonic() - begun
    result = {"videos": videos, "run_seconds": seconds, "peak_mb": peak_mb(), "store_seconds": floor.store_seconds}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
