"""Promise 1 for a process that is suspended between claim and POST for longer than its lease, and then resumes."""

from __future__ import annotations

import os
import signal
import time

import pytest

from i2v.ledger.job import JobState
from tests.support.fault_proxy import FaultRule
from tests.support.forked_processes import start_process
from tests.support.kill_points import RECORD
from tests.support.kill_rounds import AFTER_LEASE_SECONDS, SHORT_LEASE, run_successfully
from tests.support.proxied_sandbox import ProxiedSandbox


@pytest.mark.parametrize(
    ("claim_to_post_seconds", "claims"), [(60.0, 1), (0.5, 2)], ids=["posts late", "is too late to post"]
)
def test_a_claimant_that_slept_through_its_lease_pays_once(
    world: ProxiedSandbox, claim_to_post_seconds: float, claims: int
) -> None:
    """Others treat its job as unknown; on waking it posts if there is still time, else it releases and claims again."""
    picture = world.put("tom.jpg", 1)
    with start_process(world.process(claim_to_post_seconds=claim_to_post_seconds)) as sleeper:
        rule = world.s3.add(FaultRule("stop", "PUT", RECORD, '"state": ?"claimed"', when="after", pid=sleeper.pid))
        sleeper.begin()
        world.provider.wait(lambda: rule.hits == 1)
        time.sleep(AFTER_LEASE_SECONDS)
        other = run_successfully(world.process(settings=SHORT_LEASE))
        assert [item["outcome"] for item in other.report["items"]] == ["unknown"]
        assert world.states() == {"tom.jpg": JobState.UNKNOWN}
        assert world.provider.request_log.find("submit") == []

        os.kill(sleeper.pid, signal.SIGCONT)
        ended = sleeper.wait()
    assert [(item["outcome"], item["cost_usd"]) for item in ended.report["items"]] == [("stored", 0.192)]
    assert world.bills() == {picture.sha256: 1}
    assert len(world.records()[picture.sha256].attempts) == claims
    world.read_published(picture)
    assert world.open_markers() == set()
