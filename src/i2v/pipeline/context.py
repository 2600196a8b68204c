"""What a step needs of its run: `RunContext`. `i2v.pipeline.run` opens and closes it.

Add a resource that steps share. Keep out logic: what a step does is in its own module.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from i2v.apixo.client import ApixoClient
from i2v.ledger.budget import Budget
from i2v.ledger.ledger import Ledger
from i2v.ledger.open_markers import OpenMarkerCleaner
from i2v.media.decoder import Decoder
from i2v.money import ZERO, Charges
from i2v.net.fetcher import Fetcher
from i2v.pipeline.events import Event, EventListener, ImagesCounted, RunOpened
from i2v.pipeline.heartbeat import Heartbeat
from i2v.pipeline.payment.address_probe import AddressProbe
from i2v.pipeline.payment.first_submits import FirstSubmits
from i2v.pipeline.payment.shard_budget import ShardBudget
from i2v.pipeline.submit_brake import Brake
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

if TYPE_CHECKING:
    from i2v.pipeline.validate import ValidationResult

log = logging.getLogger(__name__)
PREPARERS = 16
"""Images that are resolved and validated at once. Prefect's event queue holds 10,000 events; more would be dropped."""
READERS = 8
"""Images that are read and decoded at once: each takes up to 20 MB and its pixels."""
STORERS = 16
"""Videos that are stored at once: more take more memory and are not faster."""
T = TypeVar("T")


class ShieldedWork:
    """Work near money that a cancellation must not interrupt."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await the work; if the caller is cancelled, it continues, and `finish` waits for it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.debug("shielded work ended with %r", error)

    async def finish(self) -> None:
        """Wait until all of it is done, even if cancelled meanwhile."""
        cancelled: asyncio.CancelledError | None = None
        while self._tasks:
            try:
                await asyncio.wait(set(self._tasks))  # unlike gather, it does not cancel what it waits for
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled:
            raise cancelled


class Limits:
    """How much of a run is under way at once."""

    def __init__(self, in_flight: int) -> None:
        self.in_flight = asyncio.Semaphore(in_flight)
        self.preparing = asyncio.Semaphore(PREPARERS)
        self.reading = asyncio.Semaphore(READERS)
        self.storing = asyncio.Semaphore(STORERS)


@dataclass(slots=True)
class RunContext:
    """One run: its resources, its brake, and who listens to it."""

    settings: Settings
    storage: Storage
    ledger: Ledger
    budget: Budget | ShardBudget
    fetcher: Fetcher
    heartbeat: Heartbeat
    ended_markers: OpenMarkerCleaner
    api: ApixoClient | None
    decoder: Decoder
    dry_run: bool
    max_spend_usd: Decimal | None = None
    """The limit that the caller named."""
    brake: Brake = field(default_factory=Brake)
    first_submits: FirstSubmits = field(init=False)
    address_probe: AddressProbe = field(init=False)
    shielded: ShieldedWork = field(default_factory=ShieldedWork)
    validated_ahead: "dict[tuple[S3Uri, str], ValidationResult]" = field(default_factory=dict)
    """What the command validated while the Prefect server started, by object and etag."""
    limits: Limits = field(init=False)
    _listeners: list[EventListener] = field(default_factory=list)
    _reported: dict[str, tuple[Charges, Decimal]] = field(default_factory=dict)
    _job_locks: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    def __post_init__(self) -> None:
        """Make what follows from the settings and the other resources."""
        self.limits = Limits(self.settings.max_in_flight)
        self.first_submits = FirstSubmits(self.ledger, self.brake, self.settings.first_submits)
        self.address_probe = AddressProbe(self.fetcher, self.brake)

    @property
    def run_id(self) -> str:
        """The flow run's id, which is also the ledger's name of this run."""
        return self.heartbeat.record.run_id

    @property
    def label(self) -> str | None:
        """The purpose that the caller named."""
        return self.heartbeat.record.label

    @property
    def is_shard(self) -> bool:
        """Whether the run is a shard of a batch, which reports for all of them."""
        return self.heartbeat.record.batch not in {None, self.run_id}

    @property
    def started_at(self) -> datetime:
        """When the first try of this run started."""
        return self.heartbeat.record.started_at

    @property
    def client(self) -> ApixoClient:
        """The provider's API. Raise `UsageError` if there is no key, as a dry run may lack one."""
        self.settings.require_key()
        assert self.api is not None  # noqa: S101 - open_run makes one wherever there is a key
        return self.api

    def emit(self, event: Event) -> None:
        """Pass an event to all listeners."""
        for listener in self._listeners:
            listener.on_event(event)

    def add_listener(self, listener: EventListener) -> None:
        """Pass all events from now on to this listener too."""
        self._listeners.append(listener)
        listener.on_event(RunOpened(self))

    def set_image_count(self, count: int) -> None:
        """Announce how many images the run has."""
        self.emit(ImagesCounted(count))

    def not_yet_reported(self, job_key: str, charges: Charges, at_risk_usd: Decimal) -> tuple[Charges, Decimal]:
        """Return what a job has cost beyond what the report has; equal images share a job that is paid once."""
        reported, at_risk = self._reported.get(job_key, (Charges(), ZERO))
        self._reported[job_key] = charges, at_risk_usd
        return charges - reported, at_risk_usd - at_risk

    def job_lock(self, job_key: str) -> asyncio.Lock:
        """Return the lock that lets one image at a time work on a job, so that equal images pay and store once."""
        return self._job_locks[job_key]
