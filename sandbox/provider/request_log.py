"""What happened at the emulator: one `LogEntry` a request, in order. It only remembers; it decides nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any


@dataclass
class LogEntry:
    """One request or callback. `endpoint` is submit, status, balance, file, image, callback or other.

    `outcome` is the HTTP status that was answered, or what was done instead, such as `drop`; `fault` names a scripted
    fault that was at work. `seconds` is how long the answer took.
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
        """As JSON, money as a string."""
        return {**asdict(self), "billed_usd": str(self.billed_usd)}


class RequestLog:
    """All entries since the last reset."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []

    def find(self, endpoint: str, task_id: str | None = None) -> list[LogEntry]:
        """The entries of one endpoint, and where asked of one task."""
        return [
            entry
            for entry in list(self.entries)
            if entry.endpoint == endpoint and (task_id is None or entry.task_id == task_id)
        ]

    def count(self, key: Callable[[LogEntry], Any]) -> Counter[Any]:
        """How many entries there are of each."""
        return Counter(key(entry) for entry in list(self.entries))

    def clear(self) -> None:
        """Forget all."""
        self.entries.clear()
