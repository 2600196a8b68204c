"""`POST /apixo/{job}/{attempt}/{signature}`: the provider reports that a task has ended; a run of `collect` checks it.

A callback is a hint, never a proof. The signature is verified before the body is read. A forged or malformed callback
is counted and gets a bare status. 200 means that Prefect has a flow run for it, or that it needs none.
"""

import asyncio
import hashlib
import logging
from datetime import UTC, datetime
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Self

from cachetools import TTLCache
from prometheus_client import CollectorRegistry, Counter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from doors.batcher import Batcher, BatcherClosed
from doors.http.request_body import RequestError, read_body
from i2v.apixo.callbacks import BODY_LIMIT_BYTES, PATH, callback_task_id, verify
from i2v.errors import I2vError
from i2v.inputs.run_names import with_time
from i2v.ledger import transitions
from i2v.ledger.job import JobRecord
from i2v.ledger.ledger import Ledger
from i2v.ledger.task_pages import claim_task
from i2v.recovery.adopt_from_callback import CallbackHint
from i2v.s3.storage import Storage
from i2v.settings import Settings

if TYPE_CHECKING:
    from doors.flow_run_starter import FlowRunStarter  # imports Prefect, which this module does not need

log = logging.getLogger(__name__)
COLLECT = "reconcile/collect"
TAGS = ("callback",)
BATCH_SECONDS = 0.4
"""The provider expects an answer within a second. Each run of `collect` is a process, so larger batches are cheaper."""
RUN_TIMEOUT_SECONDS = 10.0
"""The provider waits 30 s and retries three times."""
MAX_CONCURRENT_READS = 16
MAX_REMEMBERED, REMEMBERED_SECONDS = 10_000, 600.0
PATH_PARTS = 3
"""Job, attempt, signature."""


class CallbackOutcome(StrEnum):
    """What happened to a callback: the metric's label, and the HTTP status of the response, which has no body."""

    status: HTTPStatus

    def __new__(cls, label: str, status: HTTPStatus) -> Self:
        """Store the status beside the label."""
        member = str.__new__(cls, label)
        member._value_, member.status = label, status
        return member

    TAKEN = "taken", HTTPStatus.OK
    REPEATED = "repeated", HTTPStatus.OK
    OFF = "off", HTTPStatus.NOT_FOUND
    WRONG_METHOD = "wrong_method", HTTPStatus.METHOD_NOT_ALLOWED
    WRONG_SIGNATURE = "wrong_signature", HTTPStatus.NOT_FOUND
    TOO_LARGE = "too_large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    TOO_SLOW = "too_slow", HTTPStatus.REQUEST_TIMEOUT
    NOT_JSON = "not_json", HTTPStatus.BAD_REQUEST
    UNKNOWN_JOB = "unknown_job", HTTPStatus.NOT_FOUND
    LATER = "later", HTTPStatus.SERVICE_UNAVAILABLE


class Callbacks:
    """The callback route and its batcher; `batcher.run()` must be running.

    It is an ASGI application because Starlette passes every HTTP method to those, so wrong methods are counted too.
    """

    def __init__(
        self, settings: Settings, storage: Storage, starter: "FlowRunStarter", registry: CollectorRegistry
    ) -> None:
        self._settings = settings
        self._ledger = Ledger(storage, settings)
        self._reads = asyncio.Semaphore(MAX_CONCURRENT_READS)
        self._started: TTLCache[str, bool] = TTLCache(MAX_REMEMBERED, REMEMBERED_SECONDS)
        self._counter = Counter("i2v_door_callbacks", "Callbacks by outcome", ["outcome"], registry=registry)
        for outcome in CallbackOutcome:
            self._counter.labels(outcome.value)
        self.batcher: Batcher[str] = Batcher(self._start_run, identity=str, max_wait_seconds=BATCH_SECONDS)
        self._starter = starter

    @property
    def is_on(self) -> bool:
        """Whether callbacks are configured."""
        return bool(self._settings.callback_base_url and self._settings.callback_secrets)

    @property
    def route(self) -> Route:
        """The route. It matches everything below its path, so malformed addresses are counted too."""
        return Route(PATH + "/{address:path}", self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one callback, count its outcome and respond with a bare status."""
        request = Request(scope, receive, send)
        address = request.path_params["address"].split("/")
        outcome = self._check_address(request.method, address) or await self._handle(request, *address)
        self._counter.labels(outcome.value).inc()
        await Response(status_code=outcome.status)(scope, receive, send)

    def _check_address(self, method: str, address: list[str]) -> CallbackOutcome | None:
        if not self.is_on:
            return CallbackOutcome.OFF
        if method != "POST":
            return CallbackOutcome.WRONG_METHOD
        is_signed = len(address) == PATH_PARTS and verify(self._settings, *address)
        return None if is_signed else CallbackOutcome.WRONG_SIGNATURE

    async def _handle(self, request: Request, job: str, attempt: str, _signature: str) -> CallbackOutcome:
        try:
            body = await read_body(request, BODY_LIMIT_BYTES)
        except RequestError as error:
            is_slow = error.status_code == HTTPStatus.REQUEST_TIMEOUT
            return CallbackOutcome.TOO_SLOW if is_slow else CallbackOutcome.TOO_LARGE
        task_id = callback_task_id(body)
        if task_id is None:
            return CallbackOutcome.NOT_JSON
        try:
            async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
                return await self._submit(CallbackHint(job, int(attempt), task_id))
        except (TimeoutError, BatcherClosed):
            return CallbackOutcome.LATER

    async def _submit(self, hint: CallbackHint) -> CallbackOutcome:
        """Look the job up, and wait until Prefect has a flow run if the job needs one."""
        try:
            async with self._reads:
                stored = await self._ledger.read(hint.key)
        except I2vError as error:
            log.warning("Cannot read the job of a callback; the provider will retry: %s", error)
            return CallbackOutcome.LATER
        if stored is None:
            await self._park(hint)
        if stored is None or stored.record.attempt_numbered(hint.attempt) is None:
            return CallbackOutcome.UNKNOWN_JOB
        if not _needs_run(stored.record, hint) or str(hint) in self._started:
            return CallbackOutcome.REPEATED
        if self.batcher.is_full:
            return CallbackOutcome.LATER
        await self.batcher.add([str(hint)])
        return CallbackOutcome.TAKEN

    async def _park(self, hint: CallbackHint) -> None:
        """Save the task id of a job whose record was deleted; the signed URL proves that it was submitted."""
        log.error("A callback names task %s of job %s, whose record is missing: restore it", hint.task_id, hint.key)
        try:
            await claim_task(self._ledger.storage, self._ledger.settings, hint.task_id, hint.key, hint.attempt)
        except I2vError as error:
            log.warning("Cannot keep the task: %s", error)

    async def _start_run(self, hints: list[str]) -> None:
        key = hashlib.sha256("\n".join(sorted(hints)).encode()).hexdigest()
        jobs = "1 job" if len(hints) == 1 else f"{len(hints)} jobs"
        name = with_time(f"{jobs} by callback", datetime.now(UTC))
        run = await self._starter.start({"jobs": hints}, key=key, name=lambda _: name, tags=TAGS)
        self._started.update(dict.fromkeys(hints, True))
        log.info("Started flow run %s (%s) for %d callbacks", run.name, run.id, len(hints))


def _needs_run(record: JobRecord, hint: CallbackHint) -> bool:
    """Return whether the job waits for this callback.

    Also `False` if the submit's response named another task: a valid address must not start runs for invented task ids.
    """
    attempt = record.attempt_for_task(hint.task_id)
    is_running = attempt is not None and attempt.is_running
    return is_running or transitions.awaiting_callback(record, hint.attempt) is not None
