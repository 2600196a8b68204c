"""All benchmarks in turn, into docs/benchmarks.md: `make bench`, and `make bench-quick` for those of two minutes.

A line for each as it begins goes to stderr, its tables to stdout. What is written by hand in the document, above the
mark, stays.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import makespan, requests_made, start, steps, transfer
from benchmarks.outside import Outside
from benchmarks.processes import ROOT
from benchmarks.table import Table, machine

DOCUMENT = ROOT / "docs" / "benchmarks.md"
MARK = "<!-- measured: all below is written by `make bench` -->\n"
Bench = Callable[[Outside], list[Table]]
FULL: dict[str, Bench] = {
    "start": lambda outside: start.run(outside, 5),
    "requests": lambda outside: requests_made.run(outside, 40),
    "steps": lambda outside: steps.run(outside, 300, 3),
    "transfer": lambda outside: transfer.run(outside, 3, transfer.SIZES),
    "makespan of 100": lambda outside: makespan.run(outside, 100, 3, 1),
    "makespan of 1,000": lambda outside: makespan.run(outside, 1000, 3, 1),
    "makespan of 5,000": lambda outside: makespan.run(outside, 5000, 3, 1),
}
QUICK: dict[str, Bench] = {
    "start": lambda outside: start.run(outside, 1),
    "requests": lambda outside: requests_made.run(outside, 10),
    "steps": lambda outside: steps.run(outside, 60, 1),
    "transfer": lambda outside: transfer.run(outside, 1, transfer.QUICK_SIZES),
    "makespan of 60": lambda outside: makespan.run(outside, 60, 1, 10),
}
SCRIPTS: dict[str, tuple[str, ...]] = {
    "reconcile_listing": ("1000000",),
    "door_notifications": (),
    "door_callbacks": (),
    "upload_to_submit": (),
}
"""Scripts that print numbers of their own; one that is not there is passed over."""


def tables(benches: dict[str, Bench]) -> Iterator[str]:
    """Each bench's tables as text, in one world."""
    with Outside(prefect=True) as outside:
        for name, bench in benches.items():
            begun = time.monotonic()
            say(f"{name} …")
            for table in bench(outside):
                yield str(table)
            say(f"{name}: {time.monotonic() - begun:.0f} s")


def script(name: str, arguments: tuple[str, ...]) -> str:
    """What a script of its own prints."""
    say(f"{name} …")
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    told = done.stdout.strip() if done.returncode == 0 else f"It failed:\n{done.stderr[-1000:]}"
    return f"### {name}\n\n`python -m benchmarks.{' '.join((name, *arguments))}`\n\n```text\n{told}\n```"


def say(what: str) -> None:
    """To whoever waits."""
    print(what, file=sys.stderr, flush=True)


def keep(parts: list[str], document: Path) -> None:
    """Write what was measured below the mark."""
    by_hand = document.read_text().partition(MARK)[0] if document.exists() else "# Benchmarks\n\n"
    document.write_text(by_hand + MARK + "\n" + "\n\n".join(parts) + "\n")
    say(f"written to {document.relative_to(ROOT)}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two minutes, smaller and faster; nothing is written")
    parser.add_argument("--only", nargs="*", help="benches whose name begins so; nothing is written")
    asked = parser.parse_args()
    benches = QUICK if asked.quick else FULL
    chosen = {name: b for name, b in benches.items() if not asked.only or name.startswith(tuple(asked.only))}
    parts = [f"Measured {machine()}"]
    print(parts[0], end="\n\n")
    for part in tables(chosen):
        parts.append(part)
        print(part, end="\n\n", flush=True)
    if asked.quick or asked.only:
        return
    for name, arguments in SCRIPTS.items():
        if (Path(__file__).parent / f"{name}.py").exists():
            parts.append(script(name, arguments))
            print(parts[-1], end="\n\n", flush=True)
    keep(parts, DOCUMENT)


if __name__ == "__main__":
    main()
