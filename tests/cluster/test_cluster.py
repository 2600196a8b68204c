"""All services of deployments/compose.yaml: no image is lost or paid twice when they die."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.cluster_world import ENDED, ClusterWorld, wait_for
from tests.support.i2v_command import COMMAND, bare_env, i2v

IMAGES = 600
BATCH = 1000
BURST, BURST_PARTS = 12, ("api-1", "worker-1", "door-1", "redis", "services", "nginx", "postgres", "api-2", "door-2")
MOST_UNKNOWN = 4 * 24
"""Four shards, each with at most 24 submits at once."""
TASKS_PER_VIDEO = 4
SHOWN = 0.98
"""The share of task runs whose end Prefect shows; 2 of 2,400 never came, at a load of 4."""
pytestmark = pytest.mark.timeout(3600)


def test_landed_images_are_stored_and_billed_once(world: ClusterWorld) -> None:
    """Without failures, each landed image is stored and billed once, and Prefect shows nearly all steps as Completed.

    Not all: Prefect loses single events between its processes (docs/scaling.md), and many on a busy machine.
    """
    images = world.upload("images/measured/", range(IMAGES))
    wait_for(lambda: len(world.stored("videos/measured/")) >= IMAGES)
    assert world.is_billed_once(images)

    balancer, expected = world.cluster.parts["nginx"].process, TASKS_PER_VIDEO * IMAGES
    wait_for(lambda: "/api/events/in" in balancer.output() or world.completed_task_runs() >= SHOWN * expected)


def test_burst_with_every_part_killed(world: ClusterWorld) -> None:
    """While images land, each part is killed with -9; in the end each image is stored, and billed once.

    An image whose submit was on its way when the worker died ends as unknown: it may be billed, but not twice.
    """
    began = datetime.now(UTC) - timedelta(minutes=1)
    world.box.provider.set_options(render_seconds=8)
    images = {
        uri: digest
        for number, name in enumerate(BURST_PARTS)
        for uri, digest in _upload_and_kill(world, name, 100_000 + number * BURST).items()
    }

    wait_for(lambda: _is_stored_or_reconciled(world, "burst/", len(images), began))
    unknown = world.unknown(f"s3://{world.box.bucket}/images/burst/")
    assert len(unknown) < BURST
    assert world.is_billed_once({uri: digest for uri, digest in images.items() if uri not in unknown})
    assert max(world.billed(set(images.values())).values()) == 1
    assert all(world.cluster.starts[name] > 1 for name in BURST_PARTS)


def _upload_and_kill(world: ClusterWorld, name: str, first: int) -> dict[str, str]:
    """Kill a part as soon as one of its images is paid, while the others are on their way."""
    images = world.upload("images/burst/", range(first, first + BURST))
    wait_for(lambda: world.billed(set(images.values())))
    world.kill(name)
    return images


def _is_stored_or_reconciled(world: ClusterWorld, prefix: str, count: int, since: datetime) -> bool:
    """Whether all videos are stored or unknown; reconcile as `nightly` does once no run works on them."""
    if len(world.stored(f"videos/{prefix}")) >= count:
        return True
    if all(run["state_type"] in ENDED for run in world.runs("on-image")):
        options = ("--generate", "--since", since.isoformat(), "--max-spend", "1000", "--prompt", "Slow push in")
        done = i2v("reconcile", *options, env=bare_env(**world.cluster.user_environment), seconds=900)
        assert "Traceback" not in done.err, done.err
        unknown = world.unknown(f"s3://{world.box.bucket}/images/{prefix}")
        return len(world.stored(f"videos/{prefix}")) + len(unknown) >= count
    return False


def test_batch_with_every_part_killed(world: ClusterWorld) -> None:
    """A batch of 1,000 is stored and billed once, though its run, a worker and the server's parts are killed.

    Images whose submit was on its way when the worker died end as unknown: they may be billed, but not twice.
    """
    world.box.provider.set_options(render_seconds=20)
    images = world.upload("archive/", range(200_000, 200_000 + BATCH))  # the door ignores this prefix
    address = f"s3://{world.box.bucket}/archive/"
    command = [*COMMAND, "run", address, "--batch", "--prompt", "Slow push in", "--json"]
    with subprocess.Popen(command, env=bare_env(**world.cluster.user_environment), stdout=subprocess.PIPE) as client:  # noqa: S603 - our own command
        wait_for(lambda: len(world.billed(set(images.values()))) > BATCH // 10)
        landed = _kill_during_batch(world)
        output = client.communicate()[0]
    batch = world.runs("batch")[0]["id"]
    assert json.loads(output)["items"], "the command reports what it knows when the batch's run has crashed"
    retry = [sys.executable, "-m", "prefect", "flow-run", "retry", batch]
    subprocess.run(retry, env=bare_env(**world.cluster.user_environment), check=True, capture_output=True)  # noqa: S603 - as docs/usage.md says

    wait_for(lambda: world.runs("batch")[0]["run_count"] > 1 and world.runs("batch")[0]["state_type"] in ENDED)
    unknown = world.unknown(address)
    assert world.runs("batch")[0]["state_type"] == ("FAILED" if unknown else "COMPLETED")
    assert len(world.stored("videos/_s3/")) == BATCH - len(unknown)
    assert len(unknown) <= MOST_UNKNOWN
    assert world.is_billed_once({uri: digest for uri, digest in images.items() if uri not in unknown})
    assert max(world.billed(set(images.values())).values()) == 1
    wait_for(lambda: len(world.stored("videos/meanwhile/")) >= len(landed))
    assert world.is_billed_once(landed)


def _kill_during_batch(world: ClusterWorld) -> dict[str, str]:
    """Kill the batch's run, a worker with its shards, and one of each part of the server; images land meanwhile."""
    world.kill_flow_run(world.runs("batch")[0]["id"])
    landed = world.upload("images/meanwhile/", range(300_000, 300_000 + BURST))
    for name in ("worker-1", "api-1", "services", "redis", "door-1"):
        world.kill(name)
    return landed
