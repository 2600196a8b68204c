"""What a flow run left behind: its final state, its report and its events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact, State
from prefect.client.schemas.sorting import ArtifactSort

from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer


@dataclass(frozen=True)
class FinishedFlowRun:
    """The final state of a flow run, and its result."""

    state: State[Any]
    result: Any
    """The report as `i2v run --json` prints it, or the error that ended the run."""

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
    """Return the events of this sandbox's ledger once there are `expected` of them; give up after 10 s."""
    ledger = f"i2v.ledger.{sandbox.bucket}"
    query = {"any_resource": {"id": [ledger]}, "event": {"prefix": ["i2v."]}, "order": "ASC"}
    async with httpx.AsyncClient(trust_env=False) as client:
        for _ in range(100):
            answer = await client.post(f"{server.api_url}/events/filter", json={"filter": query, "limit": 50})
            events: list[dict[str, Any]] = answer.json()["events"]
            if len(events) >= expected:
                break
            await asyncio.sleep(0.1)
    return events


async def artifacts_with_key(key: str) -> list[Artifact]:
    """Return the artifacts with this key, newest first."""
    only = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    async with get_client() as client:
        return await client.read_artifacts(artifact_filter=only, sort=ArtifactSort.CREATED_DESC)
