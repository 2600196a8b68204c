"""Open marks of jobs whose video is stored: `OpenMarkerCleaner` takes many away in one request.

A stored job never opens again, so its mark may stay a while; where a process dies before, reconcile takes it away. What
puts a mark, and takes one of another end away, is `i2v.ledger.ledger`.
"""

from __future__ import annotations

import logging

from i2v.errors import StorageError
from i2v.ledger import keys
from i2v.ledger.job import JobRecord
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

log = logging.getLogger(__name__)
BATCH_SIZE = 100
"""So many are taken away as soon as they are there; fewer at the run's next heartbeat, or at its end."""


class OpenMarkerCleaner:
    """The marks of one run that are still to be taken away."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._settings = settings
        self._marks: list[S3Uri] = []

    async def add(self, record: JobRecord) -> None:
        """The mark of a stored job."""
        image = record.image
        self._marks.append(keys.open_marker_uri(self._settings, image.name, image.etag, record.key))
        if len(self._marks) >= BATCH_SIZE:
            await self.flush()

    async def flush(self) -> None:
        """Take away what is there; what fails is left to reconcile."""
        marks, self._marks = self._marks, []
        if not marks:
            return
        try:
            await self._storage.delete_many(marks)
        except StorageError as error:
            log.debug("%s", error)
            await self._remove_singly(marks)

    async def _remove_singly(self, marks: list[S3Uri]) -> None:
        """Not every server knows how to delete many."""
        try:
            for mark in marks:
                await self._storage.delete(mark)
        except StorageError as error:
            log.warning("some jobs are stored, and reconcile will take their open marks away: %s", error)
