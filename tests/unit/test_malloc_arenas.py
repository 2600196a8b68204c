"""Memory of a process: one malloc arena for all threads, and no library loaded before it is needed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

THREADS = 8
CHILD = f"""
import ctypes, threading
from i2v.malloc_arenas import limit_malloc_arenas
if "shared" == "{{arenas}}":
    limit_malloc_arenas()
barrier = threading.Barrier({THREADS})
def allocate():
    barrier.wait()
    objects = [bytes(5000) for _ in range(100)]
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range({THREADS})]
for each in threads: each.start()
for each in threads: each.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


def count_arenas(arenas: str) -> int:
    """Count the arenas of a process in which several threads allocate at the same time."""
    command = [sys.executable, "-c", CHILD.format(arenas=arenas)]
    completed = subprocess.run(command, capture_output=True, text=True, check=True, env={})  # noqa: S603 - our own code
    return completed.stdout.count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_threads_share_an_arena() -> None:
    """With `limit_malloc_arenas` threads create no arenas of their own."""
    assert count_arenas("shared") == 1 < count_arenas("apart")


def test_a_run_starts_without_ffmpeg() -> None:
    """FFmpeg's libraries are loaded with the first video, not at import."""
    code = "import sys, i2v.pipeline.generate; print('i2v.pipeline.store' in sys.modules, 'av' in sys.modules)"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - as above
    assert completed.stdout.split() == ["True", "False"]
