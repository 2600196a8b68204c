"""How long it takes to begin: `python -m benchmarks.start`. Help, the command's first submit, a flow run's."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.outside import Outside
from benchmarks.processes import ROOT, run_child
from benchmarks.table import Table, middle

RUN = ("run", "--prompt", "it moves", "--json")


def helped() -> float:
    """Seconds that `i2v --help` takes."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", "i2v.cli", "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - begun


def first_submit(outside: Outside, module: str, *arguments: str) -> tuple[float, float]:
    """Seconds from a process's start to its first submit, and to its end."""
    outside.fresh(1, render_seconds=0.2)
    images = [f"s3://{outside.bucket}/images/"] if arguments else []
    env = outside.env(I2V_POLL_FIRST_SECONDS="0.3", I2V_POLL_EVERY_SECONDS="0.1")
    told = run_child(module, *arguments, *images, env=env)
    (submit,) = outside.ask("journal?endpoint=submit")["entries"]
    return submit["at"] - told.started, told.seconds


def run(outside: Outside, trials: int) -> list[Table]:
    """Measure and tell."""
    rows: list[Sequence[str | float]] = [("`i2v --help`", "", middle(helped() for _ in range(trials)))]
    children = {"`i2v run`, one image": ("i2v.cli", *RUN), "a flow run, one image": ("benchmarks.flow_run",)}
    for name, (module, *arguments) in children.items():
        took = [first_submit(outside, module, *arguments) for _ in range(trials)]
        rows.append((name, middle(each[0] for each in took), middle(each[1] for each in took)))
    notes = f"Seconds from the start of the process, medians of {trials}, against a Prefect server that runs already."
    return [Table("Start", ("", "to the first submit", "to the end"), rows, notes)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=3)
    trials = parser.parse_args().trials
    with Outside(prefect=True) as outside:
        for table in run(outside, trials):
            print(table)


if __name__ == "__main__":
    main()
