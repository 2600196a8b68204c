"""Prometheus gauges of what Prefect knows: workers, the last reconcile, and runs that wait for a worker."""

from datetime import UTC, datetime

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus
from prefect.client.schemas.sorting import FlowRunSort
from prometheus_client import CollectorRegistry, Gauge

from doors.image_intake import ON_IMAGE
from doors.periodic_read import PeriodicRead

RECONCILE = "reconcile"
"""The deployment; that of callbacks settles only their own jobs."""
DONE = FlowRunFilterStateType(any_=[StateType.COMPLETED, StateType.FAILED])
SKIPPED = FlowRunFilterStateName(not_any_=["Skipped"])
LATE = FlowRunFilterStateName(any_=["Late"])


class PrefectGauges(PeriodicRead):
    """The gauges, and the background read behind them."""

    def __init__(
        self, client: PrefectClient, registry: CollectorRegistry, *, images: str = ON_IMAGE, reconcile: str = RECONCILE
    ) -> None:
        super().__init__("prefect", self._read_all, registry)
        self._client = client
        self._images = images
        self._reconcile = reconcile
        self._workers = Gauge(
            "i2v_workers_online", "Online workers of the pool that runs new images", registry=registry
        )
        reconciled = "When the deployment reconcile last ended; 0 for never"
        self._reconciled = Gauge("i2v_reconcile_last_run_timestamp_seconds", reconciled, registry=registry)
        self._late = Gauge("i2v_late_run_seconds", "How late the oldest run is that no worker has", registry=registry)
        for gauge in (self._workers, self._reconciled, self._late):
            gauge.set(float("nan"))

    async def _read_all(self) -> None:
        pool = (await self._client.read_deployment_by_name(self._images)).work_pool_name
        workers = await self._client.read_workers_for_work_pool(pool) if pool else []
        self._workers.set(sum(worker.status is WorkerStatus.ONLINE for worker in workers))
        ended = await self._first(
            FlowRunFilterState(type=DONE, name=SKIPPED), FlowRunSort.END_TIME_DESC, self._reconcile
        )
        self._reconciled.set(ended.end_time.timestamp() if ended and ended.end_time else 0)
        late = await self._first(FlowRunFilterState(name=LATE), FlowRunSort.EXPECTED_START_TIME_ASC)
        since = late.expected_start_time if late else None
        self._late.set((datetime.now(UTC) - since).total_seconds() if since else 0)

    async def _first(self, state: FlowRunFilterState, sort: FlowRunSort, deployment: str = "") -> FlowRun | None:
        named = DeploymentFilter(name=DeploymentFilterName(any_=[deployment])) if deployment else None
        runs = await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=state), deployment_filter=named, sort=sort, limit=1
        )
        return runs[0] if runs else None
