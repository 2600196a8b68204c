"""The door as a child process with a real SQS, HTTP clients and a real Prefect server: no notification is lost."""

import asyncio
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from doors.flow_run_starter import FlowRunStarter, RunRejected
from doors.health import Health
from doors.service import check_settings, listen
from doors.sqs_queue import QueueError, SqsQueue
from i2v.errors import UsageError
from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from tests.support.door_process import (
    TOKEN,
    VISIBILITY_SECONDS,
    DoorProcess,
    NotificationQueue,
    delete_runs,
    ensure_deployment,
    images_in_runs,
    list_runs,
    s3_notification,
    wait_for_async,
)
from tests.support.fault_proxy import FaultProxy, FaultRule
from tests.support.paths import ROOT
from tests.support.settings import MakeSettings

OPEN_DOOR = Callable[[], DoorProcess]
CREATE = r"/create_flow_run$"


@pytest.fixture
async def deployed(prefect_server: PrefectServer) -> AsyncIterator[None]:
    """Create the deployment that the door starts, and delete it with its runs after the test."""
    async with get_client() as client:
        created = await ensure_deployment(client)
    yield
    await delete_runs()
    if created:
        async with get_client() as client:
            await client.delete_deployment(created)


@pytest.fixture
def notification_queue(sandbox: Sandbox) -> NotificationQueue:
    """The queue that receives the bucket's notifications."""
    return NotificationQueue(sandbox)


@pytest.fixture
def proxy(prefect_server: PrefectServer) -> Iterator[FaultProxy]:
    """A fault proxy in front of Prefect."""
    with FaultProxy(prefect_server.url.removeprefix("http://")) as proxy:
        yield proxy


@pytest.fixture
def door(
    deployed: None, notification_queue: NotificationQueue, proxy: FaultProxy, child_env: dict[str, str], tmp_path: Path
) -> OPEN_DOOR:
    """Return a function that starts a door on the queue, with Prefect behind the proxy."""
    env = child_env | {"PREFECT_API_URL": f"{proxy.url}/api", "I2V_SQS_QUEUE_URL": notification_queue.url}
    logs = iter(range(9))
    return lambda: DoorProcess(env, tmp_path / f"door{next(logs)}.log")


async def test_a_burst_becomes_runs_and_leaves_nothing(
    door: OPEN_DOOR, notification_queue: NotificationQueue, sandbox: Sandbox, proxy: FaultProxy
) -> None:
    """With duplicates, disorder and a lost response, every image gets a run, and bad messages are dead-lettered."""
    odd = ["a b", "a+b", "100%", "ÿ 猫", "x" * 1013]
    images = notification_queue.upload(*(f"images/{name}.jpg" for name in [*odd, *map(str, range(115))]))
    notification_queue.upload("images/notes.txt", "other/a.jpg")
    bodies = [message["Body"] for message in notification_queue.drain(notification_queue.url)]
    bad = ["{", "hello", '{"Records": []}', "[]"]
    messages = [*bodies, *bodies, *bad]
    random.Random(1).shuffle(messages)  # noqa: S311 - a fixed order
    notification_queue.send(messages)
    proxy.add(FaultRule("drop", "POST", CREATE, when="after"))

    with door() as opened:
        await wait_for_async(lambda: not notification_queue.count_messages())
        assert sorted({*await images_in_runs(sandbox.bucket)}) == sorted(images)
        assert opened.count("i2v_door_images_total") + opened.count("i2v_door_duplicates_total") == 2 * len(images)
        assert opened.count("i2v_door_images_total") == len(await images_in_runs(sandbox.bucket))
        assert opened.count("i2v_door_dropped_total") == len(bodies) * 2 - len(images) * 2
        assert opened.count("i2v_door_unreadable_total") == len(bad)
        healthy = {"live": True, "ready": True, "queue": "ok", "prefect": "ok", "callbacks": "not set"}
        assert opened.get("/healthz").json() == healthy
        await wait_for_async(lambda: opened.count("i2v_dead_letters") == len(bad))
        assert (opened.count("i2v_queue_messages"), opened.count("i2v_door_ready")) == (0, 1)
        assert opened.stop() == 0

    dead = notification_queue.drain(notification_queue.dead_letter_url)
    assert sorted(message["Body"] for message in dead) == sorted(bad)
    assert all(message["MessageAttributes"]["I2vReason"]["StringValue"] for message in dead)
    assert {"bucket"} <= set((await list_runs(sandbox.bucket))[0].tags)


async def test_without_prefect_nothing_is_lost(
    door: OPEN_DOOR, notification_queue: NotificationQueue, sandbox: Sandbox, proxy: FaultProxy
) -> None:
    """While Prefect is down messages stay hidden and webhooks get 503; afterwards each image is in one run."""
    proxy.add(FaultRule("drop", "", "/api/", times=None))
    with door() as opened:
        images = notification_queue.upload("images/a.jpg", "images/b.jpg")
        posting = asyncio.create_task(asyncio.to_thread(opened.post, s3_notification(sandbox.bucket, "images/c.jpg")))
        await asyncio.sleep(VISIBILITY_SECONDS)
        assert notification_queue.count_messages() == 2
        health = opened.get("/healthz")
        assert health.status_code == 503
        assert "does not respond" in health.json()["prefect"]
        response = await posting
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        assert notification_queue.count_messages() == 2
        assert opened.count("i2v_door_duplicates_total") == 0  # stayed hidden beyond one visibility timeout
        proxy.reset()
        await wait_for_async(lambda: not notification_queue.count_messages())
        await wait_for_async(lambda: opened.get("/healthz").status_code == 200)

    assert [image for image in await images_in_runs(sandbox.bucket) if "c.jpg" not in image] == images


async def test_killed_before_the_delete_nothing_is_lost(
    door: OPEN_DOOR, notification_queue: NotificationQueue, sandbox: Sandbox, proxy: FaultProxy
) -> None:
    """If a door is killed between run and delete, the next one receives the messages and gets the same run."""
    images = notification_queue.upload("images/a.jpg", "images/b.jpg")
    with door() as first:
        proxy.add(FaultRule("kill", "POST", CREATE, when="after", pid=first.pid))
        assert first.wait() == -signal.SIGKILL
    assert notification_queue.count_messages() == 2

    with door():
        await wait_for_async(lambda: not notification_queue.count_messages())
    assert await images_in_runs(sandbox.bucket) == images


async def test_sigterm_finishes_pending_work(
    door: OPEN_DOOR, notification_queue: NotificationQueue, sandbox: Sandbox, proxy: FaultProxy
) -> None:
    """On SIGTERM the door starts the pending images' run at once, answers their webhook and exits 0."""
    slow = proxy.add(FaultRule("delay", "POST", CREATE, seconds=1))
    with door() as opened:
        images = notification_queue.upload("images/a.jpg")
        posting = asyncio.create_task(asyncio.to_thread(opened.post, s3_notification(sandbox.bucket, "images/b.jpg")))
        await wait_for_async(lambda: opened.count("i2v_door_in_hand") == 2)
        assert opened.stop() == 0
        assert (await posting).status_code == 200
    assert slow.hits == 1
    assert notification_queue.count_messages() == 0
    assert await images_in_runs(sandbox.bucket) == [*images, f"s3://{sandbox.bucket}/images/b.jpg"]


async def test_webhooks_need_the_token_and_get_their_run(door: OPEN_DOOR, sandbox: Sandbox) -> None:
    """A webhook with the token gets 200 once Prefect has the run, a wrong token or body 4xx, beside silent clients."""
    body = s3_notification(sandbox.bucket, "images/a+b.jpg")
    with door() as opened, ExitStack() as silent:
        for _ in range(512):
            silent.enter_context(socket.create_connection(("127.0.0.1", int(opened.url.rpartition(":")[2]))))
        for token in (None, "wrong", TOKEN[:-1]):
            assert opened.post(body, token).status_code == 401
        assert opened.post(b"{").status_code == 422
        assert opened.post(b" " * (1 << 20) + b" ").status_code == 413
        assert await images_in_runs(sandbox.bucket) == []

        response = opened.post(body)
        assert (response.status_code, response.json()["images"]) == (200, 1)
        assert await images_in_runs(sandbox.bucket) == [f"s3://{sandbox.bucket}/images/a b.jpg"]
        assert opened.post(s3_notification(sandbox.bucket, "videos/a.jpg")).json()["dropped"] == {"own_object": 1}
        assert opened.get("/s3").status_code == 405
        assert await wait_for_async(lambda: "i2v_jobs_open 0.0" in opened.get("/metrics").text)
        assert opened.stop(signal.SIGINT) == 130
        assert TOKEN not in opened.read_log()


async def test_a_missing_deployment_is_reported(deployed: None) -> None:
    """If Prefect has no such deployment, health says to run `make deploy`."""
    health = Health()
    async with get_client() as client:
        with pytest.raises(RunRejected, match="make deploy"):
            await FlowRunStarter(client, "generate/nowhere", health).start({}, key="k")
    assert "generate/nowhere" in health.prefect
    assert not health.is_ready


def test_wrong_settings_are_reported(prefect_server: PrefectServer, make_settings: MakeSettings) -> None:
    """A door without a bucket, without any input, or with a port in use does not start."""
    with pytest.raises(UsageError, match="I2V_BUCKET"):
        check_settings(make_settings(I2V_DOOR_TOKEN=TOKEN))
    with pytest.raises(UsageError, match="I2V_SQS_QUEUE_URL"):
        check_settings(make_settings(I2V_BUCKET="b"))
    with listen(make_settings(I2V_DOOR_PORT=0)) as taken, pytest.raises(UsageError, match="Cannot listen"):
        listen(make_settings(I2V_DOOR_PORT=taken.getsockname()[1]))


def test_wrong_settings_exit_with_two(child_env: dict[str, str]) -> None:
    """A door without any input prints an error with a hint and exits 2."""
    process = subprocess.run(
        [sys.executable, "-m", "doors"],
        cwd=ROOT,
        env=child_env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 2
    assert process.stderr.startswith("error: The door has no input")
    assert "hint: " in process.stderr


@pytest.fixture
def queue(notification_queue: NotificationQueue, sandbox: Sandbox) -> SqsQueue:
    """The same queue as the door uses it."""
    return SqsQueue(notification_queue.url, sandbox.sqs())


async def test_without_a_dead_letter_queue_a_bad_message_stays(
    queue: SqsQueue, notification_queue: NotificationQueue, sandbox: Sandbox
) -> None:
    """Without a dead-letter queue an invalid message stays in the queue."""
    sandbox.sqs().set_queue_attributes(QueueUrl=notification_queue.url, Attributes={"RedrivePolicy": ""})
    notification_queue.drain(notification_queue.url)
    notification_queue.send(["{"])
    (message,) = await queue.receive(30)
    assert not await queue.dead_letter(message, "not JSON")
    assert (
        notification_queue.count_messages(),
        notification_queue.count_messages(notification_queue.dead_letter_url),
    ) == (1, 0)


async def test_a_missing_queue_is_reported(sandbox: Sandbox) -> None:
    """A missing queue raises an error that names the setting to check."""
    missing = SqsQueue(f"{sandbox.aws.url}/000000000000/nowhere", sandbox.sqs())
    with pytest.raises(QueueError, match=r"does not exist.*I2V_SQS_QUEUE_URL"):
        await missing.receive(30)


async def test_rejected_parameters_stay_reported(deployed: None, prefect_server: PrefectServer) -> None:
    """A deployment that rejects the parameters stays reported in health until a run starts."""
    health = Health()
    async with get_client() as client:
        flow = await client.create_flow_from_name("generate")
        schema = {"type": "object", "properties": {"images": {"type": "string"}}, "required": ["images"]}
        deployment = await client.create_deployment(
            flow, "old", parameter_openapi_schema=schema, enforce_parameter_schema=True
        )
        old = FlowRunStarter(client, "generate/old", health)
        with pytest.raises(RunRejected, match="make deploy"):
            await old.start({"images": ["s3://b/images/a.jpg"]}, key="k")
        watching = asyncio.create_task(old.watch())
        await asyncio.sleep(0.5)
        watching.cancel()
        await client.delete_deployment(deployment)
    assert "rejects the parameters (409)" in health.prefect
