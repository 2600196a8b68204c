"""The world that a benchmark runs in: provider emulator, S3 and Prefect server, each a metered process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import boto3
import httpx
from botocore.config import Config

from benchmarks.processes import ROOT, Meter, children
from sandbox.prefect_server import PrefectServer
from sandbox.synthetic_images import make_jpeg

START_SECONDS = 120
COMMENT = b"\xff\xfe"
"""Begins a comment in a JPEG, by which a thousand images are made of one."""


class Outside:
    """`with Outside() as outside:` starts emulator and S3, and with `prefect` a Prefect server too."""

    def __init__(self, *, prefect: bool = False) -> None:
        self._stack = ExitStack()
        self.server = PrefectServer() if prefect else None
        self.meters: dict[str, Meter] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="i2v-bench-")))
            self._start_sandbox(stack)
            if self.server:
                stack.enter_context(self.server)
                self.meters["Prefect server"] = Meter(self.server._child.pid, whole_tree=True)  # noqa: SLF001 - to meter it
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start_sandbox(self, stack: ExitStack) -> None:
        file = self.folder / "env"
        command = [sys.executable, "-m", "sandbox", "--fast", "--shared", "--balance", "1000000"]
        child = subprocess.Popen([*command, "--env-file", str(file)], cwd=ROOT, stdout=subprocess.DEVNULL)
        stack.callback(child.wait)
        stack.callback(child.terminate)
        deadline = time.monotonic() + START_SECONDS
        while not file.exists():
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the sandbox did not start")
            time.sleep(0.05)
        self._env = dict(line.split("=", 1) for line in file.read_text().splitlines())
        (aws,) = children(child.pid)
        self.sandbox_pids = (child.pid, aws)
        self.meters |= {"provider emulator": Meter(child.pid), "S3": Meter(aws)}

    @property
    def provider_url(self) -> str:
        """The emulator's root."""
        return self._env["APIXO_BASE_URL"].removesuffix("/api/v1")

    def ask(self, path: str, changes: dict[str, Any] | None = None) -> Any:
        """GET something of the emulator, or POST to it."""
        address = f"{self.provider_url}/_sandbox/{path}"
        answer = httpx.get(address, trust_env=False, timeout=60) if changes is None else _post(address, changes)
        return answer.raise_for_status().json()

    def fresh(self, images: int, *, side_px: int = 1024, **dials: Any) -> None:
        """Empty S3 and the emulator, turn its dials, and put so many images into two folders of a new bucket."""
        httpx.post(f"{self._env['AWS_ENDPOINT_URL']}/_ministack/reset", trust_env=False).raise_for_status()
        self.ask("reset", {})
        self.ask("settings", {"balance_usd": 1_000_000, **dials})
        self.bucket = f"bench-{uuid.uuid4().hex[:8]}"
        s3 = self.s3()
        s3.create_bucket(Bucket=self.bucket)
        picture = make_jpeg(side_px, side_px * 3 // 4)
        for number in range(images):
            body = _distinct(picture, number)
            key = f"images/{number % 2}/{number:05}.jpg"
            s3.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType="image/jpeg")

    def s3(self) -> Any:
        """A boto3 client."""
        config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
        session = boto3.session.Session("test", "test", region_name="us-east-1")
        return session.client("s3", endpoint_url=self._env["AWS_ENDPOINT_URL"], config=config)

    def env(self, **more: str) -> dict[str, str]:
        """The environment of a child: the bucket, the vendor's own schedule if nothing else is said, no proxies."""
        own = {"I2V_BUCKET": self.bucket, "I2V_POLL_FIRST_SECONDS": "30", "I2V_POLL_EVERY_SECONDS": "10"}
        own |= {"I2V_MAX_IN_FLIGHT": "10000", "DO_NOT_TRACK": "1", "NO_PROXY": "*"}
        if self.server:
            home = tempfile.mkdtemp(prefix="home-", dir=self.folder)
            own |= {"PREFECT_API_URL": self.server.api_url, "PREFECT_HOME": home, "PREFECT_LOGGING_LEVEL": "INFO"}
        return self._env | own | more

    def begin(self) -> None:
        """Meter all servers from now on."""
        for meter in self.meters.values():
            meter.begin()

    def spent(self) -> dict[str, float]:
        """CPU seconds of each server since then, once Prefect's has written all."""
        if "Prefect server" in self.meters:
            self.meters["Prefect server"].settle()
        return {name: meter.spent() for name, meter in self.meters.items()}

    def submitted(self) -> int:
        """How many videos the provider was asked for."""
        return len(self.ask("journal?endpoint=submit")["entries"])

    def videos(self) -> int:
        """How many videos there are."""
        pages = self.s3().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix="videos/")
        return sum(item["Key"].endswith(".mp4") for page in pages for item in page.get("Contents", ()))


def _post(address: str, changes: dict[str, Any]) -> httpx.Response:
    return httpx.post(address, json=changes, trust_env=False, timeout=60)


def _distinct(picture: bytes, number: int) -> bytes:
    """The same picture with another comment: other bytes at no cost."""
    text = f"{number:010}".encode()
    return picture[:2] + COMMENT + (len(text) + 2).to_bytes(2, "big") + text + picture[2:]
