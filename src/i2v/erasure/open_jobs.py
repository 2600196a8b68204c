"""Whether an image has a job that is open or about to be paid, and what to do then."""

from collections.abc import Mapping
from datetime import datetime

from i2v.advised_commands import command
from i2v.erasure.selection import FoundImage, Selection
from i2v.errors import NotFound
from i2v.ledger import keys
from i2v.ledger.job import JobRecord, JobState
from i2v.ledger.ledger import Ledger
from i2v.s3_uri import S3Uri


async def why_open(
    ledger: Ledger, selection: Selection, image: FoundImage, forgotten: Mapping[str, datetime]
) -> str | None:
    """Return why an image cannot be erased now. A run puts an open marker before it looks for the forgotten one.

    `forgotten` has the times at which an earlier try marked versions of it as forgotten.
    """
    prefix = ledger.settings.jobs / f"open/{keys.digest12(image.name)}-"
    entries = [entry async for entry in ledger.storage.list(prefix)]
    parsed = [(marker, one) for one in entries if (marker := keys.OpenMarker.parse(one.uri.key.rpartition("/")[2]))]
    for key in {marker.key for marker, _ in parsed} | (image.jobs & selection.records.keys()):
        found = await ledger.read(key)
        if found and found.record.is_open and selection.find(found.record.image.label) is image:
            return what_to_do(found.record)
    for marker, entry in parsed:
        since = forgotten.get(marker.version)
        is_refused = since is not None and since < entry.last_modified
        if not is_refused and await _is_about_to_be_paid(ledger, marker, entry.uri):
            return f"job {marker.key[:12]} is being submitted: run this command again in a few minutes"
    return None


async def _is_about_to_be_paid(ledger: Ledger, marker: keys.OpenMarker, uri: S3Uri) -> bool:
    """Return whether a run may claim the attempt that this marker names."""
    found = await ledger.read(marker.key)
    if marker.number is None or (found and found.record.attempt_numbered(marker.number)):
        return False
    try:
        return (await ledger.storage.head(uri)).age_seconds < ledger.settings.lease_seconds
    except NotFound:
        return True


def what_to_do(record: JobRecord) -> str:
    """Return why an image with this open job is not erased, and what to do."""
    key = record.key[:12]
    drop = command("jobs", "resolve", key, "--drop")
    if record.state is JobState.UNKNOWN:
        return f"job {key} is unknown, and possibly charged. Resolve it first, e.g. give it up: {drop}"
    if record.state is JobState.CLAIMED:
        return f"job {key} is being submitted. Run first: {command('reconcile')}"
    return f"job {key} is paid and not finished. Store its video first: {command('reconcile')}; or give it up: {drop}"
