"""Run the real command as a child process: `i2v(…)` returns its exit code and output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

COMMAND = (sys.executable, "-m", "i2v.cli")


@dataclass(frozen=True)
class Result:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """Parse stdout, which must be one JSON object."""
        report: dict[str, Any] = json.loads(self.out)
        return report

    @property
    def errors(self) -> list[str]:
        """Return the lines that start with `error:`."""
        return [line.removeprefix("error: ") for line in self.err.splitlines() if line.startswith("error: ")]


def i2v(*words: str, env: Mapping[str, str], folder: Path = ROOT, seconds: float = 250) -> Result:
    """Run `i2v` with these arguments, environment and folder."""
    return _run([*COMMAND, *words], env, folder, seconds)


def run_script(script: str, env: Mapping[str, str], seconds: float = 250) -> Result:
    """Run Python code in the project's root, as a worker runs a flow."""
    return _run([sys.executable, "-c", script], env, ROOT, seconds)


def _run(words: Sequence[str], env: Mapping[str, str], folder: Path, seconds: float) -> Result:
    ended = subprocess.run(  # noqa: S603 - our own command
        words, env=dict(env), cwd=folder, capture_output=True, text=True, timeout=seconds, check=False
    )
    return Result(ended.returncode, ended.stdout, ended.stderr)


def bare_env(**variables: str) -> dict[str, str]:
    """Return the environment without any settings but these."""
    outside = ("PREFECT_", "I2V_", "APIXO_", "AWS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(outside)}
    return {**kept, "COLUMNS": "200", **variables}
