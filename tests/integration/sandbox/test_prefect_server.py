"""`PrefectServer.request` against a server that is busy, refuses, or is gone."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread

import pytest

from sandbox import prefect_server as module
from sandbox.prefect_server import PrefectServer

NOTHING = b""
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
MISSING = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
FOUND = b'HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n{"id": 1}'


class Running(PrefectServer):
    """A server with a live process, at the port of the scripted one."""

    is_running = True


@contextmanager
def answering(answers: Sequence[bytes]) -> Iterator[int]:
    """Answer one connection after the other; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(answer)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat requests at once."""
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0)


def test_a_busy_server_is_asked_again() -> None:
    """A lost answer and 503 are repeated."""
    with answering([NOTHING, BUSY, FOUND]) as port:
        assert Running(port=port).request("GET", "flow_runs/1") == {"id": 1}


def test_another_status_is_an_error() -> None:
    """The request is not repeated, and the error names the status."""
    with answering([MISSING]) as port, pytest.raises(RuntimeError, match="returned 404 to flow_runs/1"):
        Running(port=port).request("GET", "flow_runs/1")


def test_a_server_that_exited_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is not repeated if the process is gone."""
    monkeypatch.setattr(Running, "is_running", False)
    with answering([NOTHING]) as port, pytest.raises(RuntimeError, match="did not answer flow_runs/1"):
        Running(port=port).request("GET", "flow_runs/1")
