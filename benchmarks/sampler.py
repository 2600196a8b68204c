"""A sampling profiler by CPU time: `Sampler`. Each thread's CPU since the last sample counts for where it is."""

import gc
import signal
import sys
import sysconfig
import threading
import time
from collections import defaultdict
from types import FrameType
from typing import Self

from sandbox.child_process import ROOT

INTERVAL_SECONDS = 0.002
PARTS = {
    "/prefect/_internal/concurrency/services": "Prefect: events",
    "/prefect/_internal/concurrency/threads": "Prefect: threads of events and logs",
    "/prefect/logging/": "Prefect: logs",
    "/prefect/events/": "Prefect: events",
    "/websockets/": "Prefect: events",
    "/prefect/": "Prefect: engine",
    "/botocore/": "S3",
    "/boto3/": "S3",
    "/s3transfer/": "S3",
    "/urllib3/": "S3",
    "/i2v/s3/": "S3",
    "/httpx/": "HTTP to the provider",
    "/httpcore/": "HTTP to the provider",
    "/i2v/apixo/": "HTTP to the provider",
    "/pebble/": "decoder",
    "/i2v/media/decoder": "decoder",
    "/i2v/": "library",
    "/prefect_support/": "i2v's tasks and artifacts",
    "/tasks/": "i2v's tasks and artifacts",
    "/flows/": "i2v's tasks and artifacts",
}
"""What a file belongs to, by the first of these that is in its path. Other files count for their callers."""
FOLDERS = (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), str(ROOT))
OTHERS = "event loop and others"
GARBAGE = "garbage collection"


class Sampler:
    """A context manager for the main thread; `seconds` has the CPU of this process by part, `lines` by function.

    A timer that counts CPU interrupts the main thread. A sampling thread would see the others only where they release
    the interpreter's lock.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.lines: defaultdict[str, float] = defaultdict(float)
        self._before: dict[int, float] = {}
        self._garbage = self._garbage_since = 0.0

    def __enter__(self) -> Self:
        gc.callbacks.append(self._on_garbage)
        self._sample(None)
        self.seconds.clear()
        self.lines.clear()
        signal.signal(signal.SIGPROF, lambda _, frame: self._sample(frame))
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        gc.callbacks.remove(self._on_garbage)
        self.seconds[GARBAGE] = self._garbage

    def _sample(self, interrupted: FrameType | None) -> None:
        frames, main = sys._current_frames(), threading.main_thread()  # noqa: SLF001 - documented for profilers
        for thread in threading.enumerate():
            frame = interrupted if thread is main else frames.get(thread.ident or 0)
            if (spent := self._spent(thread)) > 0:
                part, line = where(frame)
                part = "S3" if part == OTHERS and thread.name.startswith("s3") else part
                self.seconds[part] += spent
                self.lines[f"{part}: {line}"] += spent

    def _spent(self, thread: threading.Thread) -> float:
        """Return a thread's CPU since the last sample."""
        ident = thread.ident or 0
        try:
            now = time.clock_gettime(time.pthread_getcpuclockid(ident))
        except OSError:  # it has ended
            return 0
        spent = now - self._before.get(ident, 0)
        self._before[ident] = now
        return max(spent, 0)

    def _on_garbage(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._garbage_since = time.thread_time()
        else:
            self._garbage += time.thread_time() - self._garbage_since


def _name(frame: FrameType) -> str:
    """Return a function's file, from the project or the library that it belongs to, and its name."""
    file = frame.f_code.co_filename
    folder = next((each for each in FOLDERS if file.startswith(f"{each}/")), "")
    return f"{file.removeprefix(folder).lstrip('/')}:{frame.f_code.co_qualname}"


def where(frame: FrameType | None) -> tuple[str, str]:
    """Return the part that a stack belongs to, and its innermost function there."""
    innermost = _name(frame) if frame else ""
    while frame:
        for path, part in PARTS.items():
            if path in frame.f_code.co_filename:
                return part, _name(frame)
        frame = frame.f_back
    return OTHERS, innermost
