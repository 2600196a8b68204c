"""Run i2v in separate processes, forked from a server process that has imported everything: `start_process`.

A process waits for `begin()`, so that a fault can name its pid before its first request. It ends with its parent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import boto3
import botocore.session

from i2v.errors import I2vError, Stopped
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.media.decoder import DECODER, Decoder
from i2v.pipeline import run as run_module
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.run import open_run
from i2v.reports.run_report import Report
from i2v.s3.storage import Storage
from i2v.settings import Settings, read_settings
from tests.support.reconciling import reconcile

END_SECONDS = 200
_IS_OURS: list[bool] = []
"""Whether the fork server was started here."""
POST_SECONDS = 120.0
"""As with the default lease."""
T = TypeVar("T")
AWS_SESSION = botocore.session.get_session()
"""boto3's service descriptions, loaded once before any fork."""


@dataclass(frozen=True)
class ProcessSpec:
    """What a process does and with which environment variables; its log and temporary files go to `folder`."""

    env: Mapping[str, str]
    folder: Path
    run_id: str
    work: Literal["generate", "reconcile"] = "generate"
    images: str | tuple[str, ...] = ()
    options: RequestOptions = field(default_factory=lambda: RequestOptions(prompt="a slow zoom"))
    max_spend_usd: Decimal | None = None
    label: str | None = None
    partial: bool = False
    settings: Mapping[str, float] = field(default_factory=dict)
    """Changes to the settings that the environment may not make, such as a lease of half a second."""
    claim_to_post_seconds: float = 60.0
    """As with the default lease, since a fifth of a short one is too little for a busy machine."""


@dataclass(frozen=True)
class ProcessResult:
    """A finished process: exit code (-9 if killed), log, the report as in `--json`, and the error that stopped it."""

    code: int | None
    log: str
    report: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class ThreadDecoder(Decoder):
    """Decodes in this process, which saves each process the start of two children."""

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run a function in a thread, without limits."""
        return await asyncio.to_thread(function, *args)


class RunningProcess:
    """A process that waits for `begin`, or runs; `with start_process(spec) as running:` kills it at the end."""

    def __init__(self, process: ForkServerProcess, pipe: Connection, log: Path) -> None:
        self._process, self._pipe, self._log = process, pipe, log
        self.pid = process.pid or 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def begin(self) -> None:
        """Let it start its work."""
        self._pipe.send("begin")

    def wait(self, seconds: float = END_SECONDS) -> ProcessResult:
        """Wait for its end; kill it and raise `TimeoutError` if it takes longer."""
        wait([self._pipe], seconds)
        try:
            result = json.loads(self._pipe.recv()) if self._pipe.poll() else {}
        except (EOFError, ConnectionResetError):
            result = {}
        self._process.join(seconds if result else 5)
        code = self._process.exitcode
        self.kill()
        log = self._log.read_text() if self._log.exists() else ""
        if code is None:
            raise TimeoutError(f"a process did not end in {seconds} s:\n{log}")
        return ProcessResult(code, log, **result)

    def kill(self) -> None:
        """Kill it if it is still alive."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def fork_context() -> ForkServerContext:
    """Return the fork server's context; there is one server per test process, and it ends with it.

    It imports Prefect only in the tests with Prefect.
    """
    context = multiprocessing.get_context("forkserver")
    if not _IS_OURS:
        _IS_OURS.append(True)
        DECODER.close()
        _end_server_of_decoder()
    with_prefect = ["tests.support.prefect_preload"] if "prefect" in sys.modules else []
    context.set_forkserver_preload([__name__, "tests.support.forkserver_preload", *with_prefect])
    return context


def _end_server_of_decoder() -> None:
    """End the fork server that knows only decoders. By SIGKILL: otherwise it waits for each process that it started."""
    server: Any = vars(forkserver)["_forkserver"]  # not public
    if pid := server._forkserver_pid:  # noqa: SLF001
        os.kill(pid, signal.SIGKILL)
    server._stop()  # noqa: SLF001


def start_process(spec: ProcessSpec) -> RunningProcess:
    """Fork a process, which waits for `begin`."""
    context = fork_context()
    ours, theirs = context.Pipe()
    log = spec.folder / f"{spec.work}-{spec.run_id}.log"
    process = context.Process(target=_work, args=(spec, theirs, log))
    process.start()
    theirs.close()
    return RunningProcess(process, ours, log)


def run_process(spec: ProcessSpec) -> ProcessResult:
    """Run one process to its end."""
    return run_concurrently([spec])[0]


def run_concurrently(specs: Iterable[ProcessSpec]) -> list[ProcessResult]:
    """Run all these processes at the same time, to their ends."""
    with ExitStack() as stack:
        processes = [stack.enter_context(start_process(spec)) for spec in specs]
        for running in processes:
            running.begin()
        return [running.wait() for running in processes]


def _work(spec: ProcessSpec, pipe: Connection, log: Path) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(spec.env)
    tempfile.tempdir = str(spec.folder)
    sys.stderr = log.open("a", buffering=1)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    pipe.recv()
    try:
        report, stopped = asyncio.run(_do(spec))
        result = {"report": report.for_json(), "error": str(stopped or "")}
    except I2vError as error:
        result = {"error": str(error)}
    pipe.send(json.dumps(result))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
    os._exit(1)


async def _do(spec: ProcessSpec) -> tuple[Report, Stopped | None]:
    Settings.post_seconds = property(lambda _: POST_SECONDS)  # type: ignore[assignment,method-assign]
    Settings.claim_to_post_seconds = property(lambda _: spec.claim_to_post_seconds)  # type: ignore[assignment,method-assign]
    run_module.DECODER = ThreadDecoder()  # type: ignore[attr-defined]
    settings = read_settings().model_copy(update=spec.settings)
    storage = Storage(session=boto3.Session(botocore_session=AWS_SESSION))
    opened = open_run(settings, spec.run_id, max_spend_usd=spec.max_spend_usd, label=spec.label, storage=storage)
    async with opened as run:
        if spec.work == "reconcile":
            return await reconcile(run), None
        items = await find_items(list(spec.images), run.storage, run.settings)
        return await generate(run, items, spec.options, Steps(), partial=spec.partial)
