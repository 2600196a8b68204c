"""How many requests a video makes to S3, the provider and Prefect, counted by a proxy in front of S3 and Prefect's API.

Two runs of different size separate what grows with the images from what each run needs once.
"""

import math
import re
from collections import Counter
from typing import Any

from benchmarks.processes import run_child
from benchmarks.report import Row, Table
from benchmarks.servers import Servers
from tests.support.fault_proxy import FaultProxy
from tests.support.request_kinds import kinds, overhead

FASTER = 10
SMALL = 10
EVENTS = "/events/in"
"""The websocket of task runs and events."""
IDS = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|(?<=/)[0-9a-f]{32}(?=/|$)")


class CountedRun:
    """The requests of one run."""

    def __init__(self, servers: Servers, images: int) -> None:
        servers.reset(images, render_seconds=60 / FASTER, render_jitter=0.3)
        env = servers.env(faster=FASTER)
        s3_address = env["AWS_ENDPOINT_URL"].removeprefix("http://")
        with FaultProxy(s3_address) as s3, FaultProxy(servers.prefect.address) as prefect:
            servers.control("POST", "options", {"s3_address": s3.address})
            env |= {"AWS_ENDPOINT_URL": s3.url, "PREFECT_API_URL": f"{prefect.url}/api"}
            env["I2V_PRIVATE_HOSTS"] += f",{s3.address}"
            run_child("benchmarks.flow_run", env=env)
            self.s3 = kinds(s3.log)
            paths = [(each.method, each.target.partition("?")[0]) for each in prefect.log if EVENTS not in each.target]
            self.prefect = Counter(f"{method} {IDS.sub('ID', path)}" for method, path in paths)
        self.statuses = len(servers.requests("status")) / images
        self.scheduled_statuses = sum(map(_scheduled_statuses, servers.manifests())) / images


def _scheduled_statuses(manifest: dict[str, Any]) -> int:
    """Return the number of status requests by the poll schedule."""
    after_first = float(manifest["rendering_ms"]) / 1000 - 30 / FASTER
    return 1 + math.ceil(max(0.0, after_first) / (10 / FASTER))


def run(servers: Servers, images: int) -> list[Table]:
    """Count the requests of two runs."""
    small, large = CountedRun(servers, SMALL), CountedRun(servers, SMALL + images)
    s3, prefect = _per_video(small.s3, large.s3, images), _per_video(small.prefect, large.prefect, images)
    extra = sum(row[1] for row in s3 if overhead(Counter({row[0]: 1})))
    notes = (
        f"From runs of {SMALL} and {SMALL + images} images. Beyond GET image and PUT video, poster and manifest, a "
        f"video makes **{extra:.2f}** S3 requests. It makes {large.statuses:.2f} status requests, where the schedule "
        f"has {large.scheduled_statuses:.2f}, and {sum(row[1] for row in prefect):.2f} requests to Prefect's API. Task "
        "runs and events use its websocket, which is not counted; logs are sent in batches."
    )
    head = ("request", "per video", "per run")
    rows: tuple[list[Row], list[Row]] = ([*s3], [*prefect])
    return [Table("S3 requests", head, rows[0], notes), Table("Requests to Prefect's API", head, rows[1])]


def _per_video(small: Counter[str], large: Counter[str], images: int) -> list[tuple[str, float, float]]:
    """Return what grows with the images, and the rest, for each kind."""
    rows = []
    for name in large:
        each = (large[name] - small[name]) / images
        rows.append((name, each, small[name] - each * SMALL))
    return sorted(rows, key=lambda row: -row[1])
