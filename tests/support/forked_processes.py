"""Run i2v in separate processes, forked from a server process that has imported everything: `start_process`.

A process waits for `begin()`, so that a fault can name its pid before its first request. It ends with its parent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, Literal, Self

import boto3
import botocore.session

from i2v.errors import I2vError, Stopped
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.pipeline import submit
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.run import open_run
from i2v.recovery.reconcile import reconcile
from i2v.reports.run_report import Report
from i2v.s3.storage import Storage
from i2v.settings import read_settings

END_SECONDS = 60
AWS_SESSION = botocore.session.get_session()
"""boto3's service descriptions, loaded once before any fork."""


@dataclass(frozen=True)
class ProcessSpec:
    """What a process does and with which environment variables; its log and temporary files go to `folder`."""

    env: Mapping[str, str]
    folder: Path
    run_id: str
    work: Literal["animate", "reconcile"] = "animate"
    images: str | tuple[str, ...] = ()
    asked: RequestOptions = field(default_factory=lambda: RequestOptions(prompt="a slow zoom"))
    max_spend_usd: Decimal | None = None
    partial: bool = False
    claim_to_post_seconds: float = submit.CLAIM_TO_POST_SECONDS
    """The library's limit, which a test may shorten instead of waiting a minute."""


@dataclass(frozen=True)
class ProcessResult:
    """A finished process: exit code (-9 if killed), log, the report as in `--json`, and the error that stopped it."""

    code: int | None
    log: str
    report: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class RunningProcess:
    """A process that waits for `begin`, or runs; `with start_process(spec) as running:` kills it at the end."""

    def __init__(self, process: ForkServerProcess, line: Connection, log: Path) -> None:
        self._process, self._line, self._log = process, line, log
        self.pid = process.pid or 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def begin(self) -> None:
        """Let it start its work."""
        self._line.send("go")

    def wait(self, seconds: float = END_SECONDS) -> ProcessResult:
        """Wait for its end; kill it and raise `TimeoutError` if it takes longer."""
        wait([self._line], seconds)
        try:
            told = json.loads(self._line.recv()) if self._line.poll() else {}
        except (EOFError, ConnectionResetError):
            told = {}
        self._process.join(seconds if told else 5)
        code = self._process.exitcode
        self.kill()
        log = self._log.read_text() if self._log.exists() else ""
        if code is None:
            raise TimeoutError(f"a process did not end in {seconds} s:\n{log}")
        return ProcessResult(code, log, **told)

    def kill(self) -> None:
        """Kill it if it is still alive."""
        self._process.kill()
        self._process.join()
        self._line.close()


def fork_context() -> ForkServerContext:
    """Return the fork server's context; there is one server per test process, and it ends with it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "tests.support.forkserver_preload"])
    return context


def start_process(errand: ProcessSpec) -> RunningProcess:
    """Fork a process, which waits for `begin`."""
    context = fork_context()
    ours, theirs = context.Pipe()
    log = errand.folder / f"{errand.work}-{errand.run_id}.log"
    process = context.Process(target=_work, args=(errand, theirs, log), daemon=True)
    process.start()
    theirs.close()
    return RunningProcess(process, ours, log)


def run_process(errand: ProcessSpec) -> ProcessResult:
    """Run one process to its end."""
    return run_concurrently([errand])[0]


def run_concurrently(errands: Iterable[ProcessSpec]) -> list[ProcessResult]:
    """Run all these processes at the same time, to their ends."""
    with ExitStack() as stack:
        racing = [stack.enter_context(start_process(errand)) for errand in errands]
        for running in racing:
            running.begin()
        return [running.wait() for running in racing]


def _work(errand: ProcessSpec, line: Connection, log: Path) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(errand.env)
    tempfile.tempdir = str(errand.folder)
    sys.stderr = log.open("a", buffering=1)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    submit.CLAIM_TO_POST_SECONDS = errand.claim_to_post_seconds
    line.recv()
    try:
        report, stopped = asyncio.run(_do(errand))
        told = {"report": report.for_json(), "error": str(stopped or "")}
    except I2vError as error:
        told = {"error": str(error)}
    line.send(json.dumps(told))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
    os._exit(1)


async def _do(errand: ProcessSpec) -> tuple[Report, Stopped | None]:
    settings, storage = read_settings(), Storage(session=boto3.Session(botocore_session=AWS_SESSION))
    async with open_run(settings, errand.run_id, max_spend_usd=errand.max_spend_usd, storage=storage) as run_process:
        if errand.work == "reconcile":
            return await reconcile(run_process), None
        items = await find_items(list(errand.images), run_process.storage, run_process.settings)
        return await generate(run_process, items, errand.asked, Steps(), partial=errand.partial)
