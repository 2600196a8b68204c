"""What a flow run left behind: its final state, its report and its events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import Artifact, State, TaskRun
from prefect.client.schemas.sorting import ArtifactSort

from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.server import NO_TLS, TIMEOUT_SECONDS


@dataclass(frozen=True)
class FinishedFlowRun:
    """The final state of a flow run, and its result."""

    state: State[Any]
    result: Any
    """The report as `i2v run --json` prints it, or the error that ended the run."""

    @property
    def run_id(self) -> UUID:
        """The flow run's id."""
        return UUID(str(self.state.state_details.flow_run_id))

    @property
    def message(self) -> str:
        """The final state's message."""
        return str(self.state.message)

    @property
    def report(self) -> dict[str, Any]:
        """The report, also of a run that ended Failed with one."""
        report: dict[str, Any] = getattr(self.result, "report", self.result)
        return report

    @property
    def outcomes(self) -> dict[str, str]:
        """Each image's outcome, by its address."""
        return {item["image"]: item["outcome"] for item in self.report["items"]}


RunFlow = Callable[..., Awaitable[FinishedFlowRun]]
"""Type of the `run_flow` fixture of `tests/pipeline`."""


async def wait_for_i2v_events(server: PrefectServer, sandbox: Sandbox, expected: int) -> list[dict[str, Any]]:
    """Return the events of this sandbox's ledger once there are `expected` of them; give up after a minute."""
    ledger = f"i2v.ledger.{sandbox.bucket}"
    query = {"any_resource": {"id": [ledger]}, "event": {"prefix": ["i2v."]}, "order": "ASC"}
    async with httpx.AsyncClient(trust_env=False, verify=NO_TLS, timeout=TIMEOUT_SECONDS) as client:
        for _ in range(600):
            answer = await client.post(f"{server.api_url}/events/filter", json={"filter": query, "limit": 50})
            events: list[dict[str, Any]] = answer.json()["events"]
            if len(events) >= expected:
                break
            await asyncio.sleep(0.1)
    return events


async def final_task_runs(finished: FinishedFlowRun, count: int) -> list[TaskRun]:
    """Return the task runs that have ended, once the server knows `count` of them."""
    only = FlowRunFilter(id=FlowRunFilterId(any_=[finished.run_id]))
    async with get_client() as client:
        for _ in range(300):
            runs = await client.read_task_runs(flow_run_filter=only)
            final = [run for run in runs if " " in run.name and run.state and run.state.is_final()]
            if len(final) >= count:
                return final
            await asyncio.sleep(0.1)
    raise TimeoutError(f"{len(final)} of {count} task runs have ended")


async def artifacts_with_key(key: str) -> list[Artifact]:
    """Return the artifacts with this key, newest first."""
    only = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    async with get_client() as client:
        return await client.read_artifacts(artifact_filter=only, sort=ArtifactSort.CREATED_DESC)
