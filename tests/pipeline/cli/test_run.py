"""`i2v run` as a process: with a Prefect server, in a terminal, and interrupted."""

from __future__ import annotations

import os
import pty
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.synthetic_images import make_jpeg
from tests.support.door_process import wait_for
from tests.support.fault_proxy import FaultProxy, FaultRule
from tests.support.forked_command import forked_i2v, run_i2v, start_forked
from tests.support.orders import job_records

SECONDS = 100
PROMPT = ("--prompt", "it moves")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def env(child_env: Mapping[str, str]) -> dict[str, str]:
    """The environment of the sandbox and of the tests' Prefect server."""
    return {**child_env, "COLUMNS": "160"}


def put_images(sandbox: Sandbox, count: int) -> str:
    """Put images into the bucket, and return their prefix."""
    for number in range(count):
        sandbox.put_image(f"images/cats/{number}.jpg", make_jpeg(400, 400, seed=number))
    return f"s3://{sandbox.bucket}/images/"


def billed(sandbox: Sandbox) -> int:
    """Return how many videos the provider charged."""
    return sum(sandbox.provider.billed().values())


def test_local_images_become_videos(sandbox: Sandbox, env: dict[str, str], tmp_path: Path) -> None:
    """A folder is uploaded and charged once; an invalid file is refused and not uploaded; a rerun is cached."""
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/tom.jpg").write_bytes(make_jpeg(400, 400))
    (tmp_path / "cats/tom.jpg.txt").write_text("it purrs")
    (tmp_path / "small.jpg").write_bytes(make_jpeg(300, 400))
    first = forked_i2v("run", str(tmp_path), *PROMPT, "--json", env=env)
    rerun = forked_i2v("run", str(tmp_path), *PROMPT, "--json", env=env)
    assert (first.code, first.report["stored"], first.report["refused"], first.report["spent_usd"]) == (0, 1, 1, 0.192)
    assert (rerun.code, rerun.report["cached"], rerun.report["refused"], rerun.report["spent_usd"]) == (0, 1, 1, 0.0)
    assert sandbox.keys("images/") == ["images/cats/tom.jpg"]
    assert [entry.prompt for entry in sandbox.provider.request_log.find("submit")] == ["it purrs"]


def test_a_dry_run_writes_nothing(sandbox: Sandbox, env: dict[str, str], tmp_path: Path) -> None:
    """Local files and objects are priced; no uploads and no charges."""
    prefix = put_images(sandbox, 1)
    (tmp_path / "tom.jpg").write_bytes(make_jpeg(400, 400, seed=9))
    result = forked_i2v("run", prefix, str(tmp_path), *PROMPT, "--dry-run", "--json", env=env)
    assert (result.code, result.report["planned"], sandbox.keys()) == (0, 2, ["images/cats/0.jpg"])


@pytest.mark.parametrize(("image", "state", "code"), [("cats/0.jpg", "COMPLETED", 0), ("none.jpg", "FAILED", 3)])
def test_a_lost_answer_to_the_last_state_loses_no_report(
    sandbox: Sandbox, prefect_server: PrefectServer, env: dict[str, str], image: str, state: str, code: int
) -> None:
    """If Prefect's answer to a run's last state is lost, report and exit code are those of the run."""
    prefix = put_images(sandbox, 1)
    with FaultProxy(prefect_server.url.removeprefix("http://")) as proxy:
        rule = proxy.add(FaultRule("drop", "POST", r"/flow_runs/[^/]*/set_state$", rf'"type": ?"{state}"', "after"))
        result = forked_i2v(
            "run", f"{prefix}{image}", *PROMPT, "--json", env=env | {"PREFECT_API_URL": f"{proxy.url}/api"}
        )
    assert rule.hits == 1
    assert (result.code, len(result.report["items"]), "FailedRun:" in result.err) == (code, 1, False), result.err
    assert "Prefect may not show how this run ended" in result.err


def test_an_unknown_image_exits_1_and_comes_first(sandbox: Sandbox, env: dict[str, str]) -> None:
    """One unknown image is the first row, and the other images are stored."""
    prefix = put_images(sandbox, 3)
    sandbox.provider.add_fault(on="submit", kind="lost_answer")
    result = forked_i2v("run", prefix, *PROMPT, env=env)
    lines = result.out.splitlines()
    assert (result.code, lines[1].split()[0]) == (1, "unknown")
    assert (lines[-1], 3) == ("2 stored · 1 unknown · $0.384 charged, $0.192 possibly charged", billed(sandbox))
    assert "In Prefect: http" in result.err


@dataclass
class Terminal:
    """A command in a terminal of its own: its output so far, and its keyboard."""

    child: ForkServerProcess
    keyboard: int
    output: str = ""

    def read_until(self, is_enough: Callable[[str], bool]) -> None:
        """Read until there is enough output, or the command has ended."""
        end = time.monotonic() + SECONDS
        while not is_enough(self.output):
            assert time.monotonic() < end, self.output
            try:
                self.output += _CONTROL.sub("", os.read(self.keyboard, 65_536).decode(errors="replace"))
            except OSError:  # Linux raises EIO when the other side is closed
                return

    def end(self) -> int | None:
        """Wait for the exit code."""
        self.read_until(lambda _: False)
        os.close(self.keyboard)
        return exit_code(self.child)


def exit_code(child: ForkServerProcess) -> int | None:
    """Wait for the exit code."""
    child.join(SECONDS)
    return child.exitcode


def in_terminal(env: Mapping[str, str], *words: str) -> Terminal:
    """Start `i2v` in a new terminal, as its foreground job."""
    ours, theirs = pty.openpty()
    path = Path(os.ttyname(theirs))
    child = start_forked(run_i2v, *words, env={**env, "TERM": "xterm"}, out=path, err=path)
    terminal = Terminal(child, ours)
    terminal.read_until(bool)
    os.close(theirs)  # not before the child has it open
    return terminal


def test_ctrl_c_stops_cleanly_and_the_next_run_resumes(sandbox: Sandbox, env: dict[str, str]) -> None:
    """A terminal shows a bar; Ctrl-C lists what is still open; a new run resumes it without paying."""
    prefix = put_images(sandbox, 3)
    sandbox.provider.set_options(render_seconds=8)
    terminal = in_terminal(env, "run", prefix, *PROMPT)
    terminal.read_until(lambda output: "3 rendering" in output)
    os.write(terminal.keyboard, b"\x03")
    assert terminal.end() == 130
    (task_id, *_) = sandbox.provider.tasks
    assert all(words in terminal.output for words in ("━", "3 submitted · $0.576", "Stopping:", task_id[:12]))

    result = forked_i2v("run", prefix, *PROMPT, "--json", env=env)
    assert (result.report["stored"], billed(sandbox), result.report["spent_usd"]) == (3, 3, 0.0)


def test_a_second_ctrl_c_quits_immediately(sandbox: Sandbox, env: dict[str, str]) -> None:
    """A second Ctrl-C does not wait; the paid job is in the ledger."""
    prefix = put_images(sandbox, 1)
    sandbox.provider.set_options(render_seconds=60)
    terminal = in_terminal(env, "run", prefix, *PROMPT)
    terminal.read_until(lambda output: "1 rendering" in output)
    os.write(terminal.keyboard, b"\x03\x03")
    assert terminal.end() == 130
    (job,) = forked_i2v("jobs", "--json", env=env).report["jobs"]
    assert job["state"] == "submitted"


def test_sigterm_stops_cleanly(sandbox: Sandbox, env: dict[str, str], tmp_path: Path) -> None:
    """On SIGTERM the run prints its report and exits 143."""
    prefix = put_images(sandbox, 2)
    sandbox.provider.set_options(render_seconds=60)
    child = start_forked(run_i2v, "run", prefix, *PROMPT, "--json", env=env, out=tmp_path / "out")
    wait_for(lambda: [record.state for record in job_records(sandbox)] == ["submitted"] * 2)
    os.kill(child.pid or 0, signal.SIGTERM)
    assert (exit_code(child), '"submitted": 2' in (tmp_path / "out").read_text()) == (143, True)
