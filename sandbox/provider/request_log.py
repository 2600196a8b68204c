"""What the emulator received and sent, in order: one `LogEntry` per request or callback."""

import time
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any


@dataclass
class LogEntry:
    """One request or callback. `endpoint` is submit, status, balance, file, image, callback or other.

    `outcome` is the HTTP status of the response, or what happened instead, such as `drop`. `fault` is the kind of the
    scripted fault that was applied. `seconds` is how long the response took.
    """

    endpoint: str
    method: str
    path: str
    at: float = field(default_factory=time.time)
    seconds: float = 0
    outcome: str = ""
    fault: str = ""
    task_id: str | None = None
    prompt: str | None = None
    mode: str | None = None
    duration: Any = None
    image_sha256: str | None = None
    billed_usd: Decimal = Decimal(0)

    def report(self) -> dict[str, Any]:
        """Return JSON data, with money as a string."""
        return {**asdict(self), "billed_usd": str(self.billed_usd)}


@dataclass
class RequestLog:
    """All entries since the last reset."""

    entries: list[LogEntry] = field(default_factory=list)

    def find(self, endpoint: str, task_id: str | None = None) -> list[LogEntry]:
        """Return the entries of one endpoint, and optionally of one task."""
        return [
            entry
            for entry in list(self.entries)
            if entry.endpoint == endpoint and (task_id is None or entry.task_id == task_id)
        ]
