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
from sandbox.vendor_client import PRO, VendorClient


class Receiver(ThreadingHTTPServer):
    """Keeps what is POSTed to it and answers the statuses in `answers` after `waits`, then 200."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.answers: list[int] = []
        self.waits: list[float] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}/callbacks?token=secret"

    @property
    def states(self) -> list[str]:
        """The states that were told, in order."""
        return [body["data"]["state"] for body in self.bodies]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        if self.server.waits:
            time.sleep(self.server.waits.pop())
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the library
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of callbacks."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Orders:
    """Orders with a callback."""

    def __init__(self, caller: VendorClient, receiver: Receiver, image_url: str) -> None:
        self.caller = caller
        self.provider = caller.provider
        self._receiver = receiver
        self._fields = {"mode": PRO, "prompt": "p", "image_urls": [image_url]}

    def place(self) -> str:
        """Submit one and return its task id."""
        body = {"request_type": "callback", "callback_url": self._receiver.url, "input": self._fields}
        task_id: str = self.caller.post(body).json()["data"]["taskId"]
        return task_id


@pytest.fixture
def orders(sandbox: Sandbox, provider: Provider, receiver: Receiver) -> Iterator[Orders]:
    """Places orders whose callbacks reach the receiver, with delays of hundredths of a second."""
    provider.set_options(callback_scale=0.001)
    with VendorClient(provider) as caller:
        yield Orders(caller, receiver, sandbox.presign(sandbox.put_image("images/a.jpg", make_jpeg())))


def test_callback_carries_the_final_status(orders: Orders, receiver: Receiver) -> None:
    """The body of a callback is what a status request would be answered, but for the link's age."""
    task_id = orders.place()
    orders.provider.wait(lambda: bool(receiver.bodies))
    (told,) = receiver.bodies
    asked = orders.caller.status(task_id).json()
    for body in (told, asked):
        assert "/files/" in body["data"].pop("resultJson")
    assert told == asked


def test_callback_is_tried_four_times_and_only_200_will_do(orders: Orders, receiver: Receiver) -> None:
    """Any other answer, also 204, brings up to three more tries, and then never another."""
    receiver.answers = [500, 204]
    orders.place()
    orders.provider.wait(lambda: len(receiver.bodies) == 3)
    receiver.answers = [500] * 9
    orders.place()
    orders.provider.wait(lambda: len(receiver.bodies) == 7)
    time.sleep(0.3)
    assert len(receiver.bodies) == 7
    entries = orders.provider.request_log.find("callback")
    assert [entry.outcome for entry in entries] == ["500", "204", "200", "500", "500", "500", "500"]
    assert "secret" not in str(entries)


def test_failed_task_is_told_too(orders: Orders, receiver: Receiver) -> None:
    """A callback also tells of a failure."""
    orders.provider.add_fault(on="task", kind="fails", code="NSFW")
    orders.place()
    orders.provider.wait(lambda: receiver.states == ["failed"])


def test_slow_receiver_is_asked_again(orders: Orders, receiver: Receiver) -> None:
    """A receiver that takes longer than it may counts as none."""
    orders.provider.set_options(callback_answer_seconds=0.1)
    receiver.waits = [0.3]
    orders.place()
    orders.provider.wait(
        lambda: [entry.outcome for entry in orders.provider.request_log.find("callback")][1:] == ["200"]
    )
    assert orders.provider.request_log.find("callback")[0].outcome == "TimeoutError"


@pytest.mark.parametrize(
    ("kind", "states"),
    [("lost", []), ("double", ["success", "success"]), ("disordered", ["success", "processing"])],
)
def test_callbacks_go_wrong(orders: Orders, receiver: Receiver, kind: str, states: list[str]) -> None:
    """A callback can be lost, come twice, or be followed by an older one."""
    orders.provider.add_fault(on="callback", kind=kind)
    orders.place()
    count = max(1, len(states))
    finished = orders.provider.request_log
    orders.provider.wait(lambda: len([entry for entry in finished.find("callback") if entry.outcome]) == count)
    assert receiver.states == states


def test_late_and_forged(orders: Orders, receiver: Receiver) -> None:
    """A callback can come late, and a stranger's can come before the real one."""
    orders.provider.add_fault(on="callback", kind="late", seconds=0.3)
    task_id = orders.place()
    orders.provider.wait(lambda: orders.provider.tasks[task_id].state == "success")
    assert receiver.bodies == []
    orders.provider.wait(lambda: receiver.states == ["success"])
    orders.provider.add_fault(on="callback", kind="forged")
    task_id = orders.place()
    orders.provider.wait(lambda: len(receiver.bodies) == 3)
    assert [body["data"]["taskId"] == task_id for body in receiver.bodies[1:]] == [False, True]
    assert "example.com" in receiver.bodies[1]["data"]["resultJson"]


def test_callback_before_the_answer(orders: Orders, receiver: Receiver) -> None:
    """A callback can come before the submit that it belongs to is answered."""
    orders.provider.add_fault(on="submit", kind="after_callback")
    task_id = orders.place()
    assert [body["data"]["taskId"] for body in receiver.bodies] == [task_id]
