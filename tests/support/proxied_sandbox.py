"""The sandbox behind two fault proxies, and what a test checks afterwards: what was billed, what is in the bucket.

For tests that kill processes, race them or make S3 fail.
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
from i2v.ledger.keys import OpenMarker
from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.fault_proxy import FaultProxy
from tests.support.forked_processes import ProcessSpec
from tests.support.orders import job_records

PACE = {"render_seconds": 0.1, "render": "shared"}


@dataclass(frozen=True)
class UploadedImage:
    """An image in the bucket, and the digest of its bytes, by which the emulator identifies it."""

    name: str
    uri: str
    sha256: str


class ProxiedSandbox:
    """S3 and the provider, reached through the fault proxies `s3` and `api`."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox, self.folder = sandbox, folder
        self._stack = ExitStack()
        self._runs = 0

    def __enter__(self) -> Self:
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
        """Start over with an empty bucket, no tasks and no fault rules."""
        self.clear_faults()
        self.sandbox.reset()
        self.provider.set_options(s3_address=self.s3.address, **PACE)
        self.pictures: list[UploadedImage] = []

    def clear_faults(self) -> None:
        """Remove all fault rules and clear the logs."""
        self.wait_until_idle()
        self.s3.reset()
        self.api.reset()

    def wait_until_idle(self) -> None:
        """Wait until no request is in progress."""
        self.s3.wait_idle()
        self.api.wait_idle()

    @property
    def env(self) -> dict[str, str]:
        """All environment variables for processes behind the proxies."""
        return {
            **self.sandbox.env,
            "APIXO_BASE_URL": self.provider.base_url.replace(self.provider.address, self.api.address),
            "AWS_ENDPOINT_URL": self.s3.url,
            "I2V_PRIVATE_HOSTS": f"{self.api.address},{self.s3.address}",
            "I2V_POLL_FIRST_SECONDS": "0.05",
            "I2V_POLL_EVERY_SECONDS": "0.05",
        }

    def process(self, env: dict[str, str] | None = None, **what: Any) -> ProcessSpec:
        """Return the spec of a process: all images in the bucket and a new run id, unless given."""
        self._runs += 1
        given = {"run_id": f"run-{self._runs}", "images": (f"s3://{self.sandbox.bucket}/images/",), **what}
        return ProcessSpec(env={**self.env, **(env or {})}, folder=self.folder, **given)

    def put(self, name: str, seed: int, **metadata: str) -> UploadedImage:
        """Put a small valid image."""
        data = make_jpeg(400, 320, seed=seed)
        uri = self.sandbox.put_image(f"images/{name}", data, **metadata)
        self.pictures.append(UploadedImage(name, uri, hashlib.sha256(data).hexdigest()))
        return self.pictures[-1]

    def bills(self) -> Counter[str | None]:
        """Return how often each image was billed, by digest."""
        bills: Counter[str | None] = Counter()
        for (sha256, *_), times in self.provider.billed().items():
            bills[sha256] += times
        return bills

    def task_ids(self, picture: UploadedImage) -> set[str]:
        """Return the ids of an image's tasks at the emulator."""
        return {task.id for task in self.provider.tasks.values() if task.image_sha256 == picture.sha256}

    def records(self) -> dict[str, JobRecord]:
        """Return the ledger's job records by image digest."""
        return {record.image.facts.sha256: record for record in job_records(self.sandbox)}

    def states(self) -> dict[str, JobState]:
        """Return each job's state by image name."""
        return {record.image.name: record.state for record in self.records().values()}

    def published_suffixes(self, picture: UploadedImage) -> list[str]:
        """Return the suffixes of all objects in the image's output folder."""
        prefix = f"videos/{picture.name}/"
        return [key.removeprefix(prefix).partition(".")[2] for key in self.sandbox.keys(prefix)]

    def read_published(self, picture: UploadedImage) -> dict[str, Any]:
        """Return the manifest of the image's only video; check that the video's bytes match it."""
        keys = self.sandbox.keys(f"videos/{picture.name}/")
        assert [key.rpartition(".")[2] for key in keys] == ["jpg", "json", "mp4"], keys
        manifest = json.loads(self.sandbox.read(keys[1]))
        assert hashlib.sha256(self.sandbox.read(keys[2])).hexdigest() == manifest["video"]["sha256"]
        assert manifest["image"]["label"] == picture.uri
        return dict(manifest)

    def open_markers(self) -> set[str]:
        """Return the keys of all jobs that have an open marker."""
        names = (OpenMarker.parse(key.removeprefix("jobs/open/")) for key in self.sandbox.keys("jobs/open/"))
        return {name.key for name in names if name}
