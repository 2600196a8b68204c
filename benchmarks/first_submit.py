"""The time from typing `i2v run` to its first submit: with a Prefect server, and with a temporary one."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.processes import run_child
from benchmarks.report import Row, Table, median_or_zero
from benchmarks.servers import Servers

IMAGES = 3
KINDS = ("a Prefect server", "a temporary server", "a temporary server, new database")


def run(servers: Servers, trials: int) -> list[Table]:
    """Start the command in turn in each way."""
    home = servers.folder / "first-submit"
    _seconds(servers, home, has_server=False)  # creates the database
    done: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    measure: dict[str, Callable[[], tuple[float, float]]] = {
        KINDS[0]: lambda: _seconds(servers, home, has_server=True),
        KINDS[1]: lambda: _seconds(servers, home, has_server=False),
        KINDS[2]: lambda: _seconds(servers, servers.folder / "first-submit-new", has_server=False),
    }
    for _ in range(trials):
        shutil.rmtree(servers.folder / "first-submit-new", ignore_errors=True)
        for kind, found in done.items():
            found.append(measure[kind]())
    rows: list[Row] = [
        (kind, *(median_or_zero(each) for each in zip(*found, strict=True))) for kind, found in done.items()
    ]
    notes = f"Medians of {trials}, {IMAGES} images. CPU of the command and its own server, until both have ended."
    return [Table("First submit", ("with", "seconds", "CPU seconds"), rows, notes)]


def _seconds(servers: Servers, home: Path, *, has_server: bool) -> tuple[float, float]:
    """Return seconds to the first submit and the CPU seconds of the whole command."""
    servers.reset(IMAGES, side_px=640, render_seconds=0.5)
    env = servers.env(faster=30) | {"PREFECT_HOME": str(home)}
    if not has_server:
        del env["PREFECT_API_URL"]
    begun = time.time()
    done = run_child("i2v.cli", "run", f"s3://{servers.bucket}/images/", "--prompt", "it moves", env=env)
    return min(entry["at"] for entry in servers.requests("submit")) - begun, done.cpu
