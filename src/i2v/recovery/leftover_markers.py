"""The open markers of the bucket, by job: which attempts may be open, and the removal of those that are not.

Each marker is handled by itself. Keep out what is asked of the provider (`i2v.recovery.reconcile`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from i2v.errors import NotFound
from i2v.ledger.job import JobRecord, JobState
from i2v.ledger.keys import OpenMarker
from i2v.pipeline.context import RunContext
from i2v.pipeline.named_copies.publish_copy import publish_copy
from i2v.pipeline.outputs.publish import publish_outputs
from i2v.s3.listing import S3Entry


@dataclass(frozen=True, slots=True)
class ListedMarker:
    """A marker in the bucket."""

    name: OpenMarker
    entry: S3Entry


async def list_open_markers(run: RunContext) -> dict[str, list[ListedMarker]]:
    """Return all open markers by job key, oldest first."""
    prefix = run.settings.jobs / "open/"
    entries = [entry async for entry in run.storage.list(prefix)]
    markers: dict[str, list[ListedMarker]] = {}
    for entry in sorted(entries, key=lambda entry: entry.last_modified):
        if name := OpenMarker.parse(entry.uri.key.removeprefix(prefix.key)):
            markers.setdefault(name.key, []).append(ListedMarker(name, entry))
    return markers


async def delete_settled_markers(run: RunContext, record: JobRecord | None, markers: Sequence[ListedMarker]) -> None:
    """Delete the markers whose attempts are settled, or were never claimed; first publish what a dead run did not."""
    settled = [marker for marker in markers if await _is_settled(run, record, marker)]
    if not settled:
        return
    if record and record.state in {JobState.REFUSED, JobState.FAILED}:
        await publish_outputs(run, record, record.image)
    if record and record.video:
        await publish_copy(run, record, record.image, None, record.video.uri)
    for marker in settled:
        await run.storage.delete(marker.entry.uri)
        run.ended_markers.forget(marker.entry.uri)
    await _restore_claimed(run, record, settled)


async def _restore_claimed(run: RunContext, known: JobRecord | None, deleted: Sequence[ListedMarker]) -> None:
    """Put a marker again if its attempt was claimed since: a run may put it between the check and a slow delete."""
    unclaimed = [one.name for one in deleted if not (known and known.attempt_numbered(one.name.number or 0))]
    newest = await run.ledger.read(unclaimed[0].key) if unclaimed else None
    if newest is None:
        return
    for name in unclaimed:
        attempt = newest.record.attempt_numbered(name.number or 0)
        if attempt and not attempt.is_settled:
            await run.ledger.put_open_marker(newest.record.image, name.key, attempt.number)


async def _is_settled(run: RunContext, record: JobRecord | None, marker: ListedMarker) -> bool:
    number = marker.name.number
    if number is None:  # format 1 named no attempt
        return not await _is_fresh(run, marker) if record is None else not record.is_open
    attempt = record.attempt_numbered(number) if record else None
    if record is None or attempt is None:
        return not await _is_fresh(run, marker)
    if not attempt.is_settled:
        return False
    return await run.ledger.task_pages.ensure(record, attempt)


async def _is_fresh(run: RunContext, marker: ListedMarker) -> bool:
    """Return whether a run may be about to claim the attempt, by S3's clock; also if the marker has just gone."""
    try:
        return (await run.storage.head(marker.entry.uri)).age_seconds < run.settings.lease_seconds
    except NotFound:
        return True
