"""`i2v run` as a process on a temporary Prefect server: together with another, interrupted, and with a broken one."""

from __future__ import annotations

import fcntl
import signal
import sqlite3
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.door_process import wait_for
from tests.support.forked_command import forked_i2v
from tests.support.i2v_command import COMMAND, bare_env
from tests.support.orders import put_photos
from tests.support.paths import ROOT

PROMPT = ("--prompt", "it moves")
VALIDATING = ", and validating images: "

pytestmark = pytest.mark.timeout(240)


class Command:
    """A command with a temporary server, whose database is in `home`."""

    def __init__(self, sandbox: Sandbox, home: Path, *words: str) -> None:
        self._log = home / f"{len(list(home.glob('*.log')))}.log"
        with self._log.open("w") as log:
            self.child = subprocess.Popen(  # noqa: S603 - our own command
                [*COMMAND, "run", f"s3://{sandbox.bucket}/images/", *PROMPT, *words],
                env=bare_env(**sandbox.env, PREFECT_HOME=str(home)),
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    @property
    def stderr(self) -> str:
        """What it has printed so far."""
        return self._log.read_text()

    def has_validated(self) -> bool:
        """Whether it waits for nothing but the server."""
        assert self.child.poll() is None, self.stderr
        return VALIDATING in self.stderr and VALIDATING not in self.stderr.splitlines()[-1]


def recorded(home: Path) -> list[tuple[str, int]]:
    """Count the task runs in Prefect's database by state."""
    with sqlite3.connect(home / "prefect.db") as database:
        return database.execute("SELECT state_type, count(*) FROM task_run GROUP BY 1").fetchall()


def test_images_are_validated_while_the_server_starts(sandbox: Sandbox, tmp_path: Path) -> None:
    """Two runs on a new PREFECT_HOME validate before a server may start, record all task runs, and leave no server."""
    put_photos(sandbox, 4)
    with (tmp_path / "i2v-server.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        commands = [Command(sandbox, tmp_path, "--take", take) for take in ("1", "2")]
        wait_for(lambda: all(command.has_validated() for command in commands))
        assert sandbox.provider.request_log.find("submit") == []
        assert not (tmp_path / "prefect.db").exists()
    outputs = [command.child.communicate(timeout=200)[0] for command in commands]
    errors = [command.stderr for command in commands]
    assert [command.child.returncode for command in commands] == [0, 0], errors
    assert recorded(tmp_path) == [("COMPLETED", 2 * 4 * 4)]
    assert [out.splitlines()[-1] for out in outputs] == ["4 stored · $0.768"] * 2
    assert not any(word in err for err in errors for word in ("INFO", "Error", "Traceback")), errors
    assert _children_with(tmp_path) == []


def test_ctrl_c_while_the_server_starts_leaves_no_process(sandbox: Sandbox, tmp_path: Path) -> None:
    """It says that nothing was submitted, exits 130, and ends the server that has not started yet."""
    put_photos(sandbox, 1)
    with (tmp_path / "i2v-server.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = Command(sandbox, tmp_path)
        wait_for(command.has_validated)
        command.child.send_signal(signal.SIGINT)
        command.child.communicate(timeout=100)
        assert command.child.returncode == 130
        assert "interrupted: nothing was submitted" in command.stderr
        assert "Traceback" not in command.stderr
        assert _children_with(tmp_path) == []
    assert sandbox.provider.request_log.find("submit") == []


def test_a_server_that_cannot_start_is_named_before_the_upload(sandbox: Sandbox, tmp_path: Path) -> None:
    """The error has the server's own reason and what to do; a local image is not uploaded; exit 3."""
    (tmp_path / "prefect.db").write_text("not a database " * 100)
    (tmp_path / "tom.jpg").write_bytes(make_jpeg(400, 400))
    result = forked_i2v(
        "run", str(tmp_path / "tom.jpg"), *PROMPT, env=bare_env(**sandbox.env, PREFECT_HOME=str(tmp_path))
    )
    assert (result.code, sandbox.keys()) == (3, [])
    assert "The temporary Prefect server did not start: (sqlite3.DatabaseError) file is not a database" in result.err
    assert "Check the folder PREFECT_HOME" in result.err
    assert _children_with(tmp_path) == []


def _children_with(home: Path) -> list[str]:
    """Return the processes with this PREFECT_HOME that are still running after 10 s."""
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
