"""`make bench` runs all benchmarks and writes benchmarks/README.md; `make bench-quick` runs small ones and prints them.

`python -m benchmarks --only steps,makespan` runs some of them. Each section is written as soon as it is measured; if a
benchmark fails, its old section stays. Progress goes to stderr, tables go to stdout.
"""

import argparse
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks import (
    batch,
    cluster,
    cpu_by_part,
    cpu_over,
    first_submit,
    makespan,
    memory,
    prefect_cost,
    reconcile,
    requests,
    steps,
    transfer,
    upload_to_submit,
)
from benchmarks.report import Table, machine, update_section
from benchmarks.servers import Servers

Benchmark = Callable[[Servers], list[Table]]
FULL: dict[str, Benchmark] = {
    "requests": partial(requests.run, images=40),
    "steps": partial(steps.run, images=100, trials=3),
    "cpu-by-part": partial(cpu_by_part.run, images=300, trials=3),
    "cpu-over": partial(cpu_over.run, images=300, trials=3),
    "prefect": partial(prefect_cost.run, count=400, trials=3),
    "transfer": partial(transfer.run, trials=3, sizes=transfer.SIZES),
    "memory": partial(memory.run, counts=(100, 1000, 5000)),
    "makespan-100": partial(makespan.run, images=100, trials=3),
    "makespan-1000": partial(makespan.run, images=1000, trials=3),
    "makespan-5000": partial(makespan.run, images=5000, trials=1),
    "batch-1000": partial(batch.run, images=1000, counts=(2, 4), trials=3),
    "batch-5000": partial(batch.run, images=5000, counts=(2, 4), trials=1),
    "first-submit": partial(first_submit.run, trials=5),
    "reconcile": partial(reconcile.run, sizes=reconcile.SIZES),
    "cluster": partial(cluster.run, images=200, task_runs=1000),
    "upload-to-submit": partial(upload_to_submit.run, uploads=20),
}
QUICK: dict[str, Benchmark] = {
    "requests": partial(requests.run, images=10),
    "steps": partial(steps.run, images=60, trials=1),
    "transfer": partial(transfer.run, trials=1, sizes=transfer.QUICK_SIZES),
    "cpu-by-part": partial(cpu_by_part.run, images=60, trials=1),
    "cpu-over": partial(cpu_over.run, images=60, trials=1),
    "makespan": partial(makespan.run, images=60, trials=1, faster=10),
    "batch": partial(batch.run, images=40, counts=(2,), trials=1, faster=10),
    "first-submit": partial(first_submit.run, trials=1),
    "reconcile": partial(reconcile.run, sizes={10_000: 1}),
    "upload-to-submit": partial(upload_to_submit.run, uploads=3),
}


def select(names: Sequence[str], only: Sequence[str]) -> list[str]:
    """Return the names in `only`, where `makespan` selects `makespan-100` too; all if it is empty."""
    wanted = [part for each in only for part in re.split(r"[,\s]+", each) if part]
    for part in wanted:
        if not any(name == part or name.startswith(f"{part}-") for name in names):
            raise SystemExit(f"Unknown benchmark {part}. Use: {', '.join(names)}")
    return [name for name in names if not wanted or any(name == w or name.startswith(f"{w}-") for w in wanted)]


def measure(name: str, benchmark: Benchmark, servers: Servers) -> str | None:
    """Return a benchmark's section, or None if it fails."""
    _progress(f"{name} …")
    before, begun = machine(), time.monotonic()
    try:
        tables = benchmark(servers)
    except Exception:  # noqa: BLE001 - the other benchmarks run all the same
        _progress(traceback.format_exc())
        return None
    _progress(f"{name}: {time.monotonic() - begun:.0f} s")
    heading = f"## {name.replace('-', ' ').capitalize()}"
    return "\n\n".join([heading, f"Measured {before}", *map(str, tables)])


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print and write; return 1 if a benchmark fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run small benchmarks and write nothing")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="names, separated by commas or spaces")
    given = parser.parse_args()
    benchmarks = QUICK if given.quick else FULL
    failed = []
    with Servers() as servers:
        for name in select(list(benchmarks), given.only):
            section = measure(name, benchmarks[name], servers)
            if section is None:
                failed.append(name)
                continue
            print(section, end="\n\n", flush=True)
            if not given.quick:
                update_section(name, section, list(FULL))
    if failed:
        _progress(f"failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
