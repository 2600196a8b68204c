"""Prometheus gauges of what Prefect knows: workers, the last reconcile, and runs that wait for a worker."""

from datetime import UTC, datetime

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType, WorkerStatus
from prefect.client.schemas.sorting import FlowRunSort
from prometheus_client import CollectorRegistry, Gauge

from doors.image_intake import ON_IMAGE
from doors.periodic_read import PeriodicRead

RECONCILE = "reconcile/reconcile"
ENDED = FlowRunFilterState(
    type=FlowRunFilterStateType(any_=[StateType.COMPLETED, StateType.FAILED]),
    name=FlowRunFilterStateName(not_any_=["Skipped"]),
)
LATE = FlowRunFilterState(name=FlowRunFilterStateName(any_=["Late"]))


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
        self._late = Gauge("i2v_late_run_seconds", "Lateness of the oldest run without a worker", registry=registry)
        for gauge in (self._workers, self._reconciled, self._late):
            gauge.set(float("nan"))

    async def _read_all(self) -> None:
        pool = (await self._client.read_deployment_by_name(self._images)).work_pool_name or ""
        workers = await self._client.read_workers_for_work_pool(pool) if pool else []
        self._workers.set(sum(worker.status is WorkerStatus.ONLINE for worker in workers))
        reconcile = DeploymentFilterId(any_=[(await self._client.read_deployment_by_name(self._reconcile)).id])
        ended = await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=ENDED),
            deployment_filter=DeploymentFilter(id=reconcile),
            sort=FlowRunSort.END_TIME_DESC,
            limit=1,
        )
        self._reconciled.set(max((run.end_time.timestamp() for run in ended if run.end_time), default=0))
        late = await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=LATE),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=1,
        )
        since = [run.expected_start_time for run in late if run.expected_start_time]
        self._late.set(max(((datetime.now(UTC) - time).total_seconds() for time in since), default=0))
