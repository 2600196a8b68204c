from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from i2v.errors import DecoderStopped, Refused
from i2v.media import decoder as module
from i2v.media.decoder import DECODER, Decoder
from sandbox.server import wait_until
from sandbox.synthetic_images import make_jpeg
from tests.support.paths import ROOT

LABEL = "s3://bucket/images/tom.jpg"
IMAGE = make_jpeg()


def pid() -> int:
    """Return the child's process id."""
    return os.getpid()


def take_memory() -> int:
    """Take more memory than any limit."""
    return len(bytearray(8 << 30))


def take_cpu() -> None:
    """Never end."""
    while True:
        pass


def die(number: int) -> None:
    """End the child as a crash does."""
    os.kill(os.getpid(), number)


def environment() -> dict[str, str]:
    """Return the child's environment variables."""
    return dict(os.environ)


@pytest.fixture
async def decoder() -> AsyncIterator[Decoder]:
    """Return the shared decoder, whose processes other tests use too."""
    yield DECODER
    assert (await DECODER.check_image(IMAGE, LABEL)).width == 640  # whatever happened, the next image is decoded


async def test_an_image_is_checked_in_another_process(decoder: Decoder) -> None:
    """Facts and refusals come back as if they were made here."""
    assert (await decoder.check_image(IMAGE, LABEL)).width == 640
    assert await decoder.run(pid) != os.getpid()
    with pytest.raises(Refused, match="is truncated") as caught:
        await decoder.check_image(IMAGE[:3000], LABEL)
    assert caught.value.rule == "truncated"


async def test_too_much_memory_ends_one_file(decoder: Decoder) -> None:
    """A file that takes more than the limit is stopped and says so; the process can go on."""
    with pytest.raises(DecoderStopped, match=r"more than 1,024 MB of memory"):
        await decoder.run(take_memory)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGSEGV, "ended with code -11"), (signal.SIGKILL, "killed"), (signal.SIGXCPU, "20 s of CPU time")],
)
async def test_a_crash_ends_one_file(decoder: Decoder, number: int, reason: str) -> None:
    """A child that crashes takes only its own file with it."""
    results = await asyncio.gather(decoder.run(die, number), decoder.check_image(IMAGE, LABEL), return_exceptions=True)
    assert isinstance(results[0], DecoderStopped)
    assert reason in str(results[0])
    assert getattr(results[1], "width", results[1]) == 640


async def test_time_is_limited(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that takes too long is stopped."""
    monkeypatch.setattr(module, "WALL_SECONDS", 1.0)
    with pytest.raises(DecoderStopped, match=r"more than 1 s\."):
        await decoder.run(take_cpu)


async def test_a_cancelled_image_stops_decoding(decoder: Decoder) -> None:
    """A cancel ends the child; a thread could not be stopped."""
    task = asyncio.ensure_future(decoder.run(take_cpu))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_children_have_no_secrets(decoder: Decoder) -> None:
    """A child has no environment variables."""
    assert await decoder.run(environment) == {}


async def test_idle_children_that_die_are_replaced(decoder: Decoder) -> None:
    """The pool starts again where its idle processes were killed."""
    for one in {await decoder.run(pid) for _ in range(20)}:
        os.kill(one, signal.SIGKILL)
    await asyncio.sleep(0.3)
    assert (await decoder.check_image(IMAGE, LABEL)).width == 640


PARENT = """
import asyncio, os, signal, sys
from i2v.media.decoder import DECODER
from sandbox.synthetic_images import make_jpeg

async def main():
    await DECODER.check_image(make_jpeg(), "x")
    print("ready", flush=True)
    await asyncio.sleep(60)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
asyncio.run(main())
"""


def _descendants(parent: int) -> set[int]:
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], check=True, capture_output=True, text=True)  # noqa: S607
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    found, new = set[int](), {parent}
    while new:
        new = {child for child, its_parent in pairs if its_parent in new}
        found |= new
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="uses ps")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT], ids=lambda one: one.name)
def test_no_child_outlives_its_parent(number: int, tmp_path: Path) -> None:
    """However the parent ends, its children end within seconds."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:  # noqa: S603
        assert run.stdout
        assert run.stdout.readline() == b"ready\n"
        children = _descendants(run.pid)
        assert len(children) >= 3
        run.send_signal(number)
        run.wait(60)
    assert _alive_later(children) == []


def _alive_later(children: set[int]) -> list[int]:
    """Return the processes that are still there after 10 s."""
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [child for child in children if Path(f"/proc/{child}").exists()]


STARTS = """
import sys
from i2v.media.decoder import DECODER

DECODER.start()
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="uses ps")
@pytest.mark.parametrize("processes", [0, 3], ids=["at once", "once they run"])
def test_processes_start_before_the_first_file(processes: int, tmp_path: Path) -> None:
    """They start without a file. The program ends cleanly before and after they run."""
    script = tmp_path / "parent.py"
    script.write_text(STARTS)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], env=env, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as run:  # noqa: S603
        wait_until(lambda: len(_descendants(run.pid)) >= processes)
        children = _descendants(run.pid)
        _, printed = run.communicate(b"\n", timeout=60)
    assert (run.returncode, printed) == (0, b"")
    assert _alive_later(children) == []
