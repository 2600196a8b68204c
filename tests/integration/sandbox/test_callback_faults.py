"""What can go wrong with the emulator's callbacks also goes wrong by chance, and together with lost answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from sandbox.vendor_client import PRO, VendorClient
from tests.integration.sandbox.test_callbacks import Receiver
from tests.integration.sandbox.test_callbacks import receiver as receiver  # noqa: PLC0414 - a fixture

COUNT = 40


class Buyer:
    """Places orders whose callbacks come to the receiver."""

    def __init__(self, caller: VendorClient, receiver: Receiver, image_url: str) -> None:
        self.caller = caller
        self.receiver = receiver
        self._fields = {"mode": PRO, "prompt": "p", "image_urls": [image_url]}

    def place(self) -> str | None:
        """The task id, if it was answered."""
        body = {"request_type": "callback", "callback_url": self.receiver.url, "input": self._fields}
        with suppress(httpx.TransportError):
            return str(self.caller.post(body).json()["data"]["taskId"])
        return None

    def told(self) -> Counter[Any]:
        """How often each task's callback came, once all are delivered or given up."""
        provider = self.caller.provider
        provider.wait(lambda: all(provider.request_log.find("callback", task) for task in provider.tasks))
        provider.wait(lambda: all(entry.outcome for entry in provider.request_log.find("callback")))
        return Counter(body["data"]["taskId"] for body in self.receiver.bodies)


@pytest.fixture
def buyer(sandbox: Sandbox, provider: Provider, receiver: Receiver) -> Iterator[Buyer]:
    """A buyer of shared films, so that many cost little."""
    provider.set_options(callback_scale=0.001, render="shared")
    with VendorClient(provider) as caller:
        yield Buyer(caller, receiver, sandbox.presign(sandbox.put_image("images/a.jpg", make_jpeg())))


def test_callbacks_are_lost_and_doubled_by_chance(buyer: Buyer, provider: Provider) -> None:
    """A part of them, each task for itself, and the same part with the same seed."""
    lost = provider.add_fault(on="callback", kind="lost", times=None, probability=0.3, seed=1)
    double = provider.add_fault(on="callback", kind="double", times=None, probability=0.3, seed=2)
    for _ in range(COUNT):
        buyer.place()
    provider.wait(lambda: len(buyer.receiver.bodies) == COUNT - lost.hits + double.hits)  # some at a second try
    told = buyer.told()
    assert (lost.hits, double.hits) == (COUNT - len(told), sum(count == 2 for count in told.values()))
    assert 3 <= lost.hits <= 25
    assert 2 <= double.hits <= 25


def test_an_answer_is_lost_and_the_callback_comes(buyer: Buyer, provider: Provider) -> None:
    """The task was accepted and billed, and only the callback tells of it."""
    provider.add_fault(on="submit", kind="lost_answer")
    assert buyer.place() is None
    assert set(buyer.told()) == set(provider.tasks)


def test_both_the_answer_and_the_callback_are_lost(buyer: Buyer, provider: Provider) -> None:
    """Nobody is told of a task that was billed."""
    provider.add_fault(on="submit", kind="lost_answer")
    provider.add_fault(on="callback", kind="lost")
    assert buyer.place() is None
    assert buyer.told() == {}
    assert sum(provider.billed().values()) == 1


@pytest.mark.parametrize(("kind", "count"), [("double", 2), ("late", 1), ("forged", 1), ("disordered", 2), ("lost", 0)])
def test_the_callback_comes_before_the_answer_and_goes_wrong(
    buyer: Buyer, provider: Provider, kind: str, count: int
) -> None:
    """However it is delivered, the answer waits for that."""
    provider.add_fault(on="submit", kind="after_callback")
    provider.add_fault(on="callback", kind=kind, seconds=0.05)
    task_id = buyer.place()
    came = [body["data"]["taskId"] for body in buyer.receiver.bodies]
    assert came.count(task_id) == count
