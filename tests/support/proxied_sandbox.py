"""The sandbox behind two tollgates, and what a test asks of it afterwards: who was billed, what lies in the bucket.

`ProxiedSandbox` is for every test that kills processes, races them or lets storage fail.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from i2v.ledger.job import JobRecord, JobState
from sandbox import Sandbox
from sandbox.fault_proxy import FaultProxy
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.certificate_authority import own_authority
from tests.support.forked_processes import ProcessSpec

PACE = {"render_seconds": 0.1, "render": "shared"}


@dataclass(frozen=True)
class UploadedImage:
    """An image in the bucket and the digest of its bytes, by which the emulator knows it."""

    name: str
    uri: str
    sha256: str


class ProxiedSandbox:
    """i2v's way to S3 and to the provider leads through `s3` and `api`. `with Tolled(sandbox, folder) as world:`."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox, self.folder = sandbox, folder
        self._stack = ExitStack()
        self._runs = 0

    def __enter__(self) -> Self:
        _, self._authority = own_authority(self.folder, "localhost")
        with ExitStack() as stack:
            self.s3 = stack.enter_context(FaultProxy(self.sandbox.aws.address))
            self.api = stack.enter_context(FaultProxy(self.provider.address, rewrite_address=True))
            self._stack = stack.pop_all()
        self.reset()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def provider(self) -> Provider:
        """The emulator."""
        return self.sandbox.provider

    def reset(self) -> None:
        """An empty bucket, an emulator that has forgotten everything, and open proxies."""
        self.clear_faults()
        self.sandbox.reset()
        self.provider.set_options(s3_address=self.s3.address, **PACE)
        self.pictures: list[UploadedImage] = []

    def clear_faults(self) -> None:
        """Let everything pass from now on, and forget what did."""
        self.wait_until_idle()
        self.s3.reset()
        self.api.reset()

    def wait_until_idle(self) -> None:
        """Wait until nothing is under way any more."""
        self.s3.wait_idle()
        self.api.wait_idle()

    @property
    def env(self) -> dict[str, str]:
        """Every variable to set to come through the proxies; one authority is read sooner than all of them."""
        return {
            **self.sandbox.env,
            "APIXO_BASE_URL": self.provider.base_url.replace(self.provider.address, self.api.address),
            "AWS_ENDPOINT_URL": self.s3.url,
            "I2V_PRIVATE_HOSTS": f"{self.api.address},{self.s3.address}",
            "I2V_POLL_FIRST_SECONDS": "0.05",
            "I2V_POLL_EVERY_SECONDS": "0.05",
            "SSL_CERT_FILE": str(self._authority),
        }

    def process(self, env: dict[str, str] | None = None, **what: Any) -> ProcessSpec:
        """Something for a process to do; all images in the bucket, and a run id of its own, unless said otherwise."""
        self._runs += 1
        given = {"run_id": f"run-{self._runs}", "images": (f"s3://{self.sandbox.bucket}/images/",), **what}
        return ProcessSpec(env={**self.env, **(env or {})}, folder=self.folder, **given)

    def put(self, name: str, seed: int, **metadata: str) -> UploadedImage:
        """Put a small good image."""
        data = make_jpeg(400, 320, seed=seed)
        uri = self.sandbox.put_image(f"images/{name}", data, **metadata)
        self.pictures.append(UploadedImage(name, uri, hashlib.sha256(data).hexdigest()))
        return self.pictures[-1]

    def bills(self) -> Counter[str | None]:
        """How often each image was billed, by its digest."""
        bills: Counter[str | None] = Counter()
        for (sha256, *_), times in self.provider.billed().items():
            bills[sha256] += times
        return bills

    def task_ids(self, picture: UploadedImage) -> set[str]:
        """The tasks that the emulator has of an image."""
        return {task.id for task in self.provider.tasks.values() if task.image_sha256 == picture.sha256}

    def records(self) -> dict[str, JobRecord]:
        """The ledger's job records by their image's digest."""
        keys = [key for key in self.sandbox.keys("jobs/") if len(key) == len("jobs/.json") + 64]
        records = [JobRecord.model_validate_json(self.sandbox.read(key)) for key in keys]
        return {record.image.facts.sha256: record for record in records}

    def states(self) -> dict[str, JobState]:
        """Where each job stands, by its image's name."""
        return {record.image.name: record.state for record in self.records().values()}

    def published_suffixes(self, picture: UploadedImage) -> list[str]:
        """The endings of all objects that lie in the image's folder of answers."""
        prefix = f"videos/{picture.name}/"
        return [key.removeprefix(prefix).partition(".")[2] for key in self.sandbox.keys(prefix)]

    def read_published(self, picture: UploadedImage) -> dict[str, Any]:
        """The manifest of the image's one video, which is found whole.

        Raises:
            AssertionError: there is not exactly one, or its bytes are not those that were measured.
        """
        keys = self.sandbox.keys(f"videos/{picture.name}/")
        assert [key.rpartition(".")[2] for key in keys] == ["jpg", "json", "mp4"], keys
        manifest = json.loads(self.sandbox.read(keys[1]))
        assert hashlib.sha256(self.sandbox.read(keys[2])).hexdigest() == manifest["video"]["sha256"]
        assert manifest["image"]["label"] == picture.uri
        return dict(manifest)

    def open_marks(self) -> set[str]:
        """The keys of all jobs that carry an open mark."""
        return {key.rpartition("-")[2] for key in self.sandbox.keys("jobs/open/")}
