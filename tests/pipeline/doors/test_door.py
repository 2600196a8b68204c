"""The door as it runs: a child process between real SQS, real HTTP and a real Prefect server. Nothing gets lost."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from doors.flow_run_starter import FlowRunStarter, RunRejected
from doors.health import Health
from doors.service import check_settings, listen
from doors.sqs_queue import QueueError, SqsQueue
from i2v.errors import UsageError
from sandbox import Sandbox
from sandbox.fault_proxy import FaultProxy, FaultRule
from sandbox.prefect_server import PrefectServer
from tests.support.door_process import (
    HIDDEN_SECONDS,
    TOKEN,
    DoorProcess,
    Feed,
    forget_runs,
    images_of,
    make_deployment,
    runs_with,
    soon,
    told_of,
)
from tests.support.paths import ROOT
from tests.support.settings import MakeSettings

OPEN_DOOR = Callable[[], DoorProcess]
CREATE = r"/create_flow_run$"


@pytest.fixture
async def deployed(prefect_server: PrefectServer) -> AsyncIterator[None]:
    """The deployment that the door starts; afterwards neither it nor its runs are left to other tests."""
    async with get_client() as client:
        ours = await make_deployment(client)
    yield
    await forget_runs()
    if ours:
        async with get_client() as client:
            await client.delete_deployment(ours)


@pytest.fixture
def feed(sandbox: Sandbox) -> Feed:
    """The bucket's queue."""
    return Feed(sandbox)


@pytest.fixture
def proxy(prefect_server: PrefectServer) -> Iterator[FaultProxy]:
    """A fault proxy in front of Prefect."""
    with FaultProxy(prefect_server.url.removeprefix("http://")) as proxy:
        yield proxy


@pytest.fixture
def door(deployed: None, feed: Feed, proxy: FaultProxy, child_env: dict[str, str], tmp_path: Path) -> OPEN_DOOR:
    """What opens doors on the feed, whose way to Prefect leads through the proxy."""
    env = child_env | {"PREFECT_API_URL": f"{proxy.url}/api", "I2V_SQS_QUEUE_URL": feed.url}
    logs = iter(range(9))
    return lambda: DoorProcess(env, tmp_path / f"door{next(logs)}.log")


async def test_a_burst_becomes_runs_and_leaves_nothing(
    door: OPEN_DOOR, feed: Feed, sandbox: Sandbox, proxy: FaultProxy
) -> None:
    """Repeated, disordered, an answer of Prefect lost: every image is in a run, the malformed in the dead letters."""
    odd = ["a b", "a+b", "100%", "ÿ 猫", "x" * 1013]
    images = feed.upload(*(f"images/{name}.jpg" for name in [*odd, *map(str, range(115))]))
    feed.upload("images/notes.txt", "other/a.jpg")
    told = [message["Body"] for message in feed.take(feed.url)]
    bad = ["{", "hello", '{"Records": []}', "[]"]
    bodies = [*told, *told, *bad]
    random.Random(1).shuffle(bodies)  # noqa: S311 - the same disorder each time
    feed.send(bodies)
    proxy.add(FaultRule("drop", "POST", CREATE, when="after"))

    with door() as opened:
        await soon(lambda: not feed.left())
        assert sorted({*await images_of(sandbox.bucket)}) == sorted(images)
        assert opened.count("i2v_door_images_total") + opened.count("i2v_door_duplicates_total") == 2 * len(images)
        assert opened.count("i2v_door_images_total") == len(await images_of(sandbox.bucket))
        assert opened.count("i2v_door_dropped_total") == len(told) * 2 - len(images) * 2
        assert opened.count("i2v_door_unreadable_total") == len(bad)
        well = {"live": True, "ready": True, "queue": "ok", "prefect": "ok", "callbacks": "not set"}
        assert opened.get("/healthz").json() == well
        assert opened.end() == 0

    dead = feed.take(feed.dead)
    assert sorted(message["Body"] for message in dead) == sorted(bad)
    assert all(message["MessageAttributes"]["I2vReason"]["StringValue"] for message in dead)
    assert {"bucket"} <= set((await runs_with(sandbox.bucket))[0].tags)


async def test_without_prefect_nothing_is_lost(
    door: OPEN_DOOR, feed: Feed, sandbox: Sandbox, proxy: FaultProxy
) -> None:
    """While Prefect is away messages stay ours and webhooks are told to come again; then each image is in one run."""
    proxy.add(FaultRule("drop", "", "/api/", times=None))
    with door() as opened:
        images = feed.upload("images/a.jpg", "images/b.jpg")
        posting = asyncio.create_task(asyncio.to_thread(opened.post, told_of(sandbox.bucket, "images/c.jpg")))
        await asyncio.sleep(HIDDEN_SECONDS)
        assert feed.left() == 2
        health = opened.get("/healthz")
        assert health.status_code == 503
        assert "cannot be reached" in health.json()["prefect"]
        answer = await posting
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert feed.left() == 2
        assert opened.count("i2v_door_duplicates_total") == 0  # hidden for longer than one timeout, also from itself
        proxy.reset()
        await soon(lambda: not feed.left())
        await soon(lambda: opened.get("/healthz").status_code == 200)

    assert [image for image in await images_of(sandbox.bucket) if "c.jpg" not in image] == images


async def test_killed_in_the_middle_nothing_is_lost(
    door: OPEN_DOOR, feed: Feed, sandbox: Sandbox, proxy: FaultProxy
) -> None:
    """Killed between the run and the deletion, the next door gets the messages again, and the run is the same."""
    images = feed.upload("images/a.jpg", "images/b.jpg")
    with door() as first:
        proxy.add(FaultRule("kill", "POST", CREATE, when="after", pid=first.pid))
        assert first.wait() == -signal.SIGKILL
    assert feed.left() == 2

    with door():
        await soon(lambda: not feed.left())
    assert await images_of(sandbox.bucket) == images


async def test_sigterm_finishes_what_was_taken(
    door: OPEN_DOOR, feed: Feed, sandbox: Sandbox, proxy: FaultProxy
) -> None:
    """Asked to stop while images wait for more, it makes their run at once, answers their webhook, and ends well."""
    slow = proxy.add(FaultRule("delay", "POST", CREATE, seconds=1))
    with door() as opened:
        images = feed.upload("images/a.jpg")
        posting = asyncio.create_task(asyncio.to_thread(opened.post, told_of(sandbox.bucket, "images/b.jpg")))
        await soon(lambda: opened.count("i2v_door_in_hand") == 2)
        assert opened.end() == 0
        assert (await posting).status_code == 200
    assert slow.hits == 1
    assert feed.left() == 0
    assert await images_of(sandbox.bucket) == [*images, f"s3://{sandbox.bucket}/images/b.jpg"]


async def test_webhooks_need_the_token_and_get_their_run(door: OPEN_DOOR, sandbox: Sandbox) -> None:
    """Who bears the token is answered 200 once Prefect has the run; others, and what can never work, 4xx."""
    body = told_of(sandbox.bucket, "images/a+b.jpg")
    with door() as opened:
        for token in (None, "wrong", TOKEN[:-1]):
            assert opened.post(body, token).status_code == 401
        assert opened.post(b"{").status_code == 422
        assert opened.post(b" " * (1 << 20) + b" ").status_code == 413
        assert await images_of(sandbox.bucket) == []

        answer = opened.post(body)
        assert (answer.status_code, answer.json()["images"]) == (200, 1)
        assert await images_of(sandbox.bucket) == [f"s3://{sandbox.bucket}/images/a b.jpg"]
        assert opened.post(told_of(sandbox.bucket, "videos/a.jpg")).json()["dropped"] == {"own_object": 1}
        assert opened.get("/s3").status_code == 405
        assert await soon(lambda: "i2v_jobs_open 0.0" in opened.get("/metrics").text)
        assert opened.end(signal.SIGINT) == 130
        assert TOKEN not in opened.said()


async def test_a_missing_deployment_is_said(deployed: None) -> None:
    """A server that answers, but has no such deployment, is not "down": the door says what to do."""
    health = Health()
    async with get_client() as client:
        with pytest.raises(RunRejected, match="make deploy"):
            await FlowRunStarter(client, "generate/nowhere", health).start({}, key="k")
    assert "generate/nowhere" in health.prefect
    assert not health.is_ready


def test_wrong_settings_are_told(prefect_server: PrefectServer, make_settings: MakeSettings) -> None:
    """A door that nothing could come in by, or that cannot listen, does not start."""
    with pytest.raises(UsageError, match="I2V_BUCKET"):
        check_settings(make_settings(I2V_DOOR_TOKEN="t"))
    with pytest.raises(UsageError, match="I2V_SQS_QUEUE_URL"):
        check_settings(make_settings(I2V_BUCKET="b"))
    with listen(make_settings(I2V_DOOR_PORT=0)) as taken, pytest.raises(UsageError, match="Cannot listen"):
        listen(make_settings(I2V_DOOR_PORT=taken.getsockname()[1]))


def test_a_wrong_start_ends_with_two(child_env: dict[str, str]) -> None:
    """Without anything to listen to it says so in words, and ends with the code for wrong settings."""
    ended = subprocess.run(
        [sys.executable, "-m", "doors"],
        cwd=ROOT,
        env=child_env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: The door has no input")
    assert "hint: " in ended.stderr


@pytest.fixture
def queue(feed: Feed, sandbox: Sandbox) -> SqsQueue:
    """The feed's queue as the door sees it."""
    return SqsQueue(feed.url, sandbox.sqs())


async def test_without_dead_letters_a_bad_message_stays(queue: SqsQueue, feed: Feed, sandbox: Sandbox) -> None:
    """Where the queue has no dead-letter queue nothing is thrown away: SQS shows the message again."""
    sandbox.sqs().set_queue_attributes(QueueUrl=feed.url, Attributes={"RedrivePolicy": ""})
    feed.take(feed.url)
    feed.send(["{"])
    (message,) = await queue.receive(30)
    assert not await queue.dead_letter(message, "it is no JSON")
    assert (feed.left(), feed.left(feed.dead)) == (1, 0)


async def test_a_queue_that_is_gone_is_told(sandbox: Sandbox) -> None:
    """What is wrong with the queue is said with what to do, and is no reason to end."""
    gone = SqsQueue(f"{sandbox.aws.url}/000000000000/nowhere", sandbox.sqs())
    with pytest.raises(QueueError, match=r"does not exist.*I2V_SQS_QUEUE_URL"):
        await gone.receive(30)


async def test_parameters_that_are_not_taken_stay_said(deployed: None, prefect_server: PrefectServer) -> None:
    """A deployment of another version is not "down": what to do is said until a run is started, also between tries."""
    health = Health()
    async with get_client() as client:
        flow = await client.create_flow_from_name("generate")
        schema = {"type": "object", "properties": {"images": {"type": "string"}}, "required": ["images"]}
        made = await client.create_deployment(
            flow, "old", parameter_openapi_schema=schema, enforce_parameter_schema=True
        )
        old = FlowRunStarter(client, "generate/old", health)
        with pytest.raises(RunRejected, match="make deploy"):
            await old.start({"images": ["s3://b/images/a.jpg"]}, key="k")
        watching = asyncio.create_task(old.watch())
        await asyncio.sleep(0.5)
        watching.cancel()
        await client.delete_deployment(made)
    assert "rejects the parameters (409)" in health.prefect
