"""`POST /apixo/{job}/{attempt}/{signature}`: the provider says that a task has ended, and a run of `collect` asks it.

A callback is a hint. What is forged or malformed is answered in a bare status, counted, and does nothing: the signature
is looked at before anything is read. Answered 200 is only what Prefect has a run for, or what needs none any more.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from enum import StrEnum
from http import HTTPStatus

from prometheus_client import CollectorRegistry, Counter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from doors.batcher import Batcher, BatcherClosed
from doors.flow_run_starter import FlowRunStarter
from i2v.apixo.callbacks import BODY_LIMIT_BYTES, PATH, hint_of, verify
from i2v.errors import I2vError
from i2v.ledger import transitions
from i2v.ledger.job import JobRecord, JobState
from i2v.ledger.ledger import Ledger
from i2v.recovery.callbacks import CallbackHint
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
COLLECT = "reconcile/collect"
TAGS = ("callback",)
GATHER_SECONDS = 0.4
"""The vendor is to be answered within a second; each run of `collect` is a process, so the longer the better."""
PATIENCE_SECONDS = 10.0
"""The vendor waits 30 s, and comes again three times."""
BODY_SECONDS = 10.0
READ_AT_ONCE = 16
REMEMBERED, REMEMBERED_SECONDS = 10_000, 600.0
PARTS = 3
"""Of an address: job, attempt, signature."""


class CallbackOutcome(StrEnum):
    """What became of a callback; the metric's label."""

    TAKEN = "taken"
    REPEATED = "repeated"
    OFF = "off"
    WRONG_METHOD = "wrong_method"
    WRONG_SIGNATURE = "wrong_signature"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    NOT_JSON = "not_json"
    UNKNOWN_JOB = "unknown_job"
    LATER = "later"

    @property
    def status(self) -> HTTPStatus:
        """How it is answered, without a word."""
        return {
            CallbackOutcome.TAKEN: HTTPStatus.OK,
            CallbackOutcome.REPEATED: HTTPStatus.OK,
            CallbackOutcome.WRONG_METHOD: HTTPStatus.METHOD_NOT_ALLOWED,
            CallbackOutcome.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            CallbackOutcome.TOO_SLOW: HTTPStatus.REQUEST_TIMEOUT,
            CallbackOutcome.NOT_JSON: HTTPStatus.BAD_REQUEST,
            CallbackOutcome.LATER: HTTPStatus.SERVICE_UNAVAILABLE,
        }.get(self, HTTPStatus.NOT_FOUND)


class Callbacks:
    """The route for callbacks, and what it gathers. `gatherer.run()` must be under way.

    It is an ASGI application, since only such a one gets every method: the wrong ones are counted too.
    """

    def __init__(
        self, settings: Settings, storage: Storage, deployment: FlowRunStarter, registry: CollectorRegistry
    ) -> None:
        self._settings = settings
        self._ledger = Ledger(storage, settings)
        self._reading = asyncio.Semaphore(READ_AT_ONCE)
        self._handed: OrderedDict[str, float] = OrderedDict()
        self._counter = Counter(
            "i2v_door_callbacks", "Callbacks, by what became of them", ["outcome"], registry=registry
        )
        for outcome in CallbackOutcome:
            self._counter.labels(outcome.value)
        self.gatherer: Batcher[str] = Batcher(self._create, identity=str, seconds=GATHER_SECONDS)
        self._deployment = deployment

    @property
    def is_on(self) -> bool:
        """Whether callbacks are set up at all."""
        return bool(self._settings.callback_base_url and self._settings.callback_secrets)

    @property
    def route(self) -> Route:
        """For all below its path, so that what is no address of ours is counted too."""
        return Route(PATH + "/{address:path}", self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge one callback, count it, and answer in a bare status."""
        request = Request(scope, receive, send)
        address = request.path_params["address"].split("/")
        outcome = self._refusal(request.method, address) or await self._judge(request, *address)
        self._counter.labels(outcome.value).inc()
        await Response(status_code=outcome.status)(scope, receive, send)

    def _refusal(self, method: str, address: list[str]) -> CallbackOutcome | None:
        """What is wrong with it before anything is read."""
        if not self.is_on:
            return CallbackOutcome.OFF
        if method != "POST":
            return CallbackOutcome.WRONG_METHOD
        is_ours = len(address) == PARTS and verify(self._settings, *address)
        return None if is_ours else CallbackOutcome.WRONG_SIGNATURE

    async def _judge(self, request: Request, job: str, attempt: str, _signature: str) -> CallbackOutcome:
        try:
            body = await _body(request)
        except (TimeoutError, ClientDisconnect):
            return CallbackOutcome.TOO_SLOW
        if body is None:
            return CallbackOutcome.TOO_LARGE
        hint = hint_of(body)
        if hint is None:
            return CallbackOutcome.NOT_JSON
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await self._take(CallbackHint(job, int(attempt), hint.task_id))
        except (TimeoutError, BatcherClosed):
            return CallbackOutcome.LATER

    async def _take(self, told: CallbackHint) -> CallbackOutcome:
        try:
            async with self._reading:
                held = await self._ledger.read(told.key)
        except I2vError as error:
            log.warning("a callback is to come again, for its job cannot be read: %s", error)
            return CallbackOutcome.LATER
        if held is None or not any(attempt.number == told.attempt for attempt in held.record.attempts):
            return CallbackOutcome.UNKNOWN_JOB
        entry = _entry(held.record, told)
        if entry is None or self._was_handed(entry):
            return CallbackOutcome.REPEATED
        if self.gatherer.is_full:
            return CallbackOutcome.LATER
        await self.gatherer.add([entry])
        return CallbackOutcome.TAKEN

    def _was_handed(self, entry: str) -> bool:
        return time.monotonic() - self._handed.get(entry, float("-inf")) < REMEMBERED_SECONDS

    async def _create(self, entries: list[str]) -> None:
        key = hashlib.sha256("\n".join(sorted(entries)).encode()).hexdigest()
        run = await self._deployment.start({"jobs": entries}, key=key, tags=TAGS)
        for entry in entries:
            self._handed[entry] = time.monotonic()
            self._handed.move_to_end(entry)
        while len(self._handed) > REMEMBERED:
            self._handed.popitem(last=False)
        log.info("%d callbacks -> run %s (%s)", len(entries), run.name, run.id)


def _entry(record: JobRecord, told: CallbackHint) -> str | None:
    """What `collect` is told; attempt and task are in it, so that no other callback counts as its repeat.

    None where nothing is left to do: also for another task than the one that the submit was answered with, so that
    whoever has a valid address starts no runs with made-up ones.
    """
    latest = record.attempt
    is_latest = latest is not None and latest.number == told.attempt and told.task_id in latest.task_ids
    is_awaited = record.state is JobState.SUBMITTED and is_latest
    return str(told) if is_awaited or transitions.awaiting_callback(record, told.attempt) else None


async def _body(request: Request) -> bytes | None:
    """The body, `None` where it is too large; what is over the limit is not read."""
    body = bytearray()
    async with asyncio.timeout(BODY_SECONDS):
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_LIMIT_BYTES:
                return None
    return bytes(body)
