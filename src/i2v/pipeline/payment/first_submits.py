"""The first submits from a bucket: `FirstSubmits` lets only a few out until the provider has rendered one of them.

A bucket that the provider cannot fetch from would otherwise cost one failed task per image. Once a video from a bucket
is rendered, the ledger remembers the bucket for good.
"""

import asyncio
import logging
from collections import Counter, defaultdict
from typing import Self

from i2v.errors import I2vError, NotTried
from i2v.ledger.ledger import Ledger
from i2v.pipeline.submit_brake import Brake

log = logging.getLogger(__name__)


class FirstSubmits:
    """Limits one run's submits per bucket that the provider has not yet fetched from; a `limit` of 0 allows all."""

    def __init__(self, ledger: Ledger, brake: Brake, limit: int) -> None:
        self._ledger = ledger
        self._brake = brake
        self._limit = limit
        self._proven: set[str] = set()
        self._paid: Counter[str] = Counter()
        """Orders from a bucket that are in progress or were paid."""
        self._in_progress: Counter[str] = Counter()
        self._changed: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def trust(self, *buckets: str) -> None:
        """Do not limit these buckets; orders that wait go on."""
        self._proven.update(buckets)
        for bucket in buckets:
            self._wake(bucket)

    async def rendered(self, bucket: str) -> None:
        """Remember that a video from this bucket was rendered."""
        if bucket in self._proven:
            return
        self.trust(bucket)
        try:
            await self._ledger.info.add_fetched_bucket(bucket)
        except I2vError as error:
            log.warning("not remembered that the provider can fetch from %s: %s", bucket, error)

    def turn(self, bucket: str) -> "Turn":
        """Return the turn of an image from this bucket: `async with` waits until it may be submitted."""
        return Turn(self, bucket)

    async def enter(self, bucket: str) -> bool:
        """Return whether this is one of the first orders, once it may be submitted. Raise as `Turn` does."""
        return bool(self._limit) and bucket not in self._proven and await self._admit(bucket)

    def leave(self, bucket: str, *, paid: bool) -> None:
        """End one of a bucket's first orders; wake the orders that wait."""
        self._in_progress[bucket] -= 1
        self._paid[bucket] -= not paid
        self._wake(bucket)

    def count_another(self, bucket: str) -> None:
        """Count another attempt of one of the first orders. Raise `NotTried` if that is one too many."""
        if self._limit and bucket not in self._proven:
            if self._paid[bucket] >= self._limit:
                raise self._none_rendered(bucket)
            self._paid[bucket] += 1

    async def _admit(self, bucket: str) -> bool:
        """Return whether this is one of the first orders; `False` once the bucket is proven."""
        while bucket not in self._proven:
            if self._paid[bucket] < self._limit:
                self._paid[bucket] += 1
                self._in_progress[bucket] += 1
                return True
            self._brake.check_submit()
            if not self._in_progress[bucket]:
                raise self._none_rendered(bucket)
            await self._changed[bucket].wait()
        return False

    def _none_rendered(self, bucket: str) -> NotTried:
        message = f"the provider has rendered none of the first {self._limit} images from bucket {bucket}"
        return NotTried(f"Not submitted: {message}", "See why they failed; if it should go on: I2V_FIRST_SUBMITS=0")

    def _wake(self, bucket: str) -> None:
        if event := self._changed.pop(bucket, None):
            event.set()


class Turn:
    """The turn of one image. There is one for each video in flight, so it is small.

    `is_first` shows whether it is one of a bucket's first submits, which are polled; set `paid` once this run has paid
    for it. Entering raises `NotTried` if the first ones have ended and none was rendered.
    """

    __slots__ = ("_bucket", "_first_submits", "is_first", "paid")

    def __init__(self, first_submits: FirstSubmits, bucket: str) -> None:
        self._first_submits = first_submits
        self._bucket = bucket
        self.is_first = self.paid = False

    async def __aenter__(self) -> Self:
        self.is_first = await self._first_submits.enter(self._bucket)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.is_first:
            self._first_submits.leave(self._bucket, paid=self.paid)
