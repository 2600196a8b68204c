"""How many requests a video makes: of S3 by kind, and of the provider by its schedule. What each is for stands here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import pytest

from benchmarks.request_kinds import kinds, overhead
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.generate import Steps, generate
from sandbox import Sandbox
from sandbox.fault_proxy import FaultProxy
from sandbox.provider import Provider
from tests.support.orders import OpenRun, put_photo

NEW_VIDEO = {
    "GET image": 1,  # which also tells what its metadata asks
    "HEAD image": 1,  # at the end: was it replaced meanwhile?
    "GET image by the provider": 1,
    "GET job record": 1,  # is it under way, or paid?
    "PUT job record": 3,  # claimed, submitted, stored
    "PUT open marker": 1,
    "PUT video": 1,
    "PUT poster": 1,
    "PUT manifest": 1,
}
"""What a new video of a listed image in a bucket without versions asks. Fewer is better: then lower it here."""
STORED_VIDEO = {"GET image": 1, "GET job record": 1, "HEAD video": 1}
"""What one that is there already asks. In a flow Prefect's cache makes a HEAD of the GET of the image."""
IMAGES = 6


@pytest.fixture
def proxy(sandbox: Sandbox, aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy before S3 that logs; i2v and the provider go through it."""
    with FaultProxy(sandbox.aws.address) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        sandbox.provider.set_options(s3_address=proxy.address, render="shared")
        yield proxy


async def animated(new_run: OpenRun, sandbox: Sandbox, proxy: FaultProxy, expected: str) -> Counter[str]:
    """What one run over all images asks of S3."""
    proxy.reset()
    async with new_run() as run:
        items = await find_items(f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
        report, _ = await generate(run, items, RequestOptions(prompt="it moves"), Steps())
    assert report.summary.startswith(expected)
    return kinds(proxy.log)


def a_video(counts: Counter[str], kinds_of: dict[str, int]) -> dict[str, float]:
    """A video's share of these kinds; whatever else a run asks, it asks however many images it has."""
    return {kind: counts[kind] / IMAGES for kind in kinds_of}


def rest(counts: Counter[str], known: dict[str, int]) -> int:
    """How many requests there were of other kinds."""
    return sum(number for kind, number in counts.items() if kind not in known)


async def test_what_a_video_asks_of_s3(sandbox: Sandbox, proxy: FaultProxy, new_run: OpenRun) -> None:
    """A new video makes the requests of S3 that its promises need, one that is there only looks, and no other rise."""
    put_photo(sandbox, "0.jpg", 0)
    alone = await animated(new_run, sandbox, proxy, "1 stored")
    assert overhead(Counter(NEW_VIDEO)) == 6

    for number in range(1, IMAGES + 1):
        put_photo(sandbox, f"{number}.jpg", number)
    fresh = await animated(new_run, sandbox, proxy, f"{IMAGES} stored")
    fresh.subtract(STORED_VIDEO)  # of the first image
    assert a_video(fresh, NEW_VIDEO) == NEW_VIDEO
    assert rest(fresh, NEW_VIDEO) <= rest(alone, NEW_VIDEO)


async def test_what_a_status_costs(sandbox: Sandbox, proxy: FaultProxy, new_run: OpenRun) -> None:
    """A video is asked for by the vendor's schedule until it is ready, and not once more."""
    provider: Provider = sandbox.provider
    provider.set_options(render_seconds=0.9, render_jitter=0.5)
    for number in range(IMAGES):
        put_photo(sandbox, f"{number}.jpg", number)
    await animated(lambda: new_run(poll_first_seconds=0.5, poll_every_seconds=0.2), sandbox, proxy, f"{IMAGES} stored")

    asked = provider.status_requests()
    assert len(asked) == IMAGES
    for name, task in provider.tasks.items():
        needed = 1 + math.ceil(max(0.0, (task.ended or 0) - task.created - 0.5) / 0.2)
        assert asked[name] <= needed, f"{asked[name]} status requests where the schedule needs {needed}"
