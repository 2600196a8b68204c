"""`DoorProcess`: a real door as a child process. Also its SQS queue, and the flow runs that it starts."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from sandbox import Sandbox
from sandbox.server import NO_TLS, PAUSE_PER_CHECK
from tests.support.forked_command import run_door, start_forked
from tests.support.paths import ROOT

ON_IMAGE = "generate/on-image"
T = TypeVar("T")
VISIBILITY_SECONDS = 5
TIMEOUT_SECONDS = 120.0
"""Generous, because a busy machine takes this long for work of a second."""
TOKEN = "a-token-of-the-test"
FIXTURES = ROOT / "tests" / "fixtures" / "notifications"


class DoorProcess:
    """`python -m doors` with this environment, forked. Use it in `with`, which kills the process at the end."""

    def __init__(self, env: dict[str, str], log: Path, port: str = "0") -> None:
        self._env = env | {"I2V_DOOR_PORT": port, "I2V_DOOR_TOKEN": TOKEN}
        self._path = log

    def __enter__(self) -> Self:
        self._path.write_text("")
        self._child = start_forked(run_door, env=self._env, err=self._path)
        try:
            self.url = wait_for(self._find_url)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.join()

    def _find_url(self) -> str:
        found = re.search(r"listens on (http://\S+)", self.read_log())
        assert self._child.exitcode is None, self.read_log()
        return found[1] if found else ""

    def read_log(self) -> str:
        """Return the log."""
        return self._path.read_text()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid or 0

    def wait(self, seconds: float = TIMEOUT_SECONDS) -> int:
        """Wait for the exit code."""
        self._child.join(seconds)
        code = self._child.exitcode
        assert code is not None, f"the door did not end in {seconds} s:\n{self.read_log()}"
        return code

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        os.kill(self.pid, number)
        return self.wait()

    def get(self, path: str) -> httpx.Response:
        """Send a GET request."""
        return httpx.get(self.url + path, trust_env=False, verify=NO_TLS, timeout=30)

    def post(self, body: bytes, token: str | None = TOKEN, **headers: str) -> httpx.Response:
        """Send `POST /s3`."""
        bearer = {"Authorization": f"Bearer {token}"} if token is not None else {}
        return httpx.post(
            f"{self.url}/s3", content=body, headers=bearer | headers, trust_env=False, verify=NO_TLS, timeout=30
        )

    def count(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        lines = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return sum(map(float, lines))


def wait_for(condition: Callable[[], T], seconds: float = TIMEOUT_SECONDS) -> T:
    """Return the condition's value as soon as it is true."""
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if value := condition():
            return value
        now = time.monotonic()
        assert now < deadline, f"{condition} was false for {seconds} s"
        time.sleep(max(0.05, PAUSE_PER_CHECK * (now - began)))


async def wait_for_async(condition: Callable[[], T], seconds: float = TIMEOUT_SECONDS) -> T:
    """Wait for the condition without blocking the event loop."""
    return await asyncio.to_thread(wait_for, condition, seconds)


class NotificationQueue:
    """A queue with a dead-letter queue. The bucket sends its notifications there, if `connect_bucket`."""

    def __init__(self, sandbox: Sandbox, *, connect_bucket: bool = True) -> None:
        self._sandbox = sandbox
        self._sqs = sandbox.sqs()
        self.dead_letter_url = self._sqs.create_queue(QueueName=f"{sandbox.bucket}-dead")["QueueUrl"]
        redrive = json.dumps({"deadLetterTargetArn": self._arn(self.dead_letter_url), "maxReceiveCount": "10"})
        attributes: Any = {"RedrivePolicy": redrive, "VisibilityTimeout": str(VISIBILITY_SECONDS)}
        self.url = self._sqs.create_queue(QueueName=f"{sandbox.bucket}-door", Attributes=attributes)["QueueUrl"]
        config: Any = {"QueueArn": self._arn(self.url), "Events": ["s3:ObjectCreated:*"]}
        if connect_bucket:
            sandbox.s3().put_bucket_notification_configuration(
                Bucket=sandbox.bucket, NotificationConfiguration={"QueueConfigurations": [config]}
            )

    def _arn(self, url: str) -> str:
        return self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]

    def upload(self, *keys: str) -> list[str]:
        """Put objects and return their URIs."""
        return [self._sandbox.put_image(key, key.encode()) for key in keys]

    def drain(self, url: str) -> list[dict[str, Any]]:
        """Receive and delete all messages of a queue."""
        found: list[Any] = []
        while messages := self._sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        ).get("Messages"):
            found += messages
            entries: Any = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
            self._sqs.delete_message_batch(QueueUrl=url, Entries=entries)
        return found

    def send(self, bodies: list[str]) -> None:
        """Send messages to the queue."""
        for start in range(0, len(bodies), 10):
            entries: Any = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies[start : start + 10])]
            self._sqs.send_message_batch(QueueUrl=self.url, Entries=entries)

    def count_messages(self, url: str | None = None) -> int:
        """Count the messages in the queue, visible or hidden."""
        return self._count(url or self.url, "ApproximateNumberOfMessages") + self.count_hidden(url)

    def count_hidden(self, url: str | None = None) -> int:
        """Count the messages that were received and not deleted."""
        return self._count(url or self.url, "ApproximateNumberOfMessagesNotVisible")

    def _count(self, url: str, name: Any) -> int:
        return int(self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name])


def s3_notification(bucket: str, key: str) -> bytes:
    """Return S3's notification for one upload."""
    data = json.loads((FIXTURES / "s3.json").read_bytes())
    data["Records"][0]["s3"]["bucket"]["name"] = bucket
    data["Records"][0]["s3"]["object"]["key"] = key
    return json.dumps(data).encode()


async def ensure_deployment(client: PrefectClient) -> UUID | None:
    """Create the deployment `on-image` and return its id; return `None` if it exists already."""
    try:
        await client.read_deployment_by_name(ON_IMAGE)
    except ObjectNotFound:
        flow = await client.create_flow_from_name("generate")
        return await client.create_deployment(flow, "on-image", enforce_parameter_schema=False)
    return None


async def list_runs(bucket: str) -> list[FlowRun]:
    """Return the runs of `on-image` with images in this bucket."""
    async with get_client() as client:
        found = await client.read_deployment_by_name(ON_IMAGE)
        runs = await client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[found.id])), limit=200
        )
    return [run for run in runs if any(f"/{bucket}/" in image for image in run.parameters["images"])]


async def images_in_runs(bucket: str) -> list[str]:
    """Return the images of those runs, sorted, with duplicates."""
    return sorted(image for run in await list_runs(bucket) for image in run.parameters["images"])


async def delete_runs() -> None:
    """Delete the deployment's runs, so that no later test's worker runs them."""
    async with get_client() as client:
        found = await client.read_deployment_by_name(ON_IMAGE)
        deployment = DeploymentFilter(id=DeploymentFilterId(any_=[found.id]))
        while runs := await client.read_flow_runs(deployment_filter=deployment, limit=200):
            for run in runs:
                await client.delete_flow_run(run.id)
