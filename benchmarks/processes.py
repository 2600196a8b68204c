"""What a process costs: CPU seconds and most memory, of Linux's `/proc`, and children that print one JSON line.

Every side of a comparison is a process of its own, so that nobody's cost is counted as another's.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
IDLE_SHARE = 0.15
"""A server that takes less than this part of a core has nothing left to write."""
IDLE_SECONDS = 3
SETTLE_SECONDS = 120
OUTSIDE = ("PREFECT_", "AWS_", "I2V_", "APIXO_")


def _fields(pid: int) -> list[str]:
    """`/proc/PID/stat` from the state on; empty for one that is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def children(pid: int) -> list[int]:
    """The direct children."""
    found = (int(path.name) for path in PROC.iterdir() if path.name.isdigit())
    return [each for each in found if (fields := _fields(each)) and int(fields[1]) == pid]


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for child in children(pid):
        yield from tree(child)


def peak_mb(pid: int | str = "self") -> float:
    """The most resident memory since the start or since `forget_peak`."""
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def now_mb(pid: int | str = "self") -> float:
    """What of a process is resident now."""
    return int((PROC / str(pid) / "statm").read_text().split()[1]) * resource.getpagesize() / (1 << 20)


def forget_peak(pid: int | str = "self") -> None:
    """Let the peak begin at what is resident now; Linux takes a 5 for that."""
    (PROC / str(pid) / "clear_refs").write_text("5")


class Meter:
    """A running server, with its children or without; `spent` is measured from `begin`."""

    def __init__(self, pid: int, *, whole_tree: bool = False) -> None:
        self._pid, self._whole_tree = pid, whole_tree
        self._begun = 0.0

    @property
    def _pids(self) -> list[int]:
        return list(tree(self._pid)) if self._whole_tree else [self._pid]

    def _cpu(self) -> float:
        return sum(int(ticks) for pid in self._pids for ticks in _fields(pid)[11:13]) / TICKS

    def begin(self) -> None:
        """Measure from now on."""
        self._begun = self._cpu()
        for pid in self._pids:
            forget_peak(pid)

    def spent(self) -> float:
        """CPU seconds since then."""
        return self._cpu() - self._begun

    def peak_mb(self) -> float:
        """The sum of its processes' peaks since then."""
        return sum(map(peak_mb, self._pids))

    def settle(self) -> None:
        """Wait until it idles for some seconds: a Prefect server writes on, and may have to wait for a core."""
        deadline, idle = time.monotonic() + SETTLE_SECONDS, 0
        while time.monotonic() < deadline and idle < IDLE_SECONDS:
            before = self._cpu()
            time.sleep(1)
            idle = idle + 1 if self._cpu() - before < IDLE_SHARE else 0


@dataclass(frozen=True)
class Told:
    """What a child printed last, what it cost, and what it took from its start to its end."""

    seconds: float
    started: float
    """Unix time."""
    cpu: float
    peak_mb: float
    said: dict[str, Any]


def _clean(env: dict[str, str]) -> dict[str, str]:
    """This environment without what would reach into a child, and then its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OUTSIDE)} | env


@contextmanager
def started(module: str, *, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m MODULE` while it runs; in the end it is ended by force."""
    command, quiet = [sys.executable, "-m", module], subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, env=_clean(env), stdout=quiet, stderr=quiet) as child:
        try:
            yield child
        finally:
            child.kill()


def run_child(module: str, *arguments: str, env: dict[str, str]) -> Told:
    """Run `python -m MODULE`, which prints a JSON object as its last line.

    Raises:
        RuntimeError: it failed; carries the end of what it said.
    """
    command = [sys.executable, "-m", module, *arguments]
    before, begun, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.time(), time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=_clean(env), capture_output=True, text=True, check=False)
    seconds, after = time.monotonic() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = done.stdout.strip().splitlines()
    said = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return Told(seconds, begun, cpu, said.get("peak_mb", 0.0), said)
