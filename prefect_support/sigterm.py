"""SIGTERM in a flow's process: Prefect sends it to cancel a run, and Kubernetes to stop a pod."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.exceptions import TerminationSignal

from i2v.pipeline.context import RunContext
from i2v.pipeline.events import LISTENER


@contextmanager
def graceful_sigterm(run: RunContext) -> Iterator[None]:
    """On SIGTERM, interrupt the run, let it end cleanly, and then raise `TerminationSignal` for Prefect.

    Prefect's own handler raises at once, which would lose the responses to requests in progress. With a listener, such
    as the command line, nothing is done: it handles signals itself.
    """
    if LISTENER.get():
        yield
        return
    received: list[int] = []
    loop, previous = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

    def interrupt() -> None:
        received.append(signal.SIGTERM)
        run.brake.interrupt()

    try:
        loop.add_signal_handler(signal.SIGTERM, interrupt)
    except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not in the main thread
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, previous)
    if received:
        raise TerminationSignal(signal=signal.SIGTERM)
