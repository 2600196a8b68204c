"""`Servers` starts the provider emulator, S3 and a Prefect server, each a metered process."""

import json
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import boto3
import httpx
from botocore.config import Config

from benchmarks.processes import Meter, children
from sandbox.child_process import ChildProcess, clean_environment
from sandbox.cluster.cluster import Cluster
from sandbox.cluster.compose import read_service, read_services
from sandbox.prefect_server import PrefectServer
from sandbox.synthetic_images import make_jpeg

JPEG_COMMENT = b"\xff\xfe"
DATABASE_SETTINGS = ("PREFECT_API_DATABASE_CONNECTION_URL", "PGPASSWORD")
READY = r"Press Ctrl-C to stop"


class Servers:
    """`with Servers() as servers:`."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="i2v-bench-")))
            self._start_sandbox(stack)
            self.prefect = stack.enter_context(PrefectServer())
            self.meters["Prefect server"] = Meter(self.prefect.pid, whole_tree=True)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start_sandbox(self, stack: ExitStack) -> None:
        file = self.folder / "env"
        options = ("--fast", "--shared", "--balance", "1000000", "--env-file", str(file))
        child = ChildProcess("sandbox", *options, env=clean_environment(), log=self.folder / "sandbox.log")
        stack.enter_context(child).wait_for_output(READY, 120)
        self._env = dict(line.split("=", 1) for line in file.read_text().splitlines())
        (aws,) = children(child.pid)
        self.meters = {"provider emulator": Meter(child.pid), "S3": Meter(aws)}

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to `/_sandbox/PATH` of the emulator and return the JSON response."""
        url = f"{self._env['APIXO_BASE_URL'].removesuffix('/api/v1')}/_sandbox/{path}"
        return httpx.request(method, url, json=body, trust_env=False, timeout=60).raise_for_status().json()

    def reset(self, images: int, *, side_px: int = 1024, **options: Any) -> None:
        """Empty S3 and the emulator, set its options, and upload that many distinct images to a new bucket."""
        httpx.post(f"{self._env['AWS_ENDPOINT_URL']}/_ministack/reset", trust_env=False).raise_for_status()
        self.control("POST", "reset")
        self.control("POST", "options", {"balance_usd": 1_000_000, **options})
        self.bucket = f"bench-{uuid.uuid4().hex[:8]}"
        s3 = self.s3()
        s3.create_bucket(Bucket=self.bucket)
        image = make_jpeg(side_px, side_px * 3 // 4)
        for number in range(images):
            key, body = f"images/{number:05}.jpg", _with_comment(image, f"{number:010}")
            s3.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType="image/jpeg")

    def s3(self) -> Any:
        """Return a boto3 client."""
        config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
        session = boto3.session.Session("test", "test", region_name="us-east-1")
        return session.client("s3", endpoint_url=self._env["AWS_ENDPOINT_URL"], config=config)

    def env(self, *, faster: float = 1, **extra: str) -> dict[str, str]:
        """Return the environment of a child: this bucket, and the vendor's poll schedule that many times faster."""
        return {
            **self._env,
            "I2V_BUCKET": self.bucket,
            "I2V_POLL_FIRST_SECONDS": str(30 / faster),
            "I2V_POLL_EVERY_SECONDS": str(10 / faster),
            "I2V_MAX_IN_FLIGHT": "10000",
            "I2V_FIRST_SUBMITS": "0",
            "DO_NOT_TRACK": "1",
            "NO_PROXY": "*",
            "PREFECT_API_URL": self.prefect.api_url,
            "PREFECT_HOME": tempfile.mkdtemp(prefix="home-", dir=self.folder),
            "PREFECT_LOGGING_LEVEL": "INFO",
            **extra,
        }

    @contextmanager
    def on_postgresql(self) -> Iterator[None]:
        """Use a new Prefect server whose database is PostgreSQL, as docs/scaling.md advises for batches."""
        others = {service.name: 0 for service in read_services() if service.name != "postgres"}
        before, meters = self.prefect, self.meters
        folder = Path(tempfile.mkdtemp(prefix="postgresql-", dir=self.folder))
        try:
            with Cluster(folder, {}, replicas=others) as cluster:
                known = cluster.describe(read_service("api-1"), "api-1").environment
                database = {name: known[name] for name in DATABASE_SETTINGS}
                with PrefectServer(settings=database) as self.prefect:
                    postgresql = Meter(cluster.parts["postgres"].process.pid, whole_tree=True)
                    own = Meter(self.prefect.pid, whole_tree=True)
                    self.meters = meters | {"Prefect server": own, "PostgreSQL": postgresql}
                    yield
        finally:
            self.prefect, self.meters = before, meters

    def start_meters(self) -> None:
        """Measure all servers from now on."""
        for meter in self.meters.values():
            meter.start()

    def cpu_seconds(self) -> dict[str, float]:
        """Return each server's CPU seconds since then, once Prefect's server is idle."""
        self.meters["Prefect server"].wait_idle()
        return {name: meter.cpu_seconds() for name, meter in self.meters.items()}

    def requests(self, endpoint: str) -> list[dict[str, Any]]:
        """Return the emulator's log entries of one endpoint."""
        entries: list[dict[str, Any]] = self.control("GET", f"requests?endpoint={endpoint}")["entries"]
        return entries

    def keys(self, suffix: str) -> list[str]:
        """Return the keys under `videos/` with this suffix."""
        pages = self.s3().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix="videos/")
        return [item["Key"] for page in pages for item in page.get("Contents", ()) if item["Key"].endswith(suffix)]

    def manifests(self) -> list[dict[str, Any]]:
        """Return the manifests of all videos."""
        s3 = self.s3()
        return [json.loads(s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()) for key in self.keys(".json")]


def _with_comment(jpeg: bytes, comment: str) -> bytes:
    """Return the same image with other bytes, without encoding it again."""
    text = comment.encode()
    return jpeg[:2] + JPEG_COMMENT + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]
