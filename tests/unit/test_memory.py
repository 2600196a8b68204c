"""Memory of a process: one malloc arena for all threads, and no library before it is needed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

THREADS = 8
CHILD = f"""
import ctypes, threading
from i2v.memory import limit_malloc_arenas
if "shared" == "{{how}}":
    limit_malloc_arenas()
together = threading.Barrier({THREADS})
def take():
    together.wait()
    held = [bytes(5000) for _ in range(100)]
    together.wait()
threads = [threading.Thread(target=take) for _ in range({THREADS})]
for each in threads: each.start()
for each in threads: each.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


def heaps(how: str) -> int:
    """Count the arenas of a process in which several threads allocate at once."""
    command = [sys.executable, "-c", CHILD.format(how=how)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={})  # noqa: S603 - our own text
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's")
def test_threads_share_an_arena() -> None:
    """With `limit_malloc_arenas` threads create no arenas of their own."""
    assert heaps("shared") == 1 < heaps("apart")


def test_a_run_starts_without_ffmpeg() -> None:
    """FFmpeg's libraries are loaded with the first video only."""
    code = "import sys, i2v.pipeline.generate; print('i2v.pipeline.store' in sys.modules, 'av' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - as above
    assert done.stdout.split() == ["True", "False"]
