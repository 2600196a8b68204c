"""The receiver on a real queue: what is deleted, what moves to the dead-letter queue, and when."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from doors.batcher import Batcher
from doors.health import Health
from doors.image_intake import ImageIntake
from doors.metrics import Metrics
from doors.s3_notifications import NewImage
from doors.sqs_queue import SqsQueue
from doors.sqs_receiver import SqsReceiver
from i2v.settings import Settings
from sandbox import Sandbox
from tests.support.paths import FIXTURES

CASES = json.loads((FIXTURES / "notifications" / "servers.json").read_bytes())
MIXED = json.dumps(CASES["one bad record beside a good one"]["payload"])
DROPPED = json.dumps(CASES["MinIO PutTagging"]["payload"])


class Queues:
    """A queue, with a dead-letter queue if `dead_letters`."""

    def __init__(self, sandbox: Sandbox, *, dead_letters: bool) -> None:
        self._sqs = sandbox.sqs()
        self.dead = self._sqs.create_queue(QueueName=f"{sandbox.bucket}-dead")["QueueUrl"]
        arn = self._sqs.get_queue_attributes(QueueUrl=self.dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "10"})
        attributes: Any = {"RedrivePolicy": redrive} if dead_letters else {}
        self.url = self._sqs.create_queue(QueueName=f"{sandbox.bucket}-q", Attributes=attributes)["QueueUrl"]
        self.queue = SqsQueue(self.url, self._sqs)

    def send(self, *bodies: str) -> None:
        """Send messages."""
        for body in bodies:
            self._sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def wait_until_empty(self) -> None:
        """Wait until every message is gone from the queue."""
        deadline = time.monotonic() + 20
        while self.count(self.url):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def count(self, url: str) -> int:
        """Count messages, visible or hidden."""
        names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)


@asynccontextmanager
async def _receiving(queues: Queues, settings: Settings, call: Callable[[list[NewImage]], Any]) -> AsyncIterator[None]:
    batcher = Batcher(call, identity=lambda image: image.identity, quiet_seconds=0.05)
    intake = ImageIntake(settings, Health(), Metrics(), batcher)
    receiver = SqsReceiver(queues.queue, intake)
    tasks = [asyncio.create_task(batcher.run()), asyncio.create_task(receiver.run())]
    try:
        yield
    finally:
        receiver.stop()
        await batcher.close(1)
        tasks[0].cancel()
        await asyncio.wait(tasks)


@pytest.mark.parametrize("dead_letters", [True, False])
async def test_one_bad_record_does_not_spoil_its_neighbours(
    sandbox: Sandbox, settings: Settings, dead_letters: bool
) -> None:
    """The good images of a message get their run, and then it moves to the dead-letter queue, if there is one."""
    queues = Queues(sandbox, dead_letters=dead_letters)
    started: list[str] = []

    async def start(images: list[NewImage]) -> None:
        assert queues.count(queues.dead) == 0
        started.extend(image.key for image in images)

    async with _receiving(queues, settings, start):
        queues.send(MIXED.replace("amzn-s3-demo-bucket", sandbox.bucket), DROPPED)
        await asyncio.to_thread(queues.wait_until_empty)
    assert started == ["images/cat.jpg", "images/dog.jpg"]
    assert queues.count(queues.dead) == int(dead_letters)
