"""Decode what others made in child processes with limits of memory, CPU and time: `DECODER`.

A child that exceeds a limit dies alone, and another takes its place. Keep out what is done there
(`i2v.media.image_check`, `i2v.media.videos`).
"""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from importlib.machinery import ModuleSpec
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.util import Finalize
from pathlib import Path
from threading import Lock, Thread
from typing import TypeVar

from pebble import ProcessExpired, ProcessPool

from i2v.errors import DecoderStopped
from i2v.media.images import ImageFacts
from i2v.media.video_facts import VideoFacts

WORKERS = min(2, os.cpu_count() or 1)
MEMORY_BYTES = 1 << 30
"""A progressive JPEG of 120 megapixels takes 0.75 GB, a video in 4K 0.2 GB."""
CPU_SECONDS = 20
"""The slowest file that is accepted, 2 billion scanned pixels, takes 4 s."""
WALL_SECONDS = 120.0
"""Longer than the CPU time, because the machine may be busy."""
_ENDINGS = {
    signal.SIGXCPU: f"more than {CPU_SECONDS} s of CPU time",
    signal.SIGKILL: "its process was killed, probably because the machine has no memory left",
}
T = TypeVar("T")


class _Process(ForkServerProcess):
    """A process that does not import the parent's main module again: that of a flow run is all of Prefect."""

    def start(self) -> None:
        main = sys.modules["__main__"]
        spec, main.__spec__ = main.__spec__, ModuleSpec("i2v.__main__", None)  # multiprocessing never imports this name
        try:
            super().start()
        finally:
            main.__spec__ = spec


class _Context(ForkServerContext):
    Process = _Process


class Decoder:
    """A pool of child processes, started with the first file. They end with this process, however it ends."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._pool: ProcessPool | None = None

    def start(self) -> None:
        """Start the processes in the background, so that the first file does not wait 0.3 s for them."""
        Thread(target=self._start, name="decoder-start", daemon=True).start()

    def _start(self) -> None:
        with suppress(OSError, RuntimeError):  # the program is ending, or the first file tries again and reports it
            self._schedule(_do_nothing, ())

    async def check_image(self, body: bytes, label: str) -> ImageFacts:
        """Do what `i2v.media.image_check.check_image` does. Raise `DecoderStopped` too."""
        return await self.run(_check_image, body, label)

    async def examine_video(self, path: Path, sha256: str, fingerprint: str = "") -> tuple[VideoFacts, bytes]:
        """Do what `i2v.media.videos.examine_video` does. Raise `DecoderStopped` too."""
        return await self.run(_examine_video, path, sha256, fingerprint)

    async def salvage(self, path: Path, sha256: str) -> tuple[VideoFacts, bytes]:
        """Do what `i2v.media.videos.salvage` does; where even that exceeds a limit, with a gray poster."""
        try:
            return await self.run(_salvage, path, sha256)
        except DecoderStopped:
            return await self.run(_unknown_video, path, sha256)

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run a function in a child process; what it raises is raised here.

        Raise `DecoderStopped` if it exceeds a limit or its process dies.
        """
        try:
            return await self._run(function, args)
        except TimeoutError:
            raise _stopped(f"more than {WALL_SECONDS:.0f} s") from None
        except MemoryError:
            raise _stopped(f"more than {MEMORY_BYTES >> 20:,} MB of memory") from None
        except ProcessExpired as death:
            reason = f"its process ended with code {death.exitcode}"
            raise _stopped(_ENDINGS.get(-death.exitcode, reason)) from None

    async def _run(self, function: Callable[..., T], args: tuple[object, ...]) -> T:
        for is_first_try in (True, False):
            try:
                return await asyncio.wrap_future(await asyncio.to_thread(self._schedule, function, args))
            except BrokenProcessPool:  # an idle process was killed
                if not is_first_try:
                    raise _stopped("no process can be started") from None
        raise AssertionError("the second try returns or raises")

    def _schedule(self, function: Callable[..., T], args: tuple[object, ...]) -> Future[T]:
        with self._lock:
            if self._pool is None or not self._pool.active:
                context = _Context()
                context.set_forkserver_preload(["i2v.media.image_check", "i2v.media.videos"])
                self._pool = ProcessPool(WORKERS, initializer=_prepare, context=context)
                # at its exit, a child of multiprocessing joins its own children, which run until the pool is closed
                Finalize(None, self.close, exitpriority=1)
            return self._pool.schedule(_with_limit, args=(function, *args), timeout=WALL_SECONDS)

    def close(self) -> None:
        """End the processes; the next file starts them again."""
        with self._lock:
            if self._pool:
                self._pool.stop()  # type: ignore[no-untyped-call]
                self._pool.join()
            self._pool = None


DECODER = Decoder()
"""The pool of this process."""


def _stopped(limit: str) -> DecoderStopped:
    return DecoderStopped(f"Decoding was stopped: {limit}", "Run it again; if it is stopped again, use another file")


def _do_nothing() -> None:
    """Do nothing: processes start with the first task."""


def _check_image(body: bytes, label: str) -> ImageFacts:
    from i2v.media.image_check import check_image  # noqa: PLC0415 - only the child loads the decoders

    return check_image(body, label)


def _examine_video(path: Path, sha256: str, fingerprint: str) -> tuple[VideoFacts, bytes]:
    from i2v.media.videos import examine_video  # noqa: PLC0415 - only the child loads the decoders

    return examine_video(path, sha256, fingerprint)


def _salvage(path: Path, sha256: str) -> tuple[VideoFacts, bytes]:
    from i2v.media.videos import salvage  # noqa: PLC0415 - only the child loads the decoders

    return salvage(path, sha256)


def _unknown_video(path: Path, sha256: str) -> tuple[VideoFacts, bytes]:
    from i2v.media.videos import unknown_video  # noqa: PLC0415 - only the child loads the decoders

    return unknown_video(path, sha256)


def _prepare() -> None:
    """Give a child process its limits, no secrets, and an immediate end at SIGTERM."""
    os.environ.clear()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))


def _with_limit(function: Callable[..., T], *args: object) -> T:
    """Run a function with a limit of CPU time, which counts from the start of the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 1 + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    return function(*args)
