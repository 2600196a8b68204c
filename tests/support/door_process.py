"""A door as a child process, the queue that feeds it, and the runs that it made: what the doors' tests share."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
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
from tests.support.paths import ROOT

ON_IMAGE = "generate/on-image"
T = TypeVar("T")
HIDDEN_SECONDS = 5
PATIENCE_SECONDS = 120.0
"""A busy machine may take so long for what takes a second."""
TOKEN = "a-token-of-the-test"
FIXTURES = ROOT / "tests" / "fixtures" / "notifications"


class DoorProcess:
    """`python -m doors` with this environment. Use it in `with`, which kills what is left."""

    def __init__(self, env: dict[str, str], log: Path, port: str = "0") -> None:
        self._env = env | {"I2V_DOOR_PORT": port, "I2V_DOOR_TOKEN": TOKEN}
        self._path = log

    def __enter__(self) -> Self:
        with self._path.open("w") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "doors"], cwd=ROOT, env=self._env, stderr=log, stdout=subprocess.DEVNULL
            )
        try:
            self.url = wait_for(self._find_url)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()

    def _find_url(self) -> str:
        found = re.search(r"listens on (http://\S+)", self.said())
        assert self._child.poll() is None, self.said()
        return found[1] if found else ""

    def said(self) -> str:
        """What it logged."""
        return self._path.read_text()

    @property
    def pid(self) -> int:
        """The child's."""
        return self._child.pid

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Its exit code."""
        return self._child.wait(seconds)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; its exit code."""
        self._child.send_signal(number)
        return self.wait()

    def get(self, path: str) -> httpx.Response:
        """GET from it."""
        return httpx.get(self.url + path, trust_env=False, timeout=30)

    def post(self, body: bytes, token: str | None = TOKEN, **headers: str) -> httpx.Response:
        """POST /s3."""
        bearer = {"Authorization": f"Bearer {token}"} if token is not None else {}
        return httpx.post(f"{self.url}/s3", content=body, headers=bearer | headers, trust_env=False, timeout=30)

    def count(self, name: str) -> float:
        """The sum of a metric's samples."""
        lines = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return sum(map(float, lines))


def wait_for(ask: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """What `ask` gives as soon as it is something."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"{ask} gave nothing for {seconds} s"
        time.sleep(0.05)
    return answer


async def soon(ask: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """The same, while this loop does other things."""
    return await asyncio.to_thread(wait_for, ask, seconds)


class Feed:
    """A queue with a dead-letter queue. The bucket's notifications go to it, unless a test is to tell them itself."""

    def __init__(self, sandbox: Sandbox, *, is_told: bool = True) -> None:
        self._sandbox = sandbox
        self._sqs = sandbox.sqs()
        self.dead = self._sqs.create_queue(QueueName=f"{sandbox.bucket}-dead")["QueueUrl"]
        redrive = json.dumps({"deadLetterTargetArn": self._arn(self.dead), "maxReceiveCount": "10"})
        traits: Any = {"RedrivePolicy": redrive, "VisibilityTimeout": str(HIDDEN_SECONDS)}
        self.url = self._sqs.create_queue(QueueName=f"{sandbox.bucket}-door", Attributes=traits)["QueueUrl"]
        told: Any = {"QueueArn": self._arn(self.url), "Events": ["s3:ObjectCreated:*"]}
        if is_told:
            sandbox.s3().put_bucket_notification_configuration(
                Bucket=sandbox.bucket, NotificationConfiguration={"QueueConfigurations": [told]}
            )

    def _arn(self, url: str) -> str:
        return self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]

    def upload(self, *keys: str) -> list[str]:
        """Put objects; their addresses."""
        return [self._sandbox.put_image(key, key.encode()) for key in keys]

    def take(self, url: str) -> list[dict[str, Any]]:
        """Take all messages out of a queue."""
        found: list[Any] = []
        while messages := self._sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        ).get("Messages"):
            found += messages
            entries: Any = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
            self._sqs.delete_message_batch(QueueUrl=url, Entries=entries)
        return found

    def send(self, bodies: list[str]) -> None:
        """Put messages into the queue."""
        for start in range(0, len(bodies), 10):
            entries: Any = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies[start : start + 10])]
            self._sqs.send_message_batch(QueueUrl=self.url, Entries=entries)

    def left(self, url: str | None = None) -> int:
        """Messages in the queue, hidden or not."""
        return self._count(url or self.url, "ApproximateNumberOfMessages") + self.taken(url)

    def taken(self, url: str | None = None) -> int:
        """Messages that somebody has taken and not deleted."""
        return self._count(url or self.url, "ApproximateNumberOfMessagesNotVisible")

    def _count(self, url: str, name: Any) -> int:
        return int(self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name])


def told_of(bucket: str, key: str) -> bytes:
    """S3's notification of one upload."""
    data = json.loads((FIXTURES / "s3.json").read_bytes())
    data["Records"][0]["s3"]["bucket"]["name"] = bucket
    data["Records"][0]["s3"]["object"]["key"] = key
    return json.dumps(data).encode()


async def make_deployment(client: PrefectClient) -> UUID | None:
    """Register what the door looks for; its id, unless somebody else's was there."""
    try:
        await client.read_deployment_by_name(ON_IMAGE)
    except ObjectNotFound:
        flow = await client.create_flow_from_name("generate")
        return await client.create_deployment(flow, "on-image", enforce_parameter_schema=False)
    return None


async def runs_with(bucket: str) -> list[FlowRun]:
    """The runs of the deployment that name images of this bucket."""
    async with get_client() as client:
        found = await client.read_deployment_by_name(ON_IMAGE)
        runs = await client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[found.id])), limit=200
        )
    return [run for run in runs if any(f"/{bucket}/" in image for image in run.parameters["images"])]


async def images_of(bucket: str) -> list[str]:
    """The images that those runs name, with repetitions, sorted."""
    return sorted(image for run in await runs_with(bucket) for image in run.parameters["images"])


async def forget_runs() -> None:
    """Delete the deployment's runs, which a later test's worker would take up."""
    async with get_client() as client:
        found = await client.read_deployment_by_name(ON_IMAGE)
        deployment = DeploymentFilter(id=DeploymentFilterId(any_=[found.id]))
        while runs := await client.read_flow_runs(deployment_filter=deployment, limit=200):
            for run in runs:
                await client.delete_flow_run(run.id)
