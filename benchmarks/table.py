"""What a benchmark tells: `Table`, printed and written into docs/benchmarks.md alike. And the machine that told it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

Cell = str | int | float


@dataclass(frozen=True)
class Table:
    """Rows under a title; `notes` say what they mean."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: str = ""

    def __str__(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *([shown(cell) for cell in row] for row in self.rows)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join(part for part in (f"### {self.title}", self.notes, table) if part)


def shown(cell: Cell) -> str:
    """A number as people read it, three digits that count."""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.1f}" if abs(cell) >= 10 else f"{cell:.2f}"  # noqa: PLR2004
    return f"{cell:,}" if isinstance(cell, int) else cell


def middle(values: Iterable[float]) -> float:
    """The median, 0 of nothing."""
    found = list(values)
    return median(found) if found else 0.0


def late(values: Iterable[float]) -> float:
    """What 95 of 100 stay below."""
    return share_below(values, 0.95)


def share_below(values: Iterable[float], share: float) -> float:
    """What this share of them stays below; with 1 the largest, and 0 of nothing."""
    found = sorted(values)
    return found[min(len(found) - 1, int(len(found) * share))] if found else 0.0


def machine() -> str:
    """What it was measured on, and what else that machine had to do."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    where = f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GiB, {platform.system()} {platform.machine()}"
    return f"{now}; {where}; Python {platform.python_version()}; load before it began: {load}."


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")
