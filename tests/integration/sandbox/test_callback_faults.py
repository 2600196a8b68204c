"""Callback faults at random, and combined with lost responses."""

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
from tests.integration.sandbox.test_callbacks import Receiver
from tests.integration.sandbox.test_callbacks import receiver as receiver  # noqa: PLC0414 - a fixture
from tests.support.vendor_client import PRO, VendorClient

COUNT = 40


class FlakySubmitter:
    """Submits tasks whose callbacks go to the receiver; a response may be lost."""

    def __init__(self, client: VendorClient, receiver: Receiver, image_url: str) -> None:
        self.client = client
        self.receiver = receiver
        self._fields = {"mode": PRO, "prompt": "p", "image_urls": [image_url]}

    def submit(self) -> str | None:
        """Submit one task and return its id, or None if the response was lost."""
        body = {"request_type": "callback", "callback_url": self.receiver.url, "input": self._fields}
        with suppress(httpx.TransportError):
            return str(self.client.post(body).json()["data"]["taskId"])
        return None

    def callbacks(self) -> Counter[Any]:
        """Count the callbacks of each task, once all are delivered or given up."""
        provider = self.client.provider
        provider.wait(lambda: all(provider.request_log.find("callback", task) for task in provider.tasks))
        provider.wait(lambda: all(entry.outcome for entry in provider.request_log.find("callback")))
        return Counter(body["data"]["taskId"] for body in self.receiver.bodies)


@pytest.fixture
def submitter(sandbox: Sandbox, provider: Provider, receiver: Receiver) -> Iterator[FlakySubmitter]:
    """Return a submitter of shared videos, which cost little."""
    provider.set_options(callback_scale=0.001, render="shared")
    with VendorClient(provider) as client:
        yield FlakySubmitter(client, receiver, sandbox.presign(sandbox.put_image("images/a.jpg", make_jpeg())))


def test_callbacks_are_lost_and_doubled_at_random(submitter: FlakySubmitter, provider: Provider) -> None:
    """A random share of callbacks is lost or doubled, the same with the same seed."""
    lost = provider.add_fault(on="callback", kind="lost", times=None, probability=0.3, seed=1)
    double = provider.add_fault(on="callback", kind="double", times=None, probability=0.3, seed=2)
    for _ in range(COUNT):
        submitter.submit()
    provider.wait(
        lambda: len(submitter.receiver.bodies) == COUNT - lost.hits + double.hits
    )  # some at the second attempt
    counts = submitter.callbacks()
    assert (lost.hits, double.hits) == (COUNT - len(counts), sum(count == 2 for count in counts.values()))
    assert 3 <= lost.hits <= 25
    assert 2 <= double.hits <= 25


def test_a_response_is_lost_and_the_callback_arrives(submitter: FlakySubmitter, provider: Provider) -> None:
    """The task was accepted and billed, and only the callback reports it."""
    provider.add_fault(on="submit", kind="lost_answer")
    assert submitter.submit() is None
    assert set(submitter.callbacks()) == set(provider.tasks)


def test_both_the_response_and_the_callback_are_lost(submitter: FlakySubmitter, provider: Provider) -> None:
    """A billed task can go unreported."""
    provider.add_fault(on="submit", kind="lost_answer")
    provider.add_fault(on="callback", kind="lost")
    assert submitter.submit() is None
    assert submitter.callbacks() == {}
    assert sum(provider.billed().values()) == 1


@pytest.mark.parametrize(("kind", "count"), [("double", 2), ("late", 1), ("forged", 1), ("disordered", 2), ("lost", 0)])
def test_a_faulty_callback_arrives_before_the_response(
    submitter: FlakySubmitter, provider: Provider, kind: str, count: int
) -> None:
    """The response waits for the delivery, whatever its fault."""
    provider.add_fault(on="submit", kind="after_callback")
    provider.add_fault(on="callback", kind=kind, seconds=0.05)
    task_id = submitter.submit()
    received = [body["data"]["taskId"] for body in submitter.receiver.bodies]
    assert received.count(task_id) == count
