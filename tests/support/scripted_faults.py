"""Faults of a bucket in memory, in the order of its operations: `SteppedStorage(bucket, ScriptedFaults(...))`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from i2v.s3_uri import S3Uri
from tests.support.interleaving import S3Fault


class ScriptedFaults:
    """The fault of each operation, or `None`. Operations after the last one succeed."""

    def __init__(self, *faults: S3Fault | None) -> None:
        self.late: list[Callable[[], Any]] = []
        self.operations: list[str] = []
        self._faults = list(faults)

    def script(self, *faults: S3Fault | None) -> None:
        """Let the next operations end so."""
        self._faults.extend(faults)

    @property
    def is_over(self) -> bool:
        """Whether all scripted operations have been done."""
        return not self._faults

    async def wait_for_turn(self, kind: str, uri: S3Uri | None = None) -> S3Fault | None:
        """Record the operation and return its fault, without waiting."""
        del uri
        self.operations.append(kind)
        return self._faults.pop(0) if self._faults else None
