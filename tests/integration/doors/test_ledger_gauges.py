"""The ledger's gauges at `/metrics`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from doors.ledger_gauges import LedgerGauges
from i2v.ledger import keys
from i2v.ledger.attempt import Attempt, AttemptEnd, EndKind
from i2v.ledger.day_spend import DaySpend, DaySpendStore, Entry
from i2v.ledger.job import JobImage, JobRecord, JobState
from i2v.media.images import ImageFacts
from i2v.request import Mode, Request
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

FACTS = ImageFacts(format="JPEG", width=640, height=480, size=1, sha256="0" * 64)


@pytest.fixture
def registry() -> CollectorRegistry:
    """The registry of the gauges."""
    return CollectorRegistry()


async def _write(storage: Storage, settings: Settings, key: str, state: JobState) -> None:
    at = S3Uri(settings.images.bucket, "images/a.jpg")
    image = JobImage(label=str(at), name="a.jpg", at=at, etag="e", facts=FACTS)
    request = Request(mode=Mode.STANDARD, duration=6, prompt="it moves")
    now = datetime.now(UTC)
    lost = AttemptEnd(kind=EndKind.LOST, at=now, revision=2) if state is JobState.UNKNOWN else None
    task_id = None if lost else "task"
    attempt = Attempt(
        number=1, claim="t", run_id="r", claimed_at=now, price_usd=Decimal("0.192"), task_id=task_id, end=lost
    )
    record = JobRecord(key=key, image=image, request=request, created_at=now, updated_at=now, attempts=(attempt,))
    assert record.state is state
    await storage.put(keys.job_uri(settings, key), record.model_dump_json().encode())
    await storage.put(keys.open_marker_uri(settings, image, key, 1), b"")


async def _scrape(gauges: LedgerGauges, registry: CollectorRegistry, seconds: float = 10) -> str:
    """Return the scrape once the ledger is read, or after this time."""
    gauges.refresh()
    for _ in range(int(seconds * 20)):
        await asyncio.sleep(0.05)
        if "_age_seconds +Inf" not in (text := generate_latest(registry).decode()):
            break
    return text


async def test_gauges_show_the_ledger(aws: None, settings: Settings, registry: CollectorRegistry) -> None:
    """The gauges show open jobs, unknown jobs, today's spend and the limits from the ledger."""
    with Storage() as storage:
        await _write(storage, settings, "a" * 64, JobState.SUBMITTED)
        await _write(storage, settings, "b" * 64, JobState.SUBMITTED)
        await _write(storage, settings, "c" * 64, JobState.UNKNOWN)
        day = datetime.now(UTC).date().isoformat()
        spend = DaySpend(day=day, entries={"run:1": Entry(run_id="run", paid_usd=Decimal("0.5"))})
        await DaySpendStore(storage, settings).write(spend, "")
        limited = settings.model_copy(update={"daily_cap_usd": Decimal(2)})
        text = await _scrape(LedgerGauges(storage, limited, registry), registry)

    assert "i2v_jobs_open 3.0" in text
    assert "i2v_jobs_unknown 1.0" in text
    assert "i2v_spent_today_usd 0.5" in text
    assert 'i2v_limit_usd{label="*",period="day"} 2.0' in text
    assert 'i2v_limit_spent_usd{label="*",period="day"} 0.5' in text
    assert "+Inf" not in text.partition("i2v_ledger_age_seconds")[2]


async def test_a_scrape_succeeds_without_the_ledger(aws: None, settings: Settings, registry: CollectorRegistry) -> None:
    """If the ledger cannot be read, the scrape succeeds and the age shows it."""
    nowhere = settings.model_copy(update={"jobs_prefix": "s3://no-such-bucket/jobs/"})
    with Storage() as storage:
        assert "i2v_ledger_age_seconds +Inf" in await _scrape(LedgerGauges(storage, nowhere, registry), registry, 0.5)
