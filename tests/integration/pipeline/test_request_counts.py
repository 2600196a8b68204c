"""How many requests a video takes: S3 requests by kind, and status requests by the polling schedule."""

from __future__ import annotations

import math
from collections import Counter

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.generate import Steps, generate
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.fault_proxy import FaultProxy
from tests.support.orders import OpenRun, put_photo
from tests.support.request_kinds import kinds, overhead

NEW_VIDEO = {
    "GET image": 1,  # also returns its metadata
    "HEAD image": 1,  # at the end: was it replaced during the run?
    "GET image by the provider": 1,
    "GET job record": 1,  # is it in progress, or paid?
    "PUT job record": 3,  # claimed, submitted, stored
    "PUT open marker": 1,
    "PUT task page": 1,
    "PUT video": 1,
    "PUT poster": 1,
    "PUT manifest": 1,
}
"""S3 requests for a new video of a listed image in a bucket without versions. If the code needs fewer, lower them."""
STORED_VIDEO = {"GET image": 1, "GET job record": 1, "HEAD video": 1}
"""S3 requests for a stored video. In a flow, Prefect's cache turns the GET of the image into a HEAD."""
IMAGES = 6


async def run_and_count(new_run: OpenRun, sandbox: Sandbox, s3_proxy: FaultProxy, expected: str) -> Counter[str]:
    """Run generate over all images and count its S3 requests by kind."""
    s3_proxy.reset()
    async with new_run() as run:
        items = await find_items(f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
        report, _ = await generate(run, items, RequestOptions(prompt="it moves"), Steps())
    assert report.summary.startswith(expected)
    return kinds(s3_proxy.log)


def per_video(counts: Counter[str], expected: dict[str, int]) -> dict[str, float]:
    """Return the number of requests of these kinds per video."""
    return {kind: counts[kind] / IMAGES for kind in expected}


def count_others(counts: Counter[str], known: dict[str, int]) -> int:
    """Count the requests of all other kinds."""
    return sum(number for kind, number in counts.items() if kind not in known)


async def test_s3_requests_per_video(sandbox: Sandbox, s3_proxy: FaultProxy, new_run: OpenRun) -> None:
    """New and stored videos take exactly these S3 requests; a run's other requests do not depend on the image count."""
    sandbox.provider.set_options(render="shared")
    put_photo(sandbox, "0.jpg", 0)
    one = await run_and_count(new_run, sandbox, s3_proxy, "1 stored")
    assert overhead(Counter(NEW_VIDEO)) == 7

    for number in range(1, IMAGES + 1):
        put_photo(sandbox, f"{number}.jpg", number)
    more = await run_and_count(new_run, sandbox, s3_proxy, f"{IMAGES} stored")
    more.subtract(STORED_VIDEO)  # of the first image
    assert per_video(more, NEW_VIDEO) == NEW_VIDEO
    assert count_others(more, NEW_VIDEO) <= count_others(one, NEW_VIDEO)


async def test_status_requests_per_video(sandbox: Sandbox, s3_proxy: FaultProxy, new_run: OpenRun) -> None:
    """A task is polled by the schedule until it ends, and not once more."""
    provider: Provider = sandbox.provider
    provider.set_options(render="shared", render_seconds=0.9, render_jitter=0.5)
    for number in range(IMAGES):
        put_photo(sandbox, f"{number}.jpg", number)
    await run_and_count(
        lambda: new_run(poll_first_seconds=0.5, poll_every_seconds=0.2), sandbox, s3_proxy, f"{IMAGES} stored"
    )

    requests = provider.status_requests()
    assert len(requests) == IMAGES
    for name, task in provider.tasks.items():
        needed = 1 + math.ceil(max(0.0, (task.ended or 0) - task.created - 0.5) / 0.2)
        assert requests[name] <= needed, f"{requests[name]} status requests where the schedule needs {needed}"
