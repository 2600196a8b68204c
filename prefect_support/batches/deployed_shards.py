"""The runs of a batch's shards in Prefect: `DeployedShards` starts, reads and cancels them by Prefect's API.

The idempotency key is shard and attempt, so a batch that starts again finds its shards' runs. Many runs are read in one
request.
"""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from i2v.batches.plan import BatchPlan
from i2v.batches.shard_runs import MAX_ATTEMPTS, ShardRun, ShardState
from i2v.cli.prefect.server_errors import describe_server_error, shown_api_url
from i2v.cli.prefect.ui_links import flow_run_url
from i2v.errors import I2vError, UsageError
from i2v.settings import Settings

log = logging.getLogger(__name__)
DEPLOYMENT = "generate/generate"
QUEUE = "batch"
"""A queue of their own, so that the shards of a large batch delay no other run."""
READ_AT_ONCE = 200
"""Prefect's limit for one answer."""
CANCEL_AT_ONCE = 16
REQUEST_SECONDS = 30.0
STATES = {
    StateType.COMPLETED: ShardState.ENDED,
    StateType.FAILED: ShardState.ENDED,
    StateType.CANCELLED: ShardState.CANCELLED,
    StateType.CRASHED: ShardState.CRASHED,
    StateType.CANCELLING: ShardState.CANCELLING,
    StateType.SCHEDULED: ShardState.WAITING,
    StateType.PENDING: ShardState.WAITING,
}
REJECTED = {HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT} | {
    HTTPStatus.UNPROCESSABLE_ENTITY
}
"""Answers that repeating does not change."""
T = TypeVar("T")


class PrefectUnavailable(I2vError):
    """Prefect does not respond. What was requested may have happened; request it again."""

    retryable = True


@dataclass(frozen=True, slots=True)
class DeployedShards:
    """The runs of the shards of `plan`; `parameters` are those of `generate` that all of them have."""

    client: PrefectClient
    plan: BatchPlan
    settings: Settings
    parameters: dict[str, Any]
    tags: Sequence[str]
    name: str
    """What the batch is about."""
    deployment: UUID

    async def find(self, numbers: Sequence[int]) -> list[ShardRun]:
        """Return the newest existing run of each of these shards."""
        shards = {self._key(number, attempt): (number, attempt) for number in numbers for attempt in ATTEMPTS}
        newest: dict[int, ShardRun] = {}
        for keys in _chunks(list(shards)):
            found = await self._read(FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=keys)))
            for run in found:
                number, attempt = shards[run.idempotency_key or ""]
                if number not in newest or newest[number].attempt < attempt:
                    newest[number] = _shard_run(number, attempt, run)
        return [await self._cancelled_rather_than_crashed(run) for run in newest.values()]

    async def start(self, number: int, attempt: int) -> ShardRun:
        """Start a run, or return the one that this attempt has already started."""
        shard = self.plan.shard(number)
        uri = self.plan.rows_uri(self.settings, number)
        creating = self.client.create_flow_run_from_deployment(
            self.deployment,
            parameters={**self.parameters, "images": [str(uri)], "shard": shard},
            idempotency_key=self._key(number, attempt),
            name=f"shard {number} of {self.plan.shards} · {self.name}",
            tags=[*self.tags, "batch", f"batch-{self.plan.run_id[:8]}"],
            work_queue_name=QUEUE,
        )
        try:
            return _shard_run(number, attempt, await _call(creating))
        except ObjectNotFound:
            raise _no_deployment() from None

    async def read(self, runs: Sequence[ShardRun]) -> list[ShardRun]:
        """Return the runs as they are now; a run that was deleted is cancelled."""
        found: dict[str, FlowRun] = {}
        for ids in _chunks([run.id for run in runs]):
            read = await self._read(FlowRunFilter(id=FlowRunFilterId(any_=[UUID(each) for each in ids])))
            found |= {str(run.id): run for run in read}
        now = [_shard_run(run.number, run.attempt, found[run.id]) if run.id in found else _deleted(run) for run in runs]
        return [await self._cancelled_rather_than_crashed(run) for run in now]

    async def _cancelled_rather_than_crashed(self, run: ShardRun) -> ShardRun:
        """Return a run as cancelled if it was being cancelled when Prefect marked it as crashed."""
        if run.state is not ShardState.CRASHED:
            return run
        states = await _call(self.client.read_flow_run_states(UUID(run.id)))
        was_cancelled = any(state.type is StateType.CANCELLING for state in states)
        return replace(run, state=ShardState.CANCELLED) if was_cancelled else run

    async def cancel(self, runs: Sequence[ShardRun]) -> None:
        """Cancel runs; log those that Prefect does not cancel."""
        limit = asyncio.Semaphore(CANCEL_AT_ONCE)

        async def cancel(run: ShardRun) -> None:
            state: State[Any] = Cancelling(message="The batch was cancelled")
            try:
                async with limit:
                    await _call(self.client.set_flow_run_state(run.id, state))
            except (I2vError, ObjectNotFound) as error:
                log.warning("shard %d was not cancelled: %s", run.number, error)

        await asyncio.gather(*map(cancel, runs))

    def _key(self, number: int, attempt: int) -> str:
        return f"{self.plan.shard(number)}:{attempt}"

    async def _read(self, wanted: FlowRunFilter) -> list[FlowRun]:
        return await _call(self.client.read_flow_runs(flow_run_filter=wanted, limit=READ_AT_ONCE))


ATTEMPTS = range(1, MAX_ATTEMPTS + 1)


async def find_deployment(client: PrefectClient) -> UUID:
    """Return the deployment of the shards' runs. Raise `UsageError` if it does not exist."""
    try:
        return (await _call(client.read_deployment_by_name(DEPLOYMENT))).id
    except ObjectNotFound:
        raise _no_deployment() from None


def _no_deployment() -> UsageError:
    message = f"The deployment {DEPLOYMENT}, which runs the shards, does not exist at {shown_api_url()}"
    return UsageError(message, "Create it: make deploy")


def _chunks(values: list[str]) -> list[list[str]]:
    return [values[first : first + READ_AT_ONCE] for first in range(0, len(values), READ_AT_ONCE)]


def _shard_run(number: int, attempt: int, run: FlowRun) -> ShardRun:
    state = run.state
    return ShardRun(
        number=number,
        attempt=attempt,
        id=str(run.id),
        state=STATES.get(state.type, ShardState.RUNNING) if state else ShardState.WAITING,
        state_name=(state.name if state else None) or "Scheduled",
        message=(state.message if state else None) or "",
        url=flow_run_url(run.id),
    )


def _deleted(run: ShardRun) -> ShardRun:
    return ShardRun(run.number, run.attempt, run.id, ShardState.CANCELLED, "Deleted", "the flow run was deleted")


async def _call(call: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            return await call
    except (httpx.HTTPError, TimeoutError, OSError) as error:
        status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
        kind = I2vError if status in REJECTED else PrefectUnavailable
        raise kind(*describe_server_error(error)) from error
