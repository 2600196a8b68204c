"""Start-up time: `i2v --help`, and the first submit of the command and of a flow run."""

from __future__ import annotations

from benchmarks.processes import run_child
from benchmarks.report import Row, Table, median_or_zero
from benchmarks.servers import Servers

CHILDREN = {
    "`i2v run`, one image": ("i2v.cli", "run", "--prompt", "it moves", "--json"),
    "a flow run, one image": ("benchmarks.flow_run",),
}


def measure(servers: Servers, module: str, *arguments: str) -> tuple[float, float]:
    """Return the seconds from a process's start to its first submit and to its end."""
    servers.reset(1, render_seconds=0.2)
    images = [f"s3://{servers.bucket}/images/"] if arguments else []
    child = run_child(module, *arguments, *images, env=servers.env(faster=100))
    (submit,) = servers.requests("submit")
    return submit["at"] - child.started, child.seconds


def run(servers: Servers, trials: int) -> list[Table]:
    """Measure all."""
    helped = median_or_zero(run_child("i2v.cli", "--help", env={}).seconds for _ in range(trials))
    rows: list[Row] = [("`i2v --help`", "", helped)]
    for name, command in CHILDREN.items():
        seconds = [measure(servers, *command) for _ in range(trials)]
        rows.append((name, median_or_zero(each[0] for each in seconds), median_or_zero(each[1] for each in seconds)))
    notes = f"Seconds from the start of the process, medians of {trials}. A Prefect server is already running."
    return [Table("Start", ("", "to the first submit", "to the end"), rows, notes)]
