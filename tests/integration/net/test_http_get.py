"""A blocking read in a thread: how it is cancelled, and what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from i2v.net.http_get import run_in_thread


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """A pool of one thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


async def test_however_often_it_is_cancelled_it_waits_for_the_thread(threads: ThreadPoolExecutor) -> None:
    """A cancelled call returns only after its thread, also if it is cancelled again while it waits."""
    released, ended = threading.Event(), threading.Event()

    def work() -> None:
        released.wait(10)
        ended.set()

    sock, peer = socket.socketpair()
    with peer:
        task = asyncio.create_task(run_in_thread(threads, sock, work))
        for _ in range(3):
            await asyncio.sleep(0.01)
            task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
        released.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended.is_set()


async def test_cancelling_discards_what_has_arrived(threads: ThreadPoolExecutor) -> None:
    """A cancelled thread finds its socket at its end: parsing what has arrived could take it seconds."""
    released = threading.Event()
    received: list[bytes] = []
    sock, peer = socket.socketpair()

    def work() -> None:
        released.wait(10)
        received.append(sock.recv(1 << 20))

    with peer:
        peer.sendall(b"1\r\nx\r\n" * 10_000)
        task = asyncio.create_task(run_in_thread(threads, sock, work))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        released.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert received == [b""]


async def test_the_error_of_a_cancelled_thread_is_not_logged(
    threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread that fails after the cancel leaves no "exception was never retrieved" in the log."""
    released = threading.Event()

    def work() -> None:
        released.wait(10)
        raise OSError("the connection was shut down")

    sock, peer = socket.socketpair()
    with peer:
        task = asyncio.create_task(run_in_thread(threads, sock, work))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        released.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    del task
    gc.collect()
    # a future of an earlier test may be collected here too
    assert [record for record in caplog.records if "the connection was shut down" in record.getMessage()] == []


@pytest.mark.parametrize("fails", [False, True])
async def test_the_socket_is_closed(fails: bool, threads: ThreadPoolExecutor) -> None:
    """The socket is closed at the end, whether or not the work used it or failed."""

    def work() -> None:
        if fails:
            raise OSError("broken")

    sock, peer = socket.socketpair()
    with peer:
        (result,) = await asyncio.gather(run_in_thread(threads, sock, work), return_exceptions=True)
        assert isinstance(result, OSError) is fails
        assert sock.fileno() == -1
        assert peer.recv(1) == b""
