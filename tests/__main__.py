"""Run tests: `python -m tests` runs what `make test` does, `python -m tests unit -k ratio` one tier or one file.

All tiers run as two pytest processes at the same time, because the tests with a Prefect server mostly use the CPU and
the others mostly wait. Each process gets its own `PREFECT_HOME`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryDirectory

from tests.support.paths import ROOT

OPTIONS = {
    "unit": ("-n", "2"),
    "integration": ("-n", "6", "--dist", "worksteal"),
    "crash": ("-n", "8"),
    # A Prefect server per worker, and files share deployments. Files start in the order of tests/pipeline/conftest.py.
    "pipeline": ("-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"),
}
WITHOUT_PREFECT = ("tests/crash", "tests/integration", "tests/unit", "-n", "4", "--dist", "worksteal")
WITH_PREFECT = ("tests/pipeline", *OPTIONS["pipeline"])


def run_one(path: str, arguments: Sequence[str]) -> int:
    """Run the tests below one path of `tests/` and return pytest's exit code."""
    with TemporaryDirectory() as home, _pytest(home, f"tests/{path}", *OPTIONS.get(path, ()), *arguments) as process:
        return process.wait()


def run_all(arguments: Sequence[str]) -> int:
    """Run every tier of `make test`; print one process's output live, then the other's, then both closing lines."""
    with ThreadPoolExecutor() as threads:
        live = threads.submit(_record, (*WITHOUT_PREFECT, *arguments), is_live=True)
        later = threads.submit(_record, (*WITH_PREFECT, *arguments), is_live=False)
        (code, lines), (later_code, later_lines) = live.result(), later.result()
    print(*later_lines, lines[-1], later_lines[-1], sep="", end="")
    return code or later_code


def _record(arguments: Sequence[str], *, is_live: bool) -> tuple[int, list[str]]:
    lines: list[str] = []
    with TemporaryDirectory() as home, _pytest(home, *arguments, stdout=subprocess.PIPE) as process:
        for line in process.stdout or ():
            lines.append(line)
            if is_live:
                print(line, end="", flush=True)
        return process.wait(), lines


def _pytest(home: str, *arguments: str, stdout: int | None = None) -> subprocess.Popen[str]:
    color = ("--color=yes",) if sys.stdout.isatty() else ()
    command = [sys.executable, "-m", "pytest", *arguments, *color]
    environment = os.environ | {"PREFECT_HOME": home}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=stdout, stderr=stdout and subprocess.STDOUT, text=True
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case [str(path), *rest] if not path.startswith("-"):
            sys.exit(run_one(path, rest))
        case rest:
            sys.exit(run_all(rest))
