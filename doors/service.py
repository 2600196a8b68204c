"""`serve`: wire the door's parts together, listen, and finish pending work on SIGTERM."""

import asyncio
import logging
import signal
import socket

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from doors.flow_run_starter import FlowRunStarter, prefect_api_url
from doors.gallery.routes import gallery_routes
from doors.health import OFF, STARTING, Health
from doors.http.app import make_app
from doors.http.callbacks import COLLECT, Callbacks
from doors.http.server import HttpServer
from doors.image_intake import ON_IMAGE, ImageIntake, make_intake
from doors.ledger_gauges import LedgerGauges
from doors.prefect_gauges import PrefectGauges
from doors.sqs_gauges import SqsGauges
from doors.sqs_queue import SqsQueue
from doors.sqs_receiver import STOP_SECONDS, SqsReceiver
from i2v.apixo.callbacks import callback_settings_error
from i2v.cli.prefect.ui_links import flow_run_url
from i2v.errors import UsageError
from i2v.s3.storage import Storage
from i2v.settings import Settings
from i2v.urls import redact_url

log = logging.getLogger(__name__)
FINISH_SECONDS = 25.0
"""Below the 30 s that Kubernetes and ECS allow between SIGTERM and SIGKILL."""
LAST_SECONDS = 3.0
"""For deleting messages and sending the last responses."""


def check_settings(settings: Settings) -> None:
    """Raise `UsageError` if a required variable is missing."""
    settings.require_bucket()
    prefect_api_url()
    if fault := callback_settings_error(settings):
        raise fault
    if not (settings.sqs_queue_url or settings.door_token or settings.callback_secrets):
        raise UsageError(
            "The door has no input: neither I2V_SQS_QUEUE_URL nor I2V_DOOR_TOKEN is set",
            "Set the queue that receives the bucket's notifications, or the bearer token of its webhooks",
        )


def listen(settings: Settings) -> socket.socket:
    """Return the listening socket. Raise `UsageError` if the address is in use or not available."""
    address = (settings.door_host, settings.door_port)
    try:
        family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server(address, family=family)
    except OSError as error:
        raise UsageError(
            f"Cannot listen on {address[0]}:{address[1]}: {error.strerror}", "Set I2V_DOOR_HOST and I2V_DOOR_PORT"
        ) from None


async def serve(settings: Settings) -> int:
    """Run the door until SIGTERM or SIGINT, and return the exit code. Raise `UsageError` on wrong settings."""
    check_settings(settings)
    queue = SqsQueue(settings.sqs_queue_url) if settings.sqs_queue_url else None
    # Prefect's client must not retry: the batchers do, and health must show each error
    with listen(settings) as listening, temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), Storage() as storage:
        async with get_client() as client:
            health = Health(queue=STARTING if queue else OFF)
            on_image = FlowRunStarter(client, ON_IMAGE, health)
            collect = FlowRunStarter(client, COLLECT, health, "callbacks")
            intake = make_intake(settings, health, on_image, storage)
            registry = intake.metrics.registry
            gauges = [LedgerGauges(storage, settings, registry), PrefectGauges(client, registry)]
            gauges += [SqsGauges(queue, registry)] if queue else []
            callbacks = Callbacks(settings, storage, collect, registry)
            health.callbacks = STARTING if callbacks.is_on else OFF
            server = HttpServer(make_app(intake, gauges, callbacks, gallery_routes(settings, storage, flow_run_url)))
            receiver = SqsReceiver(queue, intake) if queue else None
            log.info("%s", _describe(settings, listening))
            background = [on_image.watch(), intake.images.run(), callbacks.batcher.run()]
            background += [collect.watch()] if callbacks.is_on else []
            tasks = [asyncio.create_task(part) for part in background]
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            receiving = {asyncio.create_task(receiver.run())} if receiver else set()
            code = await _wait_for_stop([*tasks, serving, *receiving])
            await asyncio.gather(_finish(intake, receiver, receiving), callbacks.batcher.close(FINISH_SECONDS))
            server.should_exit = True
            for task in tasks:
                task.cancel()
            await asyncio.wait({serving, *receiving}, timeout=LAST_SECONDS)
            return code


async def _wait_for_stop(tasks: list[asyncio.Task[None]]) -> int:
    """Wait for a signal and return the exit code: 1 if a task ends first, so that a supervisor restarts the door."""
    signalled = asyncio.create_task(_wait_for_signal())
    await asyncio.wait([signalled, *tasks], return_when=asyncio.FIRST_COMPLETED)
    if signalled.done():
        return 0 if signalled.result() == signal.SIGTERM else 128 + signalled.result()
    signalled.cancel()
    for task in tasks:
        if task.done():
            log.error("A part of the door ended unexpectedly; exiting", exc_info=task.exception())
    return 1


async def _finish(intake: ImageIntake, receiver: SqsReceiver | None, receiving: set[asyncio.Task[None]]) -> None:
    log.info("Stopping: finishing pending work, up to %.0f s", FINISH_SECONDS)
    intake.health.stopping = True
    if receiver:
        receiver.stop()
        await asyncio.wait(receiving, timeout=STOP_SECONDS)
    is_done = await intake.images.close(FINISH_SECONDS)
    if receiver:
        await asyncio.wait(receiving, timeout=LAST_SECONDS)
    log.info("Stopped%s", "" if is_done else "; images without a flow run stay in the queue")


async def _wait_for_signal() -> int:
    """Return the first SIGTERM or SIGINT. A second one ends the process at once."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[int] = loop.create_future()

    def receive(number: int) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
        received.set_result(number)

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, receive, each)
    return await received


def _describe(settings: Settings, listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    webhooks = "POST /s3 is on" if settings.door_token else "POST /s3 is off: I2V_DOOR_TOKEN is not set"
    queue = redact_url(settings.sqs_queue_url or "not set")
    return (
        f"The door listens on http://{host}:{port} ({webhooks}); queue: {queue}; "
        f"Prefect: {prefect_api_url()}, deployment {ON_IMAGE}; images: {settings.images}"
    )
