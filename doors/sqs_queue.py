"""SQS, awaited: `SqsQueue`, the only place of the doors that speaks boto3. It knows messages, not what they mean."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from i2v.errors import I2vError, UsageError

THREADS = 24
WAIT_SECONDS = 20
"""Long polling: an empty queue costs three requests a minute."""
LEAST_HIDDEN_SECONDS = 5
BATCH_SIZE = 10
"""SQS takes and gives ten at a time."""


class QueueError(I2vError):
    """SQS did not do what it was asked."""

    retryable = True


@dataclass(eq=False, slots=True)
class Message:
    """A message that was received and is hidden from others until then, by this host's monotonic clock."""

    receipt: str
    body: str
    attempts: int
    hidden_until: float


class QueueAttributes(NamedTuple):
    """What the queue is set to."""

    hidden_seconds: int
    dead_letters: str | None
    """Its dead-letter queue's ARN."""


def make_sqs_client() -> Any:
    """A boto3 client by the usual AWS environment.

    Raises:
        UsageError: no region is set.
    """
    config = Config(
        max_pool_connections=THREADS,
        connect_timeout=5,
        read_timeout=WAIT_SECONDS + 15,
        retries={"mode": "standard", "total_max_attempts": 3},
    )
    try:
        return boto3.Session().client("sqs", config=config)
    except NoRegionError:
        raise UsageError("The queue's region is not known", "Set AWS_DEFAULT_REGION to it") from None


class SqsQueue:
    """One queue. Every failure leaves as a `QueueError` that says what to do."""

    def __init__(self, url: str, client: Any | None = None) -> None:
        self.url = url
        self._client = make_sqs_client() if client is None else client
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sqs")

    async def _call(self, function: Callable[..., Any], /, **arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, lambda: function(**arguments))
        except (ClientError, BotoCoreError) as error:
            raise _translated(error, self.url) from error
        except Exception as error:  # boto3 lets its parser's and the socket's own through; none may end the loop
            raise QueueError(f"SQS failed: {type(error).__name__}: {error}", "Check the AWS_* settings") from error

    async def traits(self) -> QueueAttributes:
        """How the queue is set up.

        Raises:
            QueueError: SQS did not answer well.
        """
        answer = await self._call(self._client.get_queue_attributes, QueueUrl=self.url, AttributeNames=["All"])
        found = answer.get("Attributes", {})
        policy = json.loads(found.get("RedrivePolicy") or "{}")
        hidden = max(LEAST_HIDDEN_SECONDS, int(found.get("VisibilityTimeout", 30)))
        return QueueAttributes(hidden, policy.get("deadLetterTargetArn"))

    async def receive(self, hidden_seconds: int) -> list[Message]:
        """Up to ten messages; none after 20 seconds without any.

        Raises:
            QueueError: SQS did not answer well.
        """
        asked = time.monotonic()
        answer = await self._call(
            self._client.receive_message,
            QueueUrl=self.url,
            MaxNumberOfMessages=BATCH_SIZE,
            WaitTimeSeconds=WAIT_SECONDS,
            VisibilityTimeout=hidden_seconds,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        until = max(asked, time.monotonic() - 1) + hidden_seconds  # its clock began some time before the answer
        return [_message(each, until) for each in answer.get("Messages", ())]

    async def hide(self, messages: Sequence[Message], seconds: int) -> None:
        """Hide messages for so long from now on; those that are gone meanwhile are let go.

        Raises:
            QueueError: SQS did not answer well.
        """
        until = time.monotonic() + seconds
        entries = [
            {"Id": str(number), "ReceiptHandle": message.receipt, "VisibilityTimeout": seconds}
            for number, message in enumerate(messages)
        ]
        await self._call(self._client.change_message_visibility_batch, QueueUrl=self.url, Entries=entries)
        for message in messages:
            message.hidden_until = until

    async def delete(self, messages: Sequence[Message]) -> None:
        """Remove messages, ten at a time; one that cannot be removed comes again.

        Raises:
            QueueError: SQS did not answer well.
        """
        for start in range(0, len(messages), BATCH_SIZE):
            entries = [
                {"Id": str(number), "ReceiptHandle": message.receipt}
                for number, message in enumerate(messages[start : start + BATCH_SIZE])
            ]
            answer = await self._call(self._client.delete_message_batch, QueueUrl=self.url, Entries=entries)
            if failed := answer.get("Failed"):
                raise QueueError(
                    f"SQS did not delete {len(failed)} messages: {failed[0].get('Code')}", "They come again"
                )

    async def dead_letter(self, message: Message, why: str) -> bool:
        """Put a message into the dead-letter queue with the reason, and remove it; whether there is such a queue.

        Raises:
            QueueError: SQS did not answer well: the message stays.
        """
        arn = (await self.traits()).dead_letters
        if arn is None:
            return False
        account, name = arn.split(":")[4:6]
        found = await self._call(self._client.get_queue_url, QueueName=name, QueueOwnerAWSAccountId=account)
        reason = {"I2vReason": {"DataType": "String", "StringValue": why[:1000]}}
        await self._call(
            self._client.send_message, QueueUrl=found["QueueUrl"], MessageBody=message.body, MessageAttributes=reason
        )
        await self.delete([message])
        return True


def _message(told: dict[str, Any], until: float) -> Message:
    attempts = int(told.get("Attributes", {}).get("ApproximateReceiveCount", 1))
    return Message(told["ReceiptHandle"], told["Body"], attempts, until)


def _translated(error: ClientError | BotoCoreError, url: str) -> QueueError:
    if isinstance(error, NoCredentialsError):
        return QueueError("No AWS credentials to reach the queue", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if not isinstance(error, ClientError):
        return QueueError(
            f"SQS cannot be reached for {url}: {type(error).__name__}", "Check AWS_ENDPOINT_URL and AWS_*"
        )
    code = str(error.response.get("Error", {}).get("Code", ""))
    if "NonExistentQueue" in code or "QueueDoesNotExist" in code:
        return QueueError(f"There is no queue {url}", "Check I2V_SQS_QUEUE_URL and AWS_DEFAULT_REGION")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return QueueError(
        f"SQS answered {error.operation_name} of {url} with {status} {code}",
        "Check the credentials and their rights: sqs:ReceiveMessage, DeleteMessage, ChangeMessageVisibility, "
        "GetQueueAttributes; GetQueueUrl and SendMessage of the dead-letter queue",
    )
