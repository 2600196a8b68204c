"""What goes over the wire: requests by kind, as a proxy between i2v and each server saw them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from sandbox.fault_proxy import ProxiedRequest

KINDS = (
    (r"PUT /[^/]+/images/", "PUT image"),
    (r"HEAD /[^/]+/images/", "HEAD image"),
    (r"GET /[^/]+/images/[^?]+\.txt", "GET sidecar"),
    (r"GET /[^/]+/images/[^?]+\?.*X-Amz-Signature", "GET image by the provider"),
    (r"GET /[^/]+/images/", "GET image"),
    (r"GET /[^/]+/?\?", "list"),
    (r"(\w+) /[^/]+/jobs/open/", r"\1 open mark"),
    (r"POST /[^/]+/?\?delete", "DELETE open marks"),
    (r"(\w+) /[^/]+/jobs/days/", r"\1 day's page"),
    (r"(\w+) /[^/]+/jobs/runs/", r"\1 run's record"),
    (r"(\w+) /[^/]+/jobs/recent/", r"\1 recent"),
    (r"(\w+) /[^/]+/jobs/ledger\.json", r"\1 ledger's page"),
    (r"(\w+) /[^/]+/jobs/[0-9a-f]{64}\.json", r"\1 job record"),
    (r"(\w+) /[^/]+/videos/[^?]+\.mp4(?:$|\?)", r"\1 video"),
    (r"(\w+) /[^/]+/videos/[^?]+\.jpg(?:$|\?)", r"\1 poster"),
    (r"(\w+) /[^/]+/videos/[^?]+\.(?:refused|failed)\.json", r"\1 verdict"),
    (r"(\w+) /[^/]+/videos/[^?]+\.json", r"\1 manifest"),
)
"""What a request to S3 is for; the first that fits."""
ANSWERS = frozenset({"GET image", "GET image by the provider", "PUT video", "PUT poster", "PUT manifest"})
"""What a video needs whoever makes it."""


def kind(proxied: ProxiedRequest) -> str:
    """What one request to S3 is for; method and path where it is for nothing that is known."""
    line = f"{proxied.method} {proxied.target}"
    for pattern, name in KINDS:
        if match := re.match(pattern, line):
            return match.expand(name)
    return line.partition("?")[0]


def kinds(log: Iterable[ProxiedRequest]) -> Counter[str]:
    """How many requests of each kind there were."""
    return Counter(map(kind, log))


def beyond_answers(counts: Counter[str]) -> int:
    """Requests apart from those that every video needs."""
    return sum(number for name, number in counts.items() if name not in ANSWERS)
