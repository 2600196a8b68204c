"""Run a batch on the server of `PREFECT_API_URL`: start the deployment `batch`, wait for it, and read its report."""

import asyncio
import json
import os
import signal
import time
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from i2v.batches.merge import merge_batch
from i2v.batches.plan import REPORT, BatchPlan, read_plan
from i2v.batches.worker_wait import WorkerWait
from i2v.cli.output.progress import LINE_SECONDS, Progress
from i2v.cli.prefect import connection
from i2v.cli.prefect.server_errors import describe_server_error, is_rejected, shown_api_url
from i2v.cli.prefect.ui_links import flow_run_url
from i2v.cli.run_monitor import Ending
from i2v.cli.signals import end_at_signals
from i2v.errors import I2vError, Stopped, UsageError
from i2v.ledger import keys
from i2v.ledger.attempt import Reason
from i2v.ledger.run_record import read_run
from i2v.reports.run_report import ItemReport, Report
from i2v.s3.storage import Storage
from i2v.settings import Settings

DEPLOYMENT = "generate-batch/batch"
STARTS = 3
"""How often the request that starts the run is sent."""
POLL_SECONDS = 2.0
CANCEL_SECONDS = 60.0
"""How long to wait for a cancelled batch: Prefect kills its run 30 s after SIGTERM."""
MAX_ITEMS = 100_000
MAY_HAVE_STARTED = (
    "The batch may have started. Before you start it again, check, since each batch has its own limit: "
    "prefect flow-run ls --flow-name generate-batch"
)
CANCELLING = (
    "Cancelling the batch and its shards: nothing more is submitted. Press Ctrl-C again to leave at once; nothing is "
    "charged twice."
)


def run_batch(parameters: dict[str, Any], settings: Settings, progress: Progress) -> Ending:
    """Start a batch with these parameters of its flow, wait for it, and return its merged report.

    Raise `UsageError` if there is no server or no deployment, and `Stopped` if the server does not respond.
    """
    if not connection.configured_api():
        raise UsageError(
            "--batch needs a Prefect server with workers, and PREFECT_API_URL is not set",
            "Set it (docs/deploying.md), or omit --batch to generate all videos in this process",
        )
    progress.doing("connecting to Prefect")
    waiting = _Waiting(progress)
    run, words = asyncio.run(waiting.start_and_wait(parameters))
    end_at_signals("interrupted")
    with Storage() as storage:
        report, error = asyncio.run(
            _read_result(run, words, storage, settings, awaits_callbacks=parameters["delivery"] == "callback")
        )
    if waiting.signal:
        error = None if _is_ending(run) else _not_cancelled(run, words)
    return Ending(report, error, waiting.signal, flow_run_url(run.id))


class _Waiting:
    """Waits for the run of a batch; the first signal cancels it, the second ends this process."""

    def __init__(self, progress: Progress) -> None:
        self.signal = 0
        self._progress = progress
        self._signalled = asyncio.Event()
        self._words = ""
        self._last_line = 0.0

    async def start_and_wait(self, parameters: dict[str, Any]) -> tuple[FlowRun, str]:
        """Return the run as it ended, and what its state says."""
        await connection.check_api()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):  # also while the run is created: it would go on alone
            loop.add_signal_handler(number, self._interrupt, number)
        async with get_client() as client:
            run = await _start(client, parameters)
            self._progress.say(f"Started the batch: {flow_run_url(run.id)}")
            run = await self._wait(client, run)
        state = run.state
        return run, f"{state.name}: {state.message or 'no message'}" if state else "unknown"

    def _interrupt(self, number: int) -> None:
        if self.signal:
            self._progress.console.show_cursor()
            os._exit(128 + number)
        self.signal = number
        self._progress.say(CANCELLING)
        self._signalled.set()

    async def _wait(self, client: PrefectClient, run: FlowRun) -> FlowRun:
        deadline, worker_wait = float("inf"), WorkerWait()
        while not (run.state and run.state.is_final()) and time.monotonic() < deadline:
            if self.signal:
                deadline = min(deadline, time.monotonic() + CANCEL_SECONDS)
                await _cancel(client, run)
            if worker_wait.update(is_waiting=run.start_time is None):
                self._progress.say(str(worker_wait))
            await self._pause()
            with suppress(Exception):  # a server that restarts; the batch goes on
                run = await client.read_flow_run(run.id)
                await self._show(client, run)
        return run

    async def _pause(self) -> None:
        if self.signal:
            await asyncio.sleep(POLL_SECONDS)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await self._signalled.wait()

    async def _show(self, client: PrefectClient, run: FlowRun) -> None:
        """Show what the batch's page says of its progress."""
        if time.monotonic() - self._last_line < LINE_SECONDS:
            return
        self._last_line = time.monotonic()
        pages = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        )
        words = pages[0].description.rpartition("running: ")[2] if pages and pages[0].description else ""
        if words and words != self._words:
            self._words = words
            self._progress.doing(words)


async def _start(client: PrefectClient, parameters: dict[str, Any]) -> FlowRun:
    """Start the run; the key lets a request be repeated whose answer was lost."""
    key, is_sent = str(uuid4()), False
    try:
        deployment = await client.read_deployment_by_name(DEPLOYMENT)
        is_sent = True
        for _ in range(STARTS - 1):
            with suppress(Exception):  # the last try raises the error
                return await _create(client, deployment.id, parameters, key)
        return await _create(client, deployment.id, parameters, key)
    except ObjectNotFound:
        raise UsageError(
            f"The deployment {DEPLOYMENT} does not exist at {shown_api_url()}", "Create it: make deploy"
        ) from None
    except Exception as error:  # noqa: BLE001 - Prefect's client raises many kinds of errors
        message, hint = describe_server_error(error)
        raise Stopped(message, MAY_HAVE_STARTED if is_sent and not is_rejected(error) else hint) from None


def _is_ending(run: FlowRun) -> bool:
    """Whether a run has ended, or Prefect is cancelling it."""
    return run.state is not None and (run.state.is_final() or run.state.is_cancelling())


def _not_cancelled(run: FlowRun, words: str) -> I2vError:
    return I2vError(
        f"Prefect did not cancel the batch, which goes on and may submit: {words}",
        f"Cancel it: prefect flow-run cancel {run.id}",
    )


async def _create(client: PrefectClient, deployment: UUID, parameters: dict[str, Any], key: str) -> FlowRun:
    return await client.create_flow_run_from_deployment(deployment, parameters=parameters, idempotency_key=key)


async def _cancel(client: PrefectClient, run: FlowRun) -> None:
    """Cancel the run unless Prefect is cancelling it; if Prefect does not respond, the next poll tries again."""
    if _is_ending(run):
        return
    state: State[Any] = Cancelling(message="Ctrl-C in the command")
    with suppress(Exception):
        await client.set_flow_run_state(run.id, state)


async def _read_result(
    run: FlowRun, words: str, storage: Storage, settings: Settings, *, awaits_callbacks: bool
) -> tuple[Report, I2vError | None]:
    """Return the merged report, and the error that stopped the batch before its first submit or killed its run."""
    found = await read_run(storage, settings, str(run.id))
    plan = await read_plan(storage, settings, str(run.id))
    stopped = found.content.stopped if found else None
    if plan is None or found is None or (stopped and found.content.report is None):
        return Report(), _as_error(stopped) if stopped else Stopped(f"The batch did not start: {words}")
    error = _as_error(stopped) if stopped and stopped.code != "shard" else None
    if found.content.report is None:
        await merge_batch(plan, {}, storage, settings)
        error = I2vError(
            f"The run of the batch did not end: {words}",
            f"Retry it; it finds its shards, and nothing is charged twice: prefect flow-run retry {run.id}",
        )
    report = await _read_report(plan, storage, settings)
    return report.model_copy(update={"awaits_callbacks": awaits_callbacks}), error


async def _read_report(plan: BatchPlan, storage: Storage, settings: Settings) -> Report:
    uri = keys.batch_uri(settings, plan.run_id, REPORT)
    if plan.images > MAX_ITEMS:
        raise I2vError(
            f"The batch has {plan.images:,} images, more than a command shows",
            f"Its report is at {uri}, and as JSON Lines at {keys.run_items_uri(settings, plan.run_id)}",
        )
    merged = json.loads((await storage.get(uri)).body)
    return Report(
        items=tuple(ItemReport.from_record(item) for item in merged["items"]),
        other_files=plan.other_files,
        bad_rows=plan.bad_rows,
    )


def _as_error(reason: Reason) -> I2vError:
    return UsageError(reason.message) if reason.code == "usage" else Stopped(reason.message)
