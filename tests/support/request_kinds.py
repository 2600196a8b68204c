"""Classifies the S3 requests that a fault proxy logged."""

import re
from collections import Counter
from collections.abc import Iterable

from tests.support.fault_proxy import ProxiedRequest

KINDS = (
    (r"PUT /[^/]+/images/", "PUT image"),
    (r"HEAD /[^/]+/images/", "HEAD image"),
    (r"GET /[^/]+/images/[^?]+\.txt", "GET sidecar"),
    (r"GET /[^/]+/images/[^?]+\?.*X-Amz-Signature", "GET image by the provider"),
    (r"GET /[^/]+/images/", "GET image"),
    (r"GET /[^/]+/?\?", "LIST"),
    (r"(\w+) /[^/]+/jobs/open/", r"\1 open marker"),
    (r"POST /[^/]+/?\?delete", "DELETE open markers"),
    (r"(\w+) /[^/]+/jobs/tasks/", r"\1 task page"),
    (r"(\w+) /[^/]+/jobs/days/", r"\1 day record"),
    (r"(\w+) /[^/]+/jobs/runs/", r"\1 run record"),
    (r"(\w+) /[^/]+/jobs/recent/", r"\1 recent"),
    (r"(\w+) /[^/]+/jobs/ledger\.json", r"\1 ledger document"),
    (r"(\w+) /[^/]+/jobs/[0-9a-f]{64}\.json", r"\1 job record"),
    (r"(\w+) /[^/]+/videos/[^?]+\.mp4(?:$|\?)", r"\1 video"),
    (r"(\w+) /[^/]+/videos/[^?]+\.jpg(?:$|\?)", r"\1 poster"),
    (r"(\w+) /[^/]+/videos/[^?]+\.(?:refused|failed)\.json", r"\1 verdict"),
    (r"(\w+) /[^/]+/videos/[^?]+\.json", r"\1 manifest"),
)
"""The purpose of a request; the first pattern that matches."""
IMAGE_AND_OUTPUTS = frozenset({"GET image", "GET image by the provider", "PUT video", "PUT poster", "PUT manifest"})
"""What every video needs, whatever makes it."""


def kind(request: ProxiedRequest) -> str:
    """Return the purpose of one request, or its method and path if it is unknown."""
    line = f"{request.method} {request.target}"
    for pattern, name in KINDS:
        if match := re.match(pattern, line):
            return match.expand(name)
    return line.partition("?")[0]


def kinds(log: Iterable[ProxiedRequest]) -> Counter[str]:
    """Count requests by kind."""
    return Counter(map(kind, log))


def overhead(counts: Counter[str]) -> int:
    """Count the requests that not every video needs."""
    return sum(number for name, number in counts.items() if name not in IMAGE_AND_OUTPUTS)
