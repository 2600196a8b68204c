"""CPU and memory of processes from Linux's `/proc`, and child processes that print one JSON line.

Each side of a comparison runs in its own process, so that no cost is attributed to another side.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from os import sysconf
from pathlib import Path
from typing import Any

from sandbox.child_process import ROOT, clean_environment

PROC = Path("/proc")
TICKS = sysconf("SC_CLK_TCK")
IDLE_SHARE = 0.15
"""A server that uses less than this share of a core is idle."""
IDLE_SECONDS = 3
SETTLE_SECONDS = 120


def _stat(pid: int) -> list[str]:
    """Return `/proc/PID/stat` from the state on; empty for a dead process."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def children(pid: int) -> list[int]:
    """Return the direct children."""
    pids = (int(path.name) for path in PROC.iterdir() if path.name.isdigit())
    return [each for each in pids if (fields := _stat(each)) and int(fields[1]) == pid]


def tree(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield pid
    for child in children(pid):
        yield from tree(child)


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its descendants, with those that have ended and were waited for."""
    return sum(int(ticks) for each in tree(pid) for ticks in _stat(each)[11:15]) / TICKS


def peak_mb(pid: int | str = "self") -> float:
    """Return the peak resident memory since the start or the last `reset_peak`; 0 for a dead process."""
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def largest_child_mb(pid: int) -> float:
    """Return the peak of the descendant that took most; 0 without any."""
    return max((peak_mb(each) for each in tree(pid) if each != pid), default=0.0)


def resident_mb(pid: int | str = "self") -> float:
    """Return the resident memory."""
    return int((PROC / str(pid) / "statm").read_text().split()[1]) * resource.getpagesize() / (1 << 20)


def reset_peak(pid: int | str = "self") -> None:
    """Reset the peak to what is resident; 5 is the kernel's code for that."""
    (PROC / str(pid) / "clear_refs").write_text("5")


class Meter:
    """CPU and memory of a running server, optionally with its descendants."""

    def __init__(self, pid: int, *, whole_tree: bool = False) -> None:
        self._pid, self._whole_tree = pid, whole_tree
        self._cpu_before = 0.0

    @property
    def _pids(self) -> list[int]:
        return list(tree(self._pid)) if self._whole_tree else [self._pid]

    def _cpu(self) -> float:
        if self._whole_tree:
            return cpu_seconds(self._pid)
        return sum(map(int, _stat(self._pid)[11:13])) / TICKS

    def start(self) -> None:
        """Measure from now on."""
        self._cpu_before = self._cpu()
        for pid in self._pids:
            reset_peak(pid)

    def cpu_seconds(self) -> float:
        """Return the CPU seconds since `start`."""
        return self._cpu() - self._cpu_before

    def peak_mb(self) -> float:
        """Return the sum of the processes' peaks since `start`."""
        return sum(map(peak_mb, self._pids))

    def wait_idle(self) -> None:
        """Wait until the server has been idle for some seconds: a Prefect server writes events with a delay."""
        deadline, idle = time.monotonic() + SETTLE_SECONDS, 0
        while time.monotonic() < deadline and idle < IDLE_SECONDS:
            before = self._cpu()
            time.sleep(1)
            idle = idle + 1 if self._cpu() - before < IDLE_SHARE else 0


@dataclass(frozen=True)
class ChildResult:
    """The JSON object that a child printed last, and what the child cost."""

    seconds: float
    cpu: float
    output: dict[str, Any]


def run_child(module: str, *arguments: str, env: dict[str, str]) -> ChildResult:
    """Run `python -m MODULE`. Raise `RuntimeError` with the end of its stderr if it fails."""
    command = [sys.executable, "-m", module, *arguments]
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=clean_environment() | env, capture_output=True, text=True, check=False)
    seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = done.stdout.strip().splitlines()
    output = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return ChildResult(seconds, cpu, output)
