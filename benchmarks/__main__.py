"""All benchmarks in turn, into docs/benchmarks.md: `make bench`, and `make bench-quick` for smaller ones, only printed.

    python -m benchmarks --only steps,makespan

measures some of them, and `makespan` stands for all of that name. Each has a section of its own in the document, that
is written once it is measured; where one fails, what was there stays. Progress goes to stderr, tables to stdout.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks import (
    document,
    in_flight,
    makespan,
    prefect_alone,
    reconcile_listing,
    requests_made,
    scripts,
    start,
    steps,
    transfer,
)
from benchmarks.outside import Outside
from benchmarks.table import Table, machine

Bench = Callable[[Outside], list[Table]]
Alone = Callable[[], list[Table]]
FULL: dict[str, Bench] = {
    "start": partial(start.run, trials=5),
    "requests": partial(requests_made.run, images=40),
    "steps": partial(steps.run, images=300, trials=3),
    "prefect": partial(prefect_alone.run, images=400, trials=3),
    "transfer": partial(transfer.run, trials=3, sizes=transfer.SIZES),
    "memory": partial(in_flight.run, numbers=(100, 1000, 5000)),
    "makespan-100": partial(makespan.run, images=100, trials=3, faster=1),
    "makespan-1000": partial(makespan.run, images=1000, trials=3, faster=1),
    "two-runs": partial(makespan.run, images=1000, trials=3, faster=1, sides=makespan.SPLIT),
    "makespan-5000": partial(makespan.run, images=5000, trials=1, faster=1),
}
QUICK: dict[str, Bench] = {
    "start": partial(start.run, trials=1),
    "requests": partial(requests_made.run, images=10),
    "steps": partial(steps.run, images=60, trials=1),
    "transfer": partial(transfer.run, trials=1, sizes=transfer.QUICK_SIZES),
    "makespan": partial(makespan.run, images=60, trials=1, faster=10),
}
FULL_ALONE: dict[str, Alone] = {
    "reconcile": partial(reconcile_listing.run, reconcile_listing.SIZES),
    "door-notifications": partial(scripts.run, "door_notifications"),
    "door-callbacks": partial(scripts.run, "door_callbacks"),
    "awaited-memory": partial(scripts.run, "awaited_memory"),
    "upload-to-submit": partial(scripts.run, "upload_to_submit"),
}
"""What starts a world of its own."""
QUICK_ALONE: dict[str, Alone] = {"reconcile": partial(reconcile_listing.run, {10_000: 1})}


def measured(benches: dict[str, Bench], alone: dict[str, Alone]) -> Iterator[tuple[str, list[Table]]]:
    """Each benchmark's tables; none where it failed."""
    with ExitStack() as stack:
        outside = stack.enter_context(Outside(prefect=True)) if benches else None
        for name, bench in benches.items():
            yield name, tables(name, partial(bench, outside))  # type: ignore[arg-type]
    for name, measure in alone.items():
        yield name, tables(name, measure)


def tables(name: str, measure: Callable[[], list[Table]]) -> list[Table]:
    """What one tells, and to whoever waits how long it took."""
    say(f"{name} …")
    begun = time.monotonic()
    try:
        return measure()
    except Exception:  # noqa: BLE001 - the others are measured all the same
        say(traceback.format_exc())
        return []
    finally:
        say(f"{name}: {time.monotonic() - begun:.0f} s")


def chosen(names: Sequence[str], asked: Sequence[str]) -> list[str]:
    """Those that are asked for by name, or by what a name begins with; all where none is.

    Raises:
        SystemExit: there is none of that name.
    """
    wanted = [part for each in asked for part in re.split(r"[,\s]+", each) if part]
    for part in wanted:
        if not any(name == part or name.startswith(f"{part}-") for name in names):
            raise SystemExit(f"There is no benchmark {part}. There are: {', '.join(names)}")
    return [name for name in names if not wanted or any(name == w or name.startswith(f"{w}-") for w in wanted)]


def section(name: str, told: list[Table], before: str) -> str:
    """As it stands in the document."""
    heading = name.replace("-", " ").capitalize()
    return "\n\n".join([f"## {heading}", f"Measured {before}", *map(str, told)])


def say(what: str) -> None:
    """To whoever waits."""
    print(what, file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print, write; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller and faster; nothing is written")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="some of them, by comma or space")
    asked = parser.parse_args()
    benches, alone = (QUICK, QUICK_ALONE) if asked.quick else (FULL, FULL_ALONE)
    names = chosen([*benches, *alone], asked.only)
    failed = []
    before = machine()
    some = {name: bench for name, bench in benches.items() if name in names}
    for name, told in measured(some, {name: bench for name, bench in alone.items() if name in names}):
        if not told:
            failed.append(name)
            continue
        text = section(name, told, before)
        print(text, end="\n\n", flush=True)
        if not asked.quick:
            document.keep(name, text, [*FULL, *FULL_ALONE])
        before = machine()
    if failed:
        say(f"not measured: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
