"""`SqsReceiver`: receive messages, pass their images on, and delete the messages once Prefect has the flow run.

Until then the messages stay hidden from other consumers, however long Prefect is down. If the process dies, SQS
delivers them again: nothing is deleted before its run exists.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from doors.batcher import BatcherClosed
from doors.health import OK
from doors.image_intake import ImageIntake
from doors.s3_notifications import InvalidNotification, Notification, parse_notification
from doors.sqs_queue import BATCH_SIZE, Message, QueueError, SqsQueue

log = logging.getLogger(__name__)
MAX_LOOPS = 8
MAX_DELAY_SECONDS = 30.0
STOP_SECONDS = 1.0
"""How long `stop` waits for responses on their way; an idle long poll is cancelled."""


@dataclass(eq=False)
class SqsReceiver:
    """Receive from one queue until stopped. Each loop that gets a full batch starts another one, up to eight."""

    queue: SqsQueue
    intake: ImageIntake
    _visibility_seconds: int = 0
    _in_progress: set[Message] = field(default_factory=set)
    _loops: set[asyncio.Task[None]] = field(default_factory=set)
    _handlers: set[asyncio.Task[None]] = field(default_factory=set)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Receive until `stop` is called; return when every received message is handled."""
        renewing = asyncio.create_task(self._renew_visibility())
        try:
            _spawn(self._loop(is_first=True), self._loops)
            await self._stopping.wait()
            _, late = await asyncio.wait(self._loops, timeout=STOP_SECONDS)
            for loop in late:
                loop.cancel()
        finally:
            while self._handlers:
                await asyncio.wait(self._handlers)
            renewing.cancel()

    def stop(self) -> None:
        """Stop receiving."""
        self._stopping.set()

    async def _loop(self, *, is_first: bool) -> None:
        delay = 1.0
        while not self._stopping.is_set():
            await self.intake.images.wait_for_room()
            try:
                messages = await self._receive()
            except QueueError as error:
                self.intake.health.update("queue", str(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay)
                delay = min(MAX_DELAY_SECONDS, delay * 2)
                continue
            delay = 1.0
            self.intake.health.update("queue", OK)
            if messages:
                _spawn(self._handle(messages), self._handlers)
            if len(messages) == BATCH_SIZE and len(self._loops) < MAX_LOOPS and not self._stopping.is_set():
                _spawn(self._loop(is_first=False), self._loops)
            elif len(messages) < BATCH_SIZE and not is_first:
                return

    async def _receive(self) -> list[Message]:
        if not self._visibility_seconds:
            self._visibility_seconds, _ = await self.queue.read_attributes()
            self.intake.health.update("queue", OK)  # an empty queue takes 20 s to answer the first receive
        return await self.queue.receive(self._visibility_seconds)

    async def _handle(self, messages: list[Message]) -> None:
        self._in_progress.update(messages)
        try:
            parsed = [(message, found) for message in messages if (found := await self._parse(message))]
            await self._settle([each for each in parsed if not each[1].images])
            await self.intake.images.add([image for _, found in parsed for image in found.images])
            await self._settle([each for each in parsed if each[1].images])
        except BatcherClosed:
            log.warning("%d messages stay in the queue; SQS delivers them again", len(messages))
        except QueueError as error:
            log.warning("Could not delete messages whose flow run exists; the redelivery is harmless: %s", error)
        except Exception:  # one bad batch must not stop the receiver
            log.exception("%d messages stay in the queue; SQS delivers them again", len(messages))
        finally:
            self._in_progress.difference_update(messages)

    async def _parse(self, message: Message) -> Notification | None:
        try:
            found = parse_notification(message.body.encode(errors="surrogatepass"), self.intake.settings)
        except InvalidNotification as error:
            self._in_progress.discard(message)
            self.intake.metrics.count_invalid("sqs")
            await self._reject(message, error)
            return None
        self.intake.metrics.count("sqs", found)
        if not found.error:
            message.body = ""  # pending messages must not hold memory
        return found

    async def _settle(self, parsed: list[tuple[Message, Notification]]) -> None:
        """Delete messages; move those with an unreadable event to the dead-letter queue instead, if there is one."""
        unreadable = [message for message, found in parsed if found.error and await self._reject(message, found.error)]
        rest = [message for message, _ in parsed if message not in unreadable]
        await self.queue.delete(rest)
        self._in_progress.difference_update(rest)

    async def _reject(self, message: Message, error: InvalidNotification) -> bool:
        """Move a message to the dead-letter queue. Return False if there is no such queue."""
        try:
            is_moved = await self.queue.dead_letter(message, str(error))
        except QueueError as failed:
            log.warning("Could not move an invalid message to the dead-letter queue: %s; %s", error, failed)
            return True
        action = "Moved to the dead-letter queue" if is_moved else "There is no dead-letter queue"
        log.warning("%s: an invalid message (received %d times): %s", action, message.receive_count, error)
        return is_moved

    async def _renew_visibility(self) -> None:
        while True:
            await asyncio.sleep(max(1.0, self._visibility_seconds / 6))
            soon = time.monotonic() + self._visibility_seconds * 0.6
            due = [message for message in self._in_progress if message.visible_at < soon]
            batches = [due[start : start + BATCH_SIZE] for start in range(0, len(due), BATCH_SIZE)]
            results = await asyncio.gather(
                *(self.queue.extend_visibility(batch, self._visibility_seconds) for batch in batches),
                return_exceptions=True,
            )
            if errors := [result for result in results if isinstance(result, BaseException)]:
                log.warning("%d messages may be delivered twice, which is harmless: %s", len(due), errors[0])


def _spawn(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
