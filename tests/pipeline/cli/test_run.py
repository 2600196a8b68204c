"""`i2v run` as a real process: with a Prefect server and with its own, at a terminal, and interrupted."""

from __future__ import annotations

import os
import pty
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.i2v_command import COMMAND, bare_env, i2v
from tests.support.paths import ROOT

SECONDS = 100
PROMPT = ("--prompt", "it moves")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def env(child_env: Mapping[str, str]) -> dict[str, str]:
    """The sandbox and the tests' Prefect server."""
    return {**child_env, "COLUMNS": "160"}


def put_images(sandbox: Sandbox, count: int) -> str:
    """Images in the bucket, and the prefix that names them."""
    for number in range(count):
        sandbox.put_image(f"images/cats/{number}.jpg", make_jpeg(400, 400, seed=number))
    return f"s3://{sandbox.bucket}/images/"


def billed(sandbox: Sandbox) -> int:
    """How many videos the provider billed."""
    return sum(sandbox.provider.billed().values())


def test_local_images_become_videos(sandbox: Sandbox, env: dict[str, str], tmp_path: Path) -> None:
    """A folder is put, animated and billed once; a wrong file is refused and not put; again, all is cached."""
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/tom.jpg").write_bytes(make_jpeg(400, 400))
    (tmp_path / "cats/tom.jpg.txt").write_text("it purrs")
    (tmp_path / "small.jpg").write_bytes(make_jpeg(300, 400))
    first = i2v("run", str(tmp_path), *PROMPT, "--json", env=env)
    again = i2v("run", str(tmp_path), *PROMPT, "--json", env=env)
    assert (first.code, first.report["stored"], first.report["refused"], first.report["spent_usd"]) == (0, 1, 1, 0.192)
    assert (again.code, again.report["cached"], again.report["refused"], again.report["spent_usd"]) == (0, 1, 1, 0.0)
    assert sandbox.keys("images/") == ["images/cats/tom.jpg"]
    assert [entry.prompt for entry in sandbox.provider.request_log.find("submit")] == ["it purrs"]


def test_a_dry_run_writes_nothing(sandbox: Sandbox, env: dict[str, str], tmp_path: Path) -> None:
    """Local files and objects are priced; nothing is put and nothing billed."""
    prefix = put_images(sandbox, 1)
    (tmp_path / "tom.jpg").write_bytes(make_jpeg(400, 400, seed=9))
    said = i2v("run", prefix, str(tmp_path), *PROMPT, "--dry-run", "--json", env=env)
    assert (said.code, said.report["planned"], sandbox.keys()) == (0, 2, ["images/cats/0.jpg"])


def test_a_failed_image_is_code_1_and_comes_first(sandbox: Sandbox, env: dict[str, str]) -> None:
    """One failure among good images is seen, and everything else is done."""
    prefix = put_images(sandbox, 3)
    sandbox.provider.add_fault(on="submit", kind="lost_answer")
    said = i2v("run", prefix, *PROMPT, env=env)
    lines = said.out.splitlines()
    assert (said.code, lines[1].split()[1]) == (1, "unknown")
    assert (lines[-1], 3) == ("2 stored · 1 unknown · $0.384", billed(sandbox))
    assert "In Prefect: http" in said.err


@dataclass
class Terminal:
    """A command at a terminal of its own: what it wrote so far, and its keyboard."""

    child: subprocess.Popen[bytes]
    keyboard: int
    seen: str = ""

    def read_until(self, found: Callable[[str], bool]) -> None:
        """Read until what is seen is as wanted, or the command has ended."""
        end = time.monotonic() + SECONDS
        while not found(self.seen):
            assert time.monotonic() < end, self.seen
            try:
                self.seen += _CONTROL.sub("", os.read(self.keyboard, 65_536).decode(errors="replace"))
            except OSError:  # as Linux says that the other side is closed
                return

    def end(self) -> int:
        """Its exit code."""
        self.read_until(lambda _: False)
        os.close(self.keyboard)
        return self.child.wait(SECONDS)


def at_terminal(env: Mapping[str, str], *words: str) -> Terminal:
    """Start `i2v` at a new terminal, as its foreground job."""
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        os.close(os.open(os.ttyname(theirs), os.O_RDWR))  # the first one that a session opens is its own

    child = subprocess.Popen(  # noqa: S603 - our own command
        [*COMMAND, *words],
        env={**env, "TERM": "xterm"},
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=take_terminal,  # noqa: PLW1509 - no threads of ours are in the way
    )
    os.close(theirs)
    return Terminal(child, ours)


def test_ctrl_c_ends_cleanly_and_the_next_run_goes_on(sandbox: Sandbox, env: dict[str, str]) -> None:
    """At a terminal there is a bar; Ctrl-C tells what is still open; a new run takes it up and pays nothing."""
    prefix = put_images(sandbox, 3)
    sandbox.provider.set_options(render_seconds=8)
    terminal = at_terminal(env, "run", prefix, *PROMPT)
    terminal.read_until(lambda seen: "3 rendering" in seen)
    os.write(terminal.keyboard, b"\x03")
    assert terminal.end() == 130
    (task_id, *_) = sandbox.provider.tasks
    assert all(words in terminal.seen for words in ("━", "3 still open · $0.576", "Stopping:", task_id[:12]))

    said = i2v("run", prefix, *PROMPT, "--json", env=env)
    assert (said.report["stored"], billed(sandbox), said.report["spent_usd"]) == (3, 3, 0.0)


def test_a_second_ctrl_c_ends_at_once(sandbox: Sandbox, env: dict[str, str]) -> None:
    """Nobody has to wait for an end that does not come; what was paid is in the ledger."""
    prefix = put_images(sandbox, 1)
    sandbox.provider.set_options(render_seconds=60)
    terminal = at_terminal(env, "run", prefix, *PROMPT)
    terminal.read_until(lambda seen: "1 rendering" in seen)
    os.write(terminal.keyboard, b"\x03\x03")
    assert terminal.end() == 130
    (job,) = i2v("jobs", "--json", env=env).report["jobs"]
    assert job["state"] == "submitted"


def test_sigterm_ends_cleanly(sandbox: Sandbox, env: dict[str, str]) -> None:
    """A container that is stopped leaves its report, and exits 143."""
    prefix = put_images(sandbox, 2)
    sandbox.provider.set_options(render_seconds=60)
    with subprocess.Popen(  # noqa: S603 - our own command
        [*COMMAND, "run", prefix, *PROMPT, "--json"],
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        sandbox.provider.wait(lambda: len(sandbox.provider.tasks) == 2, SECONDS)
        time.sleep(0.5)  # until the task ids are written down
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate(timeout=SECONDS)
    assert (child.returncode, '"submitted": 2' in out) == (143, True)


def recorded(home: Path) -> list[tuple[str, int]]:
    """The task runs in Prefect's own database, by state."""
    with sqlite3.connect(home / "prefect.db") as database:
        return database.execute("SELECT state_type, count(*) FROM task_run GROUP BY 1").fetchall()


def test_without_a_server_the_story_is_kept(sandbox: Sandbox, tmp_path: Path) -> None:
    """Two runs at once on a new PREFECT_HOME both succeed, all task runs' ends are kept, and no server is left."""
    prefix = put_images(sandbox, 20)
    env = bare_env(**sandbox.env, PREFECT_HOME=str(tmp_path))
    runs = [
        subprocess.Popen(  # noqa: S603 - our own command
            [*COMMAND, "run", prefix, *PROMPT, "--take", take],
            env=env,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for take in ("1", "2")
    ]
    said = [child.communicate(timeout=200) for child in runs]
    assert [child.returncode for child in runs] == [0, 0], said
    assert recorded(tmp_path) == [("COMPLETED", 2 * 20 * 4)]
    assert [out.splitlines()[-1] for out, _ in said] == ["20 stored · $3.84"] * 2
    assert not any(word in err for _, err in said for word in ("INFO", "Error", "Traceback")), said
    assert _children_with(tmp_path) == []


def _children_with(home: Path) -> list[str]:
    """Processes of this machine that were started with this PREFECT_HOME, some seconds later at most."""
    mark, found = f"PREFECT_HOME={home}".encode(), [""]
    end = time.monotonic() + 10
    while found and time.monotonic() < end:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append((process / "cmdline").read_text().replace("\0", " "))
        time.sleep(0.2)
    return found
