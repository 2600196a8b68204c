"""`Table` is one result as Markdown; `update_section` writes results into benchmarks/README.md."""

import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from sandbox.child_process import ROOT

DOCUMENT = ROOT / "benchmarks" / "README.md"
MARK = "<!-- measured: `make bench` writes everything below -->\n"
SECTION = re.compile(r"^<!-- bench: ([\w-]+) -->\n", re.MULTILINE)
Cell = str | int | float
Row = Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """Rows under a title, with notes that explain them."""

    title: str
    head: Sequence[str]
    rows: Sequence[Row]
    notes: str = ""

    def __str__(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *([_cell(cell) for cell in row] for row in self.rows)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join(part for part in (f"### {self.title}", self.notes, table) if part)


def _cell(cell: Cell) -> str:
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.1f}" if abs(cell) >= 10 else f"{cell:.2f}"  # noqa: PLR2004
    return f"{cell:,}" if isinstance(cell, int) else cell


def median_or_zero(values: Iterable[float]) -> float:
    """Return the median, or 0 without values."""
    return median(list(values) or [0.0])


def percentile_95(values: Iterable[float]) -> float:
    """Return the value that 95 % of the values stay below, or 0 without values."""
    found = sorted(values)
    return found[min(len(found) - 1, int(len(found) * 0.95))] if found else 0.0


def machine() -> str:
    """Describe this machine and its load."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")
    system = f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {platform.system()} {platform.machine()}"
    return f"{now}; {system}; Python {platform.python_version()}; load average before: {load}."


def sections(text: str) -> dict[str, str]:
    """Return the sections below the mark by benchmark name."""
    _, *parts = SECTION.split(text.partition(MARK)[2])
    return {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}


def with_section(text: str, name: str, body: str, order: Sequence[str]) -> str:
    """Return the document with one section replaced. Sections follow `order`; unknown ones come last."""
    found = {**sections(text), name: body.strip()}
    names = sorted(found, key=lambda each: order.index(each) if each in order else len(order))
    return text.partition(MARK)[0] + MARK + "".join(f"\n<!-- bench: {each} -->\n\n{found[each]}\n" for each in names)


def update_section(name: str, body: str, order: Sequence[str]) -> None:
    """Replace one section of the document."""
    DOCUMENT.write_text(with_section(DOCUMENT.read_text(), name, body, order))
