"""Merge the rows of a day with those of changed records: `merge_rows`. Of a job, rows of its newest revision stay."""

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import Any

Line = dict[str, Any]
_JOB = itemgetter("job")
_JOB_AND_ATTEMPT = itemgetter("job", "attempt")


def merge_rows(old: Iterable[Line], new: Iterable[Line]) -> Iterator[Line]:
    """Yield the rows by job and attempt; both must be sorted so. The order of writers does not matter."""
    for _, rows in groupby(merge(old, new, key=_JOB_AND_ATTEMPT), key=_JOB):
        of_job = list(rows)
        newest = max(row["revision"] for row in of_job)
        yield from {row["attempt"]: row for row in of_job if row["revision"] == newest}.values()
