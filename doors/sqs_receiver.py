"""Receive SQS messages, pass their images on, and delete them once Prefect has the flow run.

Messages in hand are kept hidden meanwhile, however long Prefect is away. What is in hand when the process dies comes
again by itself: nothing is deleted before its run exists.
"""

from __future__ import annotations

import asyncio
import logging
import time

from doors.batcher import BatcherClosed
from doors.door import Door
from doors.health import OK
from doors.notifications import InvalidNotification, NewImage, parse_notification
from doors.sqs_queue import BATCH_SIZE, Message, QueueError, SqsQueue

log = logging.getLogger(__name__)
MOST_RECEIVERS = 8
MOST_DELAY_SECONDS = 30.0
LAST_ANSWER_SECONDS = 1.0
"""How long an answer of SQS that is on its way is awaited at the end; an idle long poll is given up."""


class SqsReceiver:
    """Takes from one queue until it is stopped. A second loop starts where one gets all it can, and so on to eight."""

    def __init__(self, queue: SqsQueue, door: Door) -> None:
        self._queue = queue
        self._door = door
        self._hidden_seconds = 0
        self._in_hand: set[Message] = set()
        self._loops: set[asyncio.Task[None]] = set()
        self._settling: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Receive until `stop`."""
        keeping = asyncio.create_task(self._keep_hidden())
        try:
            self._start_loop()
            await self._stopping.wait()
            await self._end_loops()
        finally:
            while self._settling:
                await asyncio.wait(self._settling)
            keeping.cancel()

    def stop(self) -> None:
        """Take nothing more; `run` ends when all that is in hand is settled."""
        self._stopping.set()

    async def _end_loops(self) -> None:
        _, late = await asyncio.wait(self._loops, timeout=LAST_ANSWER_SECONDS)
        for loop in late:
            loop.cancel()

    def _start_loop(self) -> None:
        loop = asyncio.create_task(self._loop(is_first=not self._loops))
        self._loops.add(loop)
        loop.add_done_callback(self._loops.discard)

    async def _loop(self, *, is_first: bool) -> None:
        delay = 1.0
        while not self._stopping.is_set():
            await self._door.images.room()
            try:
                messages = await self._receive()
            except QueueError as error:
                self._door.health.say("queue", str(error))
                await self._rest(delay)
                delay = min(MOST_DELAY_SECONDS, delay * 2)
                continue
            delay = 1.0
            self._door.health.say("queue", OK)
            if messages:
                self._settle_soon(messages)
            if len(messages) == BATCH_SIZE and len(self._loops) < MOST_RECEIVERS and not self._stopping.is_set():
                self._start_loop()
            elif len(messages) < BATCH_SIZE and not is_first:
                return

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _receive(self) -> list[Message]:
        if not self._hidden_seconds:
            self._hidden_seconds = (await self._queue.traits()).hidden_seconds
            self._door.health.say("queue", OK)  # the first answer of an empty queue takes 20 s
        return await self._queue.receive(self._hidden_seconds)

    def _settle_soon(self, messages: list[Message]) -> None:
        settling = asyncio.create_task(self._settle(messages))
        self._settling.add(settling)
        settling.add_done_callback(self._settling.discard)

    async def _settle(self, messages: list[Message]) -> None:
        self._in_hand.update(messages)
        try:
            images, telling, idle = await self._read(messages)
            await self._finish(idle)
            await self._door.images.add(images)
            await self._finish(telling)
        except BatcherClosed:
            log.warning("%d messages are left in the queue and come again", len(messages))
        except QueueError as error:
            log.warning("messages whose run exists come again, which is harmless: %s", error)
        except Exception:  # what is wrong with some messages must not stop the others
            log.exception("%d messages are left in the queue and come again", len(messages))
        finally:
            self._in_hand.difference_update(messages)

    async def _finish(self, messages: list[Message]) -> None:
        await self._queue.delete(messages)
        self._in_hand.difference_update(messages)

    async def _read(self, messages: list[Message]) -> tuple[list[NewImage], list[Message], list[Message]]:
        """The images, the messages that tell of them, and those that tell of none."""
        images: list[NewImage] = []
        telling: list[Message] = []
        idle: list[Message] = []
        for message in messages:
            try:
                found = parse_notification(message.body.encode(errors="surrogatepass"), self._door.settings)
            except InvalidNotification as error:
                self._in_hand.discard(message)
                await self._reject(message, error)
                continue
            self._door.metrics.count("sqs", found)
            message.body = ""  # the memory of what waits is for its images
            images += found.images
            (telling if found.images else idle).append(message)
        return images, telling, idle

    async def _reject(self, message: Message, error: InvalidNotification) -> None:
        self._door.metrics.received.labels("sqs").inc()
        self._door.metrics.unreadable.inc()
        try:
            is_buried = await self._queue.dead_letter(message, str(error))
        except QueueError as failed:
            log.warning("a message that can never work stays in the queue: %s; %s", error, failed)
            return
        where = "went to the dead-letter queue" if is_buried else "stays, since the queue has no dead-letter queue"
        log.warning("a message that can never work %s (received %d times): %s", where, message.attempts, error)

    async def _keep_hidden(self) -> None:
        while True:
            await asyncio.sleep(max(1.0, self._hidden_seconds / 6))
            soon = time.monotonic() + self._hidden_seconds * 0.6
            due = [message for message in self._in_hand if message.hidden_until < soon]
            tens = [due[start : start + BATCH_SIZE] for start in range(0, len(due), BATCH_SIZE)]
            answers = await asyncio.gather(
                *(self._queue.hide(ten, self._hidden_seconds) for ten in tens), return_exceptions=True
            )
            if errors := [answer for answer in answers if isinstance(answer, BaseException)]:
                log.warning("%d messages may come twice, which is harmless: %s", len(due), errors[0])
