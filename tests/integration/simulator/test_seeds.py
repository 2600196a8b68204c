"""The promises hold in each of 200 simulated scenarios; `make simulate SEEDS=10000` runs more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

SEEDS, CHUNKS = 200, 2


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the simulator in a process of its own, since it patches the library."""
    command = [sys.executable, "-m", "tests.simulator", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_scenario_breaks_a_promise(chunk: int) -> None:
    """Whatever fails, is killed, frozen or resolved, nothing is paid twice, lost, miscounted or waits for ever."""
    count = SEEDS // CHUNKS
    ended = simulate(str(count), "--first", str(chunk * count), "--processes", "1")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_broken_promises_are_found() -> None:
    """The simulator sees a POST without a claim, a second one, one without money, and an image without an end."""
    mutants = ("post_without_claim", "repeat_after_lost_answer", "no_reservation", "image_not_named")
    ended = simulate("100", "--processes", "1", "--mutants", *mutants)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_seed_is_one_scenario() -> None:
    """The same seed gives the same events, to the millisecond, in every process."""
    first, second = simulate("--seed", "7"), simulate("--seed", "7")
    assert first.stdout == second.stdout
    assert len(first.stdout.splitlines()) > 20
