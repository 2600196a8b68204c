"""Callbacks of the emulator, received on a real socket."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.vendor_client import PRO, VendorClient


class Receiver(ThreadingHTTPServer):
    """Record POSTed bodies and respond with the statuses in `answers`, then 200."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.answers: list[int] = []

    @property
    def url(self) -> str:
        """The callback URL."""
        return f"http://127.0.0.1:{self.server_port}/callbacks?token=secret"

    @property
    def states(self) -> list[str]:
        """The received states, in order."""
        return [body["data"]["state"] for body in self.bodies]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the library
        """Log nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Return a callback receiver."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Submitter:
    """Submits tasks whose callbacks go to the receiver."""

    def __init__(self, client: VendorClient, receiver: Receiver, image_url: str) -> None:
        self.client = client
        self.provider = client.provider
        self._receiver = receiver
        self._fields = {"mode": PRO, "prompt": "p", "image_urls": [image_url]}

    def submit(self) -> str:
        """Submit one task and return its id."""
        body = {"request_type": "callback", "callback_url": self._receiver.url, "input": self._fields}
        task_id: str = self.client.post(body).json()["data"]["taskId"]
        return task_id


@pytest.fixture
def submitter(sandbox: Sandbox, provider: Provider, receiver: Receiver) -> Iterator[Submitter]:
    """Return a submitter whose callbacks are retried within hundredths of a second."""
    provider.set_options(callback_scale=0.001)
    with VendorClient(provider) as client:
        yield Submitter(client, receiver, sandbox.presign(sandbox.put_image("images/a.jpg", make_jpeg())))


def test_a_callback_carries_the_final_status(submitter: Submitter, receiver: Receiver) -> None:
    """The body of a callback equals a status response, except for the result URL's expiry."""
    task_id = submitter.submit()
    submitter.provider.wait(lambda: bool(receiver.bodies))
    (callback,) = receiver.bodies
    status = submitter.client.status(task_id).json()
    for body in (callback, status):
        assert "/files/" in body["data"].pop("resultJson")
    assert callback == status


def test_a_callback_is_sent_up_to_four_times_until_200(submitter: Submitter, receiver: Receiver) -> None:
    """Any other response, even 204, is followed by up to three more attempts, and then no more."""
    receiver.answers = [500, 204]
    submitter.submit()
    submitter.provider.wait(lambda: len(receiver.bodies) == 3)
    receiver.answers = [500] * 9
    submitter.submit()
    submitter.provider.wait(lambda: len(receiver.bodies) == 7)
    time.sleep(0.3)
    assert len(receiver.bodies) == 7
    entries = submitter.provider.request_log.find("callback")
    assert [entry.outcome for entry in entries] == ["500", "204", "200", "500", "500", "500", "500"]
    assert "secret" not in str(entries)


def test_a_failed_task_sends_a_callback(submitter: Submitter, receiver: Receiver) -> None:
    """A failure sends a callback too."""
    submitter.provider.add_fault(on="task", kind="fails", code="NSFW")
    submitter.submit()
    submitter.provider.wait(lambda: receiver.states == ["failed"])


@pytest.mark.parametrize(
    ("kind", "states"),
    [("lost", []), ("double", ["success", "success"]), ("disordered", ["success", "processing"])],
)
def test_callbacks_are_lost_doubled_or_out_of_order(
    submitter: Submitter, receiver: Receiver, kind: str, states: list[str]
) -> None:
    """A callback can be lost, sent twice, or followed by an older one."""
    submitter.provider.add_fault(on="callback", kind=kind)
    submitter.submit()
    count = max(1, len(states))
    log = submitter.provider.request_log
    submitter.provider.wait(lambda: len([entry for entry in log.find("callback") if entry.outcome]) == count)
    assert receiver.states == states


def test_callbacks_are_late_or_forged(submitter: Submitter, receiver: Receiver) -> None:
    """A callback can be late, and a forged one can arrive before the real one."""
    submitter.provider.add_fault(on="callback", kind="late", seconds=0.3)
    task_id = submitter.submit()
    submitter.provider.wait(lambda: submitter.provider.tasks[task_id].state == "success")
    assert receiver.bodies == []
    submitter.provider.wait(lambda: receiver.states == ["success"])
    submitter.provider.add_fault(on="callback", kind="forged")
    task_id = submitter.submit()
    submitter.provider.wait(lambda: len(receiver.bodies) == 3)
    assert [body["data"]["taskId"] == task_id for body in receiver.bodies[1:]] == [False, True]
    assert "example.com" in receiver.bodies[1]["data"]["resultJson"]


def test_a_callback_arrives_before_the_response(submitter: Submitter, receiver: Receiver) -> None:
    """A callback can arrive before the response to its submit."""
    submitter.provider.add_fault(on="submit", kind="after_callback")
    task_id = submitter.submit()
    assert [body["data"]["taskId"] for body in receiver.bodies] == [task_id]
