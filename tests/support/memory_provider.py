"""The provider and images in memory, for a `memory_run`: `MemoryProvider`, `put_order` and `STEPS`."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal

from i2v.apixo.models import SubmitBody, TaskStatus
from i2v.errors import ProviderError
from i2v.ledger import keys, transitions
from i2v.ledger.attempt import Attempt, Reason, StoredVideo
from i2v.ledger.job import JobImage, JobRecord
from i2v.ledger.ledger import Ledger, VersionedRecord
from i2v.media.images import ImageFacts
from i2v.net.limiter import AdaptiveLimiter
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps
from i2v.pipeline.video_order import Order
from i2v.request import Request
from i2v.s3_uri import S3Uri
from tests.support.memory_storage import MemoryBucket

PRICE = Decimal("0.192")
REQUEST = Request(prompt="a slow zoom")
LOST = Reason(code="lost", message="the answer was lost")
SUCCESS, RUNNING = "success", "processing"


def make_image(number: int = 0) -> JobImage:
    """Return an image; other numbers have other content."""
    facts = ImageFacts(sha256=f"{number:064x}", size=100, format="JPEG", width=640, height=480)
    at = S3Uri("b-1", f"images/{number}.jpg")
    return JobImage(label=str(at), name=f"{number}.jpg", at=at, etag=f"e{number}", facts=facts)


IMAGE = make_image()
ORDER = Order(IMAGE, REQUEST, PRICE)


def put_order(bucket: MemoryBucket, number: int = 0) -> Order:
    """Put an image and return its order, as if it had just been validated."""
    image = make_image(number)
    etag = bucket.put(image.at, b"%d" % number, "image/jpeg", {}, "")
    return Order(image.model_copy(update={"etag": etag}), REQUEST, PRICE)


class MemoryProvider:
    """The provider's client. `tasks` has each task's state: processing, success or a fail code.

    Args:
        width: how many requests at once.
        answers: what the first submits raise; each later one creates a running task.
        on_submit: awaited at each submit, before it is answered.
    """

    def __init__(
        self,
        *answers: ProviderError,
        width: int = 8,
        on_submit: Callable[[], Awaitable[None]] | None = None,
        tasks: dict[str, str] | None = None,
    ) -> None:
        self.limiter = AdaptiveLimiter(width)
        self.tasks: dict[str, str] = dict(tasks or {})
        self.submits: list[SubmitBody] = []
        self.asked: list[str] = []
        self.usd = Decimal(1000)
        self._answers = deque(answers)
        self._on_submit = on_submit

    async def balance(self) -> Decimal:
        """Return the balance."""
        return self.usd

    async def submit(
        self,
        body: SubmitBody,
        *,
        timeout: float,  # noqa: ASYNC109 - the client's own name
        before_send: Callable[[], None] | None = None,
    ) -> str:
        """Answer as scripted, else with a new task."""
        del timeout
        if before_send:
            before_send()
        self.submits.append(body)
        if self._on_submit:
            await self._on_submit()
        if self._answers:
            raise self._answers.popleft()
        task_id = f"task-{len(self.submits)}"
        self.tasks.setdefault(task_id, RUNNING)
        return task_id

    async def status(self, task_id: str) -> TaskStatus:
        """Return a task's state, as of now."""
        self.asked.append(task_id)
        state = self.tasks[task_id]
        now = round(datetime.now(UTC).timestamp() * 1000)
        values = {"taskId": task_id, "state": state, "createTime": now}
        if state == SUCCESS:
            values["resultJson"] = '{"resultUrls": ["https://files.example/video.mp4"]}'
        elif state != RUNNING:
            values |= {"state": "failed", "failCode": state}
        return TaskStatus.model_validate(values)


async def store_without_bytes(run: RunContext, job: VersionedRecord, status: TaskStatus) -> VersionedRecord:
    """Do to bucket and ledger what the store step does, without a video."""
    image, digest = job.record.image, job.record.request.digest12
    mp4, jpg, text = (
        keys.output_uri(run.settings, image.name, image.etag, digest, ending) for ending in (".mp4", ".jpg", ".json")
    )
    video = StoredVideo(uri=mp4, poster=jpg, manifest=text, sha256="0" * 64, size=1, width=1344, height=768, seconds=6)
    for uri in (mp4, jpg, text):
        await run.storage.put(uri, status.task_id.encode())
    now = datetime.now(UTC)
    stored = await run.ledger.change(job, lambda record: transitions.store(record, status.task_id, video, now))
    assert stored
    await run.ended_markers.add(stored.record, stored.record.attempt_for_task(status.task_id))
    return stored


STEPS = Steps(store=store_without_bytes)


async def claim_by_hand(
    ledger: Ledger, order: Order, claim: str = "t", run_id: str = "dead", task_id: str | None = None
) -> VersionedRecord:
    """Claim an order's next attempt as a run does, with its marker, and record its task if there is one."""
    job = await ledger.read_or_new(order.key, order.image, order.request)
    now = datetime.now(UTC)
    attempt = Attempt(
        number=job.record.next_number,
        claim=claim,
        run_id=run_id,
        claimed_at=now,
        price_usd=order.price_usd,
        day=now.date().isoformat(),
        delivery=order.delivery,
    )

    def edit(record: JobRecord) -> JobRecord | None:
        claimed = transitions.claim(record, order.image, attempt)
        return transitions.record_task(claimed, claim, task_id, now) if claimed and task_id else claimed

    await ledger.put_open_marker(order.image, order.key, attempt.number)
    changed = await ledger.change(job, edit)
    assert changed
    return changed


async def lose(ledger: Ledger, job: VersionedRecord, claim: str = "t") -> VersionedRecord:
    """Record that the answer of a claim was lost."""
    changed = await ledger.change(job, lambda record: transitions.mark_lost(record, claim, LOST, datetime.now(UTC)))
    assert changed
    return changed
