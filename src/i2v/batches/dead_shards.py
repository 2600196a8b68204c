"""The images of a shard whose run left no report, because it crashed or was killed: what the ledger says of each.

An image that the run paid for has an open marker; once that is deleted, the manifest of its video names the job. The
page of the run's recent results names what else has ended.
"""

import asyncio
from collections.abc import Sequence
from itertools import chain

from pydantic import BaseModel

from i2v.errors import LedgerError
from i2v.inputs.sources import InputItem, find_items
from i2v.ledger import keys
from i2v.ledger.documents import read_if_valid
from i2v.ledger.job import JobRecord
from i2v.ledger.ledger import Ledger
from i2v.ledger.run_record import RunRecord
from i2v.money import ZERO, sum_charges
from i2v.pipeline.outcomes import OUTCOMES
from i2v.reports.recent import RecentPage
from i2v.reports.run_report import ItemReport, Outcome, Report
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

NOT_REPORTED = "Its shard has no report: {why}. Run the batch again"


class _Manifest(BaseModel):
    job: str


async def report_dead_shard(
    rows: S3Uri, shard: str, record: RunRecord | None, why: str, storage: Storage, settings: Settings
) -> Report:
    """Return the report of a shard whose run `record` has none; `why` says how the run ended."""
    items = await find_items(str(rows), storage, settings)
    jobs = await _jobs_by_image(items, shard, record, Ledger(storage, settings))
    return Report(items=tuple(_line(item, jobs.get(item.ref.label), shard, why) for item in items))


async def _jobs_by_image(
    items: Sequence[InputItem], shard: str, record: RunRecord | None, ledger: Ledger
) -> dict[str, JobRecord]:
    """Return the jobs that the run has paid for or settled, by image."""
    if record is None:  # it is written before anything is paid
        return {}
    names = {keys.image_name(item.ref, ledger.settings) for item in items}
    page = await read_if_valid(
        ledger.storage, RecentPage, keys.recent_page_uri(ledger.settings, record.started_at, shard)
    )
    recent = {item.job: item.image for item in page.items if item.job} if page else {}
    published = await asyncio.gather(*(_published_jobs(name, ledger) for name in names))
    found = {*recent, *chain(*published), *await _open_jobs(names, ledger)}
    read = await asyncio.gather(*(_read(ledger, key) for key in found))
    jobs = [job for job in read if job and (job.key in recent or any(one.run_id == shard for one in job.attempts))]
    return {recent.get(job.key, job.image.label): job for job in jobs}


async def _open_jobs(names: set[str], ledger: Ledger) -> set[str]:
    prefix, digests = ledger.settings.jobs / "open/", {keys.digest12(name) for name in names}
    listed = [keys.OpenMarker.parse(one.uri.key.removeprefix(prefix.key)) async for one in ledger.storage.list(prefix)]
    return {marker.key for marker in listed if marker and marker.version[:12] in digests}


async def _published_jobs(name: str, ledger: Ledger) -> list[str]:
    """Return the jobs of an image's videos."""
    folder = ledger.settings.videos / f"{name}/"
    listed = [entry.uri async for entry in ledger.storage.list(folder, recursive=False)]
    videos = [uri for uri in listed if keys.video_ending(uri)]
    found = [await read_if_valid(ledger.storage, _Manifest, keys.sibling_uri(uri, ".json")) for uri in videos]
    return [manifest.job for manifest in found if manifest]


async def _read(ledger: Ledger, key: str) -> JobRecord | None:
    try:
        found = await ledger.read(key)
    except LedgerError:
        return None
    return found.record if found else None


def _line(item: InputItem, job: JobRecord | None, shard: str, why: str) -> ItemReport:
    if job is None:
        reason = NOT_REPORTED.format(why=why)
        extra = dict(item.options.extra)
        return ItemReport(image=item.ref.label, outcome=Outcome.NOT_TRIED, reason=reason, extra=extra)
    own = [attempt for attempt in job.attempts if attempt.run_id == shard]
    charges = sum_charges(attempt.charges for attempt in own)
    return ItemReport(
        image=item.ref.label,
        outcome=OUTCOMES[job.state],
        job=job.key,
        task_id=job.task_id,
        video=str(job.video.uri) if job.video else None,
        cost_usd=charges.charged,
        possibly_charged_usd=charges.possibly,
        at_risk_usd=sum((attempt.at_risk_usd for attempt in own), ZERO),
        reason=job.reason.message if job.reason else None,
        request=job.request,
        extra=dict(item.options.extra) or job.extra,
        state=job.state,
    )
