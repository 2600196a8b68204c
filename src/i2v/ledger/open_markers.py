"""Batched deletion of the open markers of settled attempts: `OpenMarkerCleaner`. `Ledger` puts markers.

A marker names its attempt, so that a late delete cannot remove another's. If the process dies first, reconcile deletes
it.
"""

import logging

from i2v.errors import StorageError
from i2v.ledger import keys
from i2v.ledger.attempt import Attempt
from i2v.ledger.job import JobRecord
from i2v.ledger.ledger import Ledger
from i2v.s3_uri import S3Uri

log = logging.getLogger(__name__)
BATCH_SIZE = 100


class OpenMarkerCleaner:
    """Deletes one run's markers: each full batch at once, the rest on `flush`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._markers: dict[S3Uri, None] = {}

    async def add(self, record: JobRecord, attempt: Attempt | None) -> None:
        """Queue the marker of an attempt, if it is settled and its task has a page; a reopened one has two."""
        if attempt is None or not attempt.is_settled or not await self._ledger.task_pages.ensure(record, attempt):
            return
        settings = self._ledger.settings
        for reopened in {False, attempt.reopened}:
            uri = keys.open_marker_uri(settings, record.image, record.key, attempt.number, reopened=reopened)
            self._markers[uri] = None
        if len(self._markers) >= BATCH_SIZE:
            await self.flush()

    def forget(self, marker: S3Uri) -> None:
        """Take a marker that is deleted already from the queue."""
        self._markers.pop(marker, None)

    async def flush(self) -> None:
        """Delete the queued markers; reconcile deletes those that fail."""
        markers, self._markers = list(self._markers), {}
        if not markers:
            return
        try:
            await self._ledger.storage.delete_many(markers)
        except StorageError as error:
            log.debug("%s", error)
            await self._delete_one_by_one(markers)

    async def _delete_one_by_one(self, markers: list[S3Uri]) -> None:
        """Delete without `DeleteObjects`, which some servers do not support."""
        try:
            for marker in markers:
                await self._ledger.storage.delete(marker)
        except StorageError as error:
            log.warning("open markers of ended attempts were not deleted; the next reconcile deletes them: %s", error)
