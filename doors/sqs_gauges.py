"""Prometheus gauges of the SQS queue: waiting messages and dead letters."""

from prometheus_client import CollectorRegistry, Gauge

from doors.periodic_read import PeriodicRead
from doors.sqs_queue import SqsQueue

NOT_KNOWN = float("nan")


class SqsGauges(PeriodicRead):
    """The gauges, and the background read behind them. Without a dead-letter queue, that gauge is not a number."""

    def __init__(self, queue: SqsQueue, registry: CollectorRegistry) -> None:
        super().__init__("sqs", self._read_counts, registry)
        self._queue = queue
        self._waiting = Gauge("i2v_queue_messages", "Messages in the queue", registry=registry)
        self._dead = Gauge("i2v_dead_letters", "Messages in the dead-letter queue", registry=registry)
        for gauge in (self._waiting, self._dead):
            gauge.set(NOT_KNOWN)

    async def _read_counts(self) -> None:
        self._waiting.set(await self._queue.count_messages())
        dead = await self._queue.count_dead_letters()
        self._dead.set(NOT_KNOWN if dead is None else dead)
