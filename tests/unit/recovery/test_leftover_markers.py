"""Open markers that reconcile finds: which it deletes, and which it puts again."""

from __future__ import annotations

import pytest

from i2v.ledger import keys
from i2v.ledger.job import JobState
from i2v.recovery.leftover_markers import delete_settled_markers, list_open_markers
from i2v.s3_uri import S3Uri
from tests.support.job_records import BY_STATE
from tests.support.memory_storage import MemoryBucket, WatchedStorage, memory_run


@pytest.mark.parametrize(("state", "stays"), [(JobState.SUBMITTED, True), (JobState.STORED, False)])
async def test_a_marker_whose_attempt_is_claimed_meanwhile_is_put_again(state: JobState, stays: bool) -> None:
    """A run may write the marker again and claim between the check and a slow delete: the job must be found."""
    bucket, record = MemoryBucket(), BY_STATE[state]

    def claim(operation: str, uri: S3Uri) -> None:
        if operation == "delete" and "/open/" in uri.key:
            bucket.put(keys.job_uri(run.settings, record.key), record.model_dump_json().encode(), "", {}, "")

    run = memory_run(WatchedStorage(bucket, claim))
    marker = keys.open_marker_uri(run.settings, record.image, record.key, 1)
    bucket.put(marker, b"", "", {}, "")
    bucket.wait(run.settings.lease_seconds + 1)
    (markers,) = (await list_open_markers(run)).values()
    await delete_settled_markers(run, None, markers)
    assert (marker in bucket.objects) is stays
