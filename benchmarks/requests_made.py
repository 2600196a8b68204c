"""How many requests a video makes of S3, the provider and Prefect: `python -m benchmarks.requests_made --images 40`.

A proxy stands before S3 and before Prefect's API. What a run asks once, however many images it has, is told apart: from
two runs of different size.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from typing import Any

from benchmarks.makespan import EVERY_SECONDS, FIRST_SECONDS, manifests
from benchmarks.outside import Outside
from benchmarks.processes import run_child
from benchmarks.table import Table
from benchmarks.wire import beyond_answers, kinds
from sandbox.fault_proxy import FaultProxy, ProxiedRequest

FASTER = 10
SMALL = 10
EVENTS = "/events/in"
"""The websocket for task runs and events, which does not pass the proxy."""
IDS = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|(?<=/)[0-9a-f]{32}(?=/|$)")


class Counted:
    """What one run asked."""

    def __init__(self, outside: Outside, images: int) -> None:
        assert outside.server is not None  # noqa: S101 - for the type checker
        outside.fresh(images, render_seconds=60 / FASTER, render_jitter=0.3)
        first, every = str(FIRST_SECONDS / FASTER), str(EVERY_SECONDS / FASTER)
        s3_address = outside.env()["AWS_ENDPOINT_URL"].removeprefix("http://")
        with FaultProxy(s3_address) as s3, FaultProxy(outside.server.url.removeprefix("http://")) as prefect:
            outside.ask("settings", {"s3_address": s3.address})
            env = outside.env(I2V_POLL_FIRST_SECONDS=first, I2V_POLL_EVERY_SECONDS=every, AWS_ENDPOINT_URL=s3.url)
            private = f"{env['I2V_PRIVATE_HOSTS']},{s3.address}"
            env |= {"PREFECT_API_URL": f"{prefect.url}/api", "I2V_PRIVATE_HOSTS": private}
            run_child("benchmarks.flow_run", env=env)
            self.s3 = kinds(s3.log)
            self.prefect = Counter(prefect_kind(each) for each in prefect.log if EVENTS not in each.target)
        self.asked = len(outside.ask("journal?endpoint=status")["entries"]) / images
        self.needed = sum(map(statuses_needed, manifests(outside))) / images


def statuses_needed(manifest: dict[str, Any]) -> int:
    """Status requests that the schedule needs to see a task's end."""
    rendering = float(manifest["rendering_ms"]) / 1000 - FIRST_SECONDS / FASTER
    return 1 + math.ceil(max(0.0, rendering) / (EVERY_SECONDS / FASTER))


def prefect_kind(proxied: ProxiedRequest) -> str:
    """What one request to Prefect's API is, without the ids in it."""
    return f"{proxied.method} {IDS.sub('ID', proxied.target.partition('?')[0])}"


def run(outside: Outside, images: int) -> list[Table]:
    """Measure and tell."""
    small, large = Counted(outside, SMALL), Counted(outside, SMALL + images)
    s3, prefect = _by_video(small.s3, large.s3, images), _by_video(small.prefect, large.prefect, images)
    beyond = sum(row[1] for row in s3 if beyond_answers(Counter({row[0]: 1})))
    notes = (
        f"From runs of {SMALL} and {SMALL + images} images. Beyond GET image and PUT video, poster and manifest a "
        f"video makes **{beyond:.2f}** requests of S3. It makes {large.asked:.2f} status requests, where the schedule "
        f"needs {large.needed:.2f}, and {sum(row[1] for row in prefect):.2f} requests of Prefect's API; task runs and "
        "events go over its websocket, which is not counted here, logs in batches."
    )
    head = ("request", "a video", "a run")
    return [
        Table("Requests of S3", head, s3, notes),
        Table("Requests of Prefect's API", head, prefect),
    ]


def _by_video(small: Counter[str], large: Counter[str], images: int) -> list[tuple[str, float, float]]:
    """What rises with the images, and what does not."""
    rows = []
    for name in large:
        each = (large[name] - small[name]) / images
        rows.append((name, each, small[name] - each * SMALL))
    return sorted(rows, key=lambda row: -row[1])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=40)
    images = parser.parse_args().images
    with Outside(prefect=True) as outside:
        for table in run(outside, images):
            print(table, end="\n\n")


if __name__ == "__main__":
    main()
