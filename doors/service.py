"""The service: puts the door's parts together, listens, and at SIGTERM finishes what was taken."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from prefect.client.orchestration import PrefectClient
from prefect.settings import PREFECT_API_URL
from starlette.applications import Starlette

from doors.app import make_app
from doors.callbacks import COLLECT, Callbacks
from doors.door import ON_IMAGE, Door, make_door
from doors.flow_run_starter import FlowRunStarter, prefect_api_url, without_client_retries
from doors.gallery.routes import gallery_routes
from doors.health import OFF, STARTING, Health
from doors.ledger_gauges import LedgerGauges
from doors.sqs_queue import SqsQueue
from doors.sqs_receiver import LAST_ANSWER_SECONDS, SqsReceiver
from i2v.apixo.callbacks import half_set_fault
from i2v.errors import UsageError
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
FINISH_SECONDS = 25.0
"""Less than the 30 that Kubernetes, ECS and systemd's own give or may be told to give."""
MOST_CONNECTIONS = 512
LAST_SECONDS = 3.0
"""For deleting messages, and for the last answers."""


class _Server(uvicorn.Server):
    """Leaves the signals to us: what was taken is finished before the connections end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def check_settings(settings: Settings) -> None:
    """Prove that the settings make a door.

    Raises:
        UsageError: they do not; it names the variable.
    """
    settings.require_bucket()
    prefect_api_url()
    if fault := half_set_fault(settings):
        raise fault
    if not (settings.sqs_queue_url or settings.door_token or settings.callback_secrets):
        raise UsageError(
            "Nothing can come in: neither I2V_SQS_QUEUE_URL nor I2V_DOOR_TOKEN is set",
            "Set the queue that the bucket's notifications go to, or the token that its webhooks bear",
        )


def listen(settings: Settings) -> socket.socket:
    """The socket to listen on.

    Raises:
        UsageError: the address is not ours, or taken.
    """
    place = (settings.door_host, settings.door_port)
    try:
        family = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server(place, family=family)
    except OSError as error:
        raise UsageError(
            f"Cannot listen on {place[0]}:{place[1]}: {error.strerror}", "Set I2V_DOOR_HOST and I2V_DOOR_PORT"
        ) from None


async def serve(settings: Settings) -> int:
    """Run the door until SIGTERM or SIGINT; the exit code.

    Raises:
        UsageError: the settings make no door.
    """
    check_settings(settings)
    queue = SqsQueue(settings.sqs_queue_url) if settings.sqs_queue_url else None
    with listen(settings) as listening, without_client_retries(), Storage() as storage:
        async with PrefectClient(PREFECT_API_URL.value()) as client:
            health = Health(queue=STARTING if queue else OFF)
            on_image = FlowRunStarter(client, ON_IMAGE, health)
            collect = FlowRunStarter(client, COLLECT, health, "callbacks")
            door = make_door(settings, health, on_image)
            gauges = LedgerGauges(storage, settings, door.metrics.registry)
            callbacks = Callbacks(settings, storage, collect, door.metrics.registry)
            health.callbacks = STARTING if callbacks.is_on else OFF
            endless = [on_image.watch(), door.images.run(), callbacks.gatherer.run()]
            endless += [collect.watch()] if callbacks.is_on else []
            log.info("%s", _words(settings, listening))
            app = make_app(door, gauges, callbacks, gallery_routes(settings, storage))
            server = _Server(_uvicorn_config(app))
            return await _serve(door, callbacks, server, endless, queue, listening)


async def _serve(
    door: Door,
    callbacks: Callbacks,
    server: _Server,
    endless: Sequence[Coroutine[Any, Any, None]],
    queue: SqsQueue | None,
    listening: socket.socket,
) -> int:
    receiver = SqsReceiver(queue, door) if queue else None
    going = [asyncio.create_task(part) for part in endless]
    parts = [server.serve(sockets=[listening]), *([receiver.run()] if receiver else [])]
    ending = [asyncio.create_task(part) for part in parts]
    code = await _until_stopped([*going, *ending])
    await asyncio.gather(_finish(door, receiver, ending[-1]), callbacks.gatherer.close(FINISH_SECONDS))
    server.should_exit = True
    for task in going:
        task.cancel()
    await asyncio.wait(ending, timeout=LAST_SECONDS)
    return code


async def _until_stopped(work: list[asyncio.Task[None]]) -> int:
    """Wait for a signal, and give the exit code; a part that ends by itself ends the door, to be started anew."""
    signalled = asyncio.create_task(_signal())
    await asyncio.wait([signalled, *work], return_when=asyncio.FIRST_COMPLETED)
    if signalled.done():
        return 0 if signalled.result() == signal.SIGTERM else 128 + signalled.result()
    signalled.cancel()
    for task in work:
        if task.done():
            log.error("a part of the door ended by itself", exc_info=task.exception())
    return 1


async def _finish(door: Door, receiver: SqsReceiver | None, receiving: asyncio.Task[None]) -> None:
    log.info("stopping: finishing what was taken, %.0f s at most", FINISH_SECONDS)
    door.health.stopping = True
    if receiver:
        receiver.stop()
        await asyncio.wait({receiving}, timeout=LAST_ANSWER_SECONDS)
    is_done = await door.images.close(FINISH_SECONDS)
    if receiver:
        await asyncio.wait({receiving}, timeout=LAST_SECONDS)
    log.info("stopped%s", "" if is_done else "; what Prefect did not take stays in the queue")


def _uvicorn_config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        log_level="warning",
        lifespan="off",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=2,
        server_header=False,
    )


async def _signal() -> int:
    """The first of SIGTERM and SIGINT; a second one then ends the process as it always does."""
    loop = asyncio.get_running_loop()
    came: asyncio.Future[int] = loop.create_future()

    def take(number: int) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
        came.set_result(number)

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, take, each)
    return await came


def _words(settings: Settings, listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    posts = "POST /s3" if settings.door_token else "POST /s3 shut (no I2V_DOOR_TOKEN)"
    return (
        f"the door listens on http://{host}:{port} ({posts}); queue {settings.sqs_queue_url or 'not set'}; "
        f"Prefect {prefect_api_url()}, deployment {ON_IMAGE}; images {settings.images}"
    )
