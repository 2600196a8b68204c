"""Every kind of request that a run and reconcile make, by name: before and after each, a process can be killed.

A request without a kill point, or a kill point without a request, fails `test_every_request_has_a_name`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tests.support.fault_proxy import FaultRule, ProxiedRequest

When = Literal["before", "after"]
RECORD, SUBMIT = r"/jobs/[0-9a-f]{64}\.json$", r"/generateTask/"
BUCKET = r"^/[^/?]+$"
RECENT_PAGE, RUN_ROWS = r"/jobs/recent/", r"/jobs/runs/.*\.jsonl$"
"""Written for display only; no decision depends on them."""


@dataclass(frozen=True)
class KillPoint:
    """A kind of request, the rule that recognizes it, and how often it occurs at least in the tests' runs."""

    proxy: Literal["s3", "api"]
    rule: FaultRule
    times: int

    @property
    def changes(self) -> bool:
        """Whether the request writes."""
        return self.rule.method in {"PUT", "POST", "DELETE"}

    def changes_outcome(self, when: When) -> bool:
        """Whether a kill here leaves a state of its own; for job writes, before and after both do."""
        is_shown_only = self.rule.target in {RECENT_PAGE, RUN_ROWS}
        return self.changes and not is_shown_only and (when == "after" or self.rule.target in {RECORD, SUBMIT})

    def matches(self, proxied: ProxiedRequest) -> bool:
        """Whether a request is of this kind."""
        return self.rule.matches(proxied)

    def kill(self, pid: int, when: When, nth: int) -> FaultRule:
        """Return the rule that kills a process at the nth such request, counted from 0."""
        return replace(self.rule, pid=pid, when=when, skip=nth)


def _s3(times: int, method: str, target: str, state: str = "") -> KillPoint:
    body = rf'"state": ?"{state}"' if state else ""
    return KillPoint("s3", FaultRule("kill", method, target, body), times)


def _api(times: int, method: str, target: str) -> KillPoint:
    return KillPoint("api", FaultRule("kill", method, target), times)


IMAGE = r"/images/[a-z]+\.jpg"
IMAGES, VIDEOS, REFUSED, LOST, ONCE = 3, 2, 1, 1, 1
"""How often a request occurs: a run has three images, of which two become videos and one is refused; the answer to a
fourth submit is lost."""

SETTLING = {
    "ledger-info-read": _s3(ONCE, "GET", r"/jobs/ledger\.json$"),
    "ledger-info": _s3(ONCE, "PUT", r"/jobs/ledger\.json$"),
    "run-record-read": _s3(ONCE, "GET", r"/jobs/runs/"),
    "recent-page-read": _s3(ONCE, "GET", RECENT_PAGE),
    "recent-page": _s3(ONCE, "PUT", RECENT_PAGE),
    "run-rows": _s3(ONCE, "PUT", RUN_ROWS),
    "job-read": _s3(IMAGES, "GET", RECORD),
    "status": _api(IMAGES, "GET", r"/statusTask/"),
    "file": _api(VIDEOS, "GET", r"/files/"),
    "image-head": _s3(VIDEOS, "HEAD", IMAGE),
    "video": _s3(VIDEOS, "PUT", r"/videos/.*\.mp4$"),
    "poster": _s3(VIDEOS, "PUT", r"/videos/.*-[0-9a-f]{12}\.jpg$"),
    "manifest": _s3(VIDEOS, "PUT", r"/videos/.*-[0-9a-f]{12}\.json$"),
    "job-stored": _s3(VIDEOS, "PUT", RECORD, "stored"),
    "job-refused": _s3(REFUSED, "PUT", RECORD, "refused"),
    "verdict": _s3(REFUSED, "PUT", r"/videos/.*\.refused\.json$"),
    "run-record": _s3(ONCE, "PUT", r"/jobs/runs/.*\.json$"),
}

RECONCILE = {
    "open-markers": _s3(ONCE, "GET", r"\?.*list-type=2.*prefix=jobs"),
    "job-unknown": _s3(LOST, "PUT", RECORD, "unknown"),
    "task-page": _s3(ONCE, "PUT", r"/jobs/tasks/"),
    "task-page-head": _s3(ONCE, "HEAD", r"/jobs/tasks/"),
    "task-page-read": _s3(ONCE, "GET", r"/jobs/tasks/"),
    "marker-deleted": _s3(IMAGES, "DELETE", r"/jobs/open/"),
    **SETTLING,
}

RUN = {
    "images-listed": _s3(ONCE, "GET", r"\?.*list-type=2.*prefix=images"),
    "day-read": _s3(ONCE, "GET", r"/jobs/days/"),
    "day": _s3(ONCE, "PUT", r"/jobs/days/"),
    "balance": _api(ONCE, "GET", r"/current-balance$"),
    "image-read": _s3(IMAGES, "GET", IMAGE + "$"),
    "bucket-head": _s3(ONCE, "HEAD", BUCKET),
    "address-tried": _s3(ONCE, "GET", IMAGE + r"\?.*X-Amz-Signature"),
    "marker": _s3(IMAGES, "PUT", r"/jobs/open/"),
    "job-claimed": _s3(IMAGES, "PUT", RECORD, "claimed"),
    "submit": _api(IMAGES, "POST", SUBMIT),
    "task-page": _s3(IMAGES, "PUT", r"/jobs/tasks/"),
    "job-submitted": _s3(IMAGES, "PUT", RECORD, "submitted"),
    "markers-deleted": _s3(ONCE, "POST", r"\?delete$"),
    **SETTLING,
}
"""The provider fetches images at such URLs too, through the same proxy, but only after `address-tried`."""
