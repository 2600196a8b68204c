"""A module as a process of its own: it can be killed and started again, and never outlives who started it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox.child_process import ROOT, ChildProcess, clean_environment

SERVER = ("http.server", "--bind", "127.0.0.1", "0")
LISTENS = r"Serving HTTP on \S+ port (\d+)"
END_SECONDS = 20
STARTER = """
import sys, time
from pathlib import Path
from sandbox.child_process import ChildProcess, clean_environment
child = ChildProcess(*sys.argv[2:], env=clean_environment() | {"PYTHONUNBUFFERED": "1"}, log=Path(sys.argv[1])).start()
print(child.wait_for_output(r"port (\\d+)")[1], flush=True)
time.sleep(60)
"""


def _child(folder: Path, *command: str) -> ChildProcess:
    return ChildProcess(*command, env=clean_environment() | {"PYTHONUNBUFFERED": "1"}, log=folder / "log")


def _is_closed(port: int) -> bool:
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return True
        time.sleep(0.05)
    return False


def test_a_killed_child_starts_again_as_it_was(tmp_path: Path) -> None:
    """Killed it is gone at once; started again it listens anew, and what it said before counts no more."""
    with _child(tmp_path, *SERVER) as child:
        first = child.wait_for_output(LISTENS)[1]
        assert child.kill() == -signal.SIGKILL
        assert _is_closed(int(first))
        child.start()
        assert child.wait_for_output(LISTENS)
        assert child.said().count("Serving HTTP") == 1
        assert child.is_running
    assert not child.is_running


def test_a_child_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    """Whoever waits for what never comes hears at once what went wrong instead."""
    with _child(tmp_path, "http.server", "no-port") as child, pytest.raises(RuntimeError, match="no-port"):
        child.wait_for_output(LISTENS)


def test_a_child_ends_with_who_started_it(tmp_path: Path) -> None:
    """Who is killed with -9 can end nothing, and yet nothing is left running."""
    command = [sys.executable, "-c", STARTER, str(tmp_path / "log"), *SERVER]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:  # noqa: S603 - our own
        assert starter.stdout
        port = int(starter.stdout.readline())
        starter.kill()
    assert _is_closed(port)
