"""`SqsQueue`: async access to one SQS queue, and the only boto3 calls of the doors. It does not read the messages."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from i2v.errors import I2vError, UsageError
from i2v.s3.client import new_session
from i2v.urls import redact_url

THREADS = 24
WAIT_SECONDS = 20
"""Long polling: an empty queue costs three requests a minute."""
MIN_VISIBILITY_SECONDS = 5
BATCH_SIZE = 10
"""SQS's limit for one request."""


class QueueError(I2vError):
    """An SQS request failed. The message says what to do."""

    retryable = True


@dataclass(eq=False, slots=True)
class Message:
    """A received message. Other consumers cannot see it before `visible_at`, on this host's monotonic clock."""

    receipt: str
    body: str
    receive_count: int
    visible_at: float


def make_sqs_client() -> Any:
    """Return a boto3 client for the AWS environment. Raise `UsageError` if no region is set."""
    config = Config(
        max_pool_connections=THREADS,
        connect_timeout=5,
        read_timeout=WAIT_SECONDS + 15,
        retries={"mode": "standard", "total_max_attempts": 3},
    )
    try:
        return new_session().client("sqs", config=config)
    except NoRegionError:
        raise UsageError("The queue's region is not set", "Set AWS_REGION") from None


class SqsQueue:
    """One queue. Every method raises `QueueError` if its request fails."""

    def __init__(self, url: str, client: Any | None = None) -> None:
        self.url = url
        self._client = client or make_sqs_client()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sqs")

    async def _call(self, function: Callable[..., Any], /, **arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, lambda: function(**arguments))
        except (ClientError, BotoCoreError) as error:
            raise _translate(error, redact_url(self.url)) from error
        except Exception as error:  # boto3 also leaks parser and socket errors; none may end the receive loop
            raise QueueError(f"SQS failed: {type(error).__name__}: {error}", "Check the AWS_* settings") from error

    async def read_attributes(self) -> tuple[int, str | None]:
        """Return the queue's visibility timeout in seconds, and the ARN of its dead-letter queue."""
        response = await self._call(self._client.get_queue_attributes, QueueUrl=self.url, AttributeNames=["All"])
        attributes = response.get("Attributes", {})
        redrive = json.loads(attributes.get("RedrivePolicy") or "{}")
        seconds = max(MIN_VISIBILITY_SECONDS, int(attributes.get("VisibilityTimeout", 30)))
        return seconds, redrive.get("deadLetterTargetArn")

    async def count_messages(self) -> int:
        """Count the queue's messages, including those that a door is handling."""
        return await self._count(self.url)

    async def count_dead_letters(self) -> int | None:
        """Return how many messages the dead-letter queue has; `None` if there is no such queue."""
        _, arn = await self.read_attributes()
        return None if arn is None else await self._count(await self._url_of(arn))

    async def _count(self, url: str) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        response = await self._call(self._client.get_queue_attributes, QueueUrl=url, AttributeNames=names)
        return sum(int(response["Attributes"][name]) for name in names)

    async def _url_of(self, arn: str) -> str:
        account, name = arn.split(":")[4:6]
        found = await self._call(self._client.get_queue_url, QueueName=name, QueueOwnerAWSAccountId=account)
        url: str = found["QueueUrl"]
        return url

    async def receive(self, visibility_seconds: int) -> list[Message]:
        """Return up to ten messages; an empty list after 20 s without any."""
        sent_at = time.monotonic()
        response = await self._call(
            self._client.receive_message,
            QueueUrl=self.url,
            MaxNumberOfMessages=BATCH_SIZE,
            WaitTimeSeconds=WAIT_SECONDS,
            VisibilityTimeout=visibility_seconds,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        # SQS starts the timeout some time before its response arrives
        visible_at = max(sent_at, time.monotonic() - 1) + visibility_seconds
        messages = []
        for each in response.get("Messages", ()):
            receive_count = int(each.get("Attributes", {}).get("ApproximateReceiveCount", 1))
            messages.append(Message(each["ReceiptHandle"], each["Body"], receive_count, visible_at))
        return messages

    async def extend_visibility(self, messages: Sequence[Message], seconds: int) -> None:
        """Hide up to ten messages for this many seconds from now. Messages that no longer exist are ignored."""
        visible_at = time.monotonic() + seconds
        entries = [entry | {"VisibilityTimeout": seconds} for entry in _entries(messages)]
        await self._call(self._client.change_message_visibility_batch, QueueUrl=self.url, Entries=entries)
        for message in messages:
            message.visible_at = visible_at

    async def delete(self, messages: Sequence[Message]) -> None:
        """Delete messages. One that cannot be deleted is delivered again."""
        for start in range(0, len(messages), BATCH_SIZE):
            entries = _entries(messages[start : start + BATCH_SIZE])
            response = await self._call(self._client.delete_message_batch, QueueUrl=self.url, Entries=entries)
            if failed := response.get("Failed"):
                message = f"SQS did not delete {len(failed)} messages: {failed[0].get('Code')}"
                raise QueueError(message, "They are delivered again")

    async def dead_letter(self, message: Message, reason: str) -> bool:
        """Move a message to the dead-letter queue with the reason. Return False if there is no such queue."""
        _, arn = await self.read_attributes()
        if arn is None:
            return False
        attributes = {"I2vReason": {"DataType": "String", "StringValue": reason[:1000]}}
        moved = {"QueueUrl": await self._url_of(arn), "MessageBody": message.body, "MessageAttributes": attributes}
        await self._call(self._client.send_message, **moved)
        await self.delete([message])
        return True


def _entries(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [{"Id": str(number), "ReceiptHandle": message.receipt} for number, message in enumerate(messages)]


def _translate(error: ClientError | BotoCoreError, url: str) -> QueueError:
    if isinstance(error, NoCredentialsError):
        return QueueError("No AWS credentials for the queue", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if not isinstance(error, ClientError):
        message = f"Cannot reach SQS for {url}: {type(error).__name__}"
        return QueueError(message, "Check AWS_ENDPOINT_URL and the other AWS_* settings")
    code = str(error.response.get("Error", {}).get("Code", ""))
    if "NonExistentQueue" in code or "QueueDoesNotExist" in code:
        return QueueError(f"The queue {url} does not exist", "Check I2V_SQS_QUEUE_URL and AWS_REGION")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return QueueError(
        f"SQS returned {status} {code} for {error.operation_name} on {url}",
        "Check the credentials and their permissions: sqs:ReceiveMessage, DeleteMessage, ChangeMessageVisibility, "
        "GetQueueAttributes; GetQueueUrl, GetQueueAttributes and SendMessage on the dead-letter queue",
    )
