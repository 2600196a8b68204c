"""The status of the ledger: `read_status` finds what is open and what needs a person; `status_page` renders it.

The number of S3 requests is bounded, however large the ledger is: two listings, and the records of the oldest open and
the newest failed jobs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from i2v.advised_commands import command
from i2v.clock import today_utc
from i2v.inputs.prompts import NO_PROMPT
from i2v.ledger.day_spend import DaySpendStore
from i2v.ledger.job import JobRecord, JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.money import money_text
from i2v.pipeline.context import RunContext
from i2v.recovery.leftover_markers import list_open_markers
from i2v.recovery.reconcile import NEEDS_ATTENTION_AFTER
from i2v.reports.advice import Advice, Situation, about, advise
from i2v.reports.markdown import as_code, as_table, as_text, as_usd
from i2v.reports.recent import RecentItem, list_recent_pages, read_recent_page
from i2v.reports.run_report import Outcome

MOST_OPEN = 200
"""Open jobs whose records are read, oldest first."""
MOST_RUNS, MOST_FAILED = 20, 30
"""Runs that are searched for failures, newest first, and failures that are shown."""
MOST_ROWS = 50
UNVERIFIED_PART = ".unverified."
"""In the name of a video that could not be verified."""
CHARS, REASON_CHARS = 100, 300


@dataclass(frozen=True, slots=True)
class NeedsAttention:
    """A job or image that needs a person."""

    since: datetime
    image: str
    what: str
    why: str
    advice: Advice


@dataclass(slots=True)
class LedgerStatus:
    """What is open and what needs a person. Amounts are US dollars."""

    at: datetime
    is_paused: bool = False
    today_usd: Decimal = Decimal(0)
    """Spent or reserved on this UTC day."""
    cap_usd: Decimal | None = None
    markers: int = 0
    """Jobs with an open marker."""
    read: int = 0
    """How many of their records were read."""
    waiting: list[JobRecord] = field(default_factory=list)
    """Open jobs, oldest first: claimed or submitted."""
    needs_attention: list[NeedsAttention] = field(default_factory=list)
    without_prompt: int = 0
    """Images of the newest runs that were refused because they have no prompt."""

    @property
    def summary(self) -> str:
        """Return the status in words: `2 need attention · 3 open since 2026-11-22 09:12 · $1.86 today`."""
        count = len(self.needs_attention)
        words = [f"{count:,} {'needs' if count == 1 else 'need'} attention"] if count else []
        if self.waiting:
            words.append(f"{len(self.waiting):,} open since {_since(self.waiting[0]):%Y-%m-%d %H:%M}")
        words += ["submits are paused"] if self.is_paused else []
        return " · ".join([*(words or ["all clear"]), f"${money_text(self.today_usd)} today"])


async def read_status(run: RunContext) -> LedgerStatus:
    """Read the status of the ledger now."""
    page = await run.ledger.info.read()
    today = (await DaySpendStore(run.storage, run.settings).read(today_utc())).content
    markers = list(await list_open_markers(run))
    status = LedgerStatus(
        at=datetime.now(UTC),
        is_paused=bool(page and page.paused),
        today_usd=today.total_usd,
        cap_usd=next((limit.usd for limit in run.settings.limits_of(None).limits if limit.is_daily_cap), None),
        markers=len(markers),
        read=min(len(markers), MOST_OPEN),
    )
    async for key, found in run.ledger.read_many(markers[:MOST_OPEN]):
        if isinstance(found, VersionedRecord):
            _add(status, found.record)
        elif found:
            advice = about(Situation.UNREADABLE, key)
            status.needs_attention.append(NeedsAttention(status.at, f"job {key}", "unreadable", str(found), advice))
    status.waiting.sort(key=_since)
    status.needs_attention.sort(key=lambda entry: entry.since)
    recent = await _recent(run)
    status.needs_attention += await _still_open(run, recent)
    status.without_prompt = sum(1 for item in recent if _lacks_prompt(item))
    return status


def _add(status: LedgerStatus, record: JobRecord) -> None:
    since = _since(record)
    if record.state is JobState.UNKNOWN:
        advice = advise(_item(record, Outcome.UNKNOWN), record.state)
        why = record.reason.message if record.reason else "the answer to its submit was lost"
        status.needs_attention.append(NeedsAttention(since, record.image.label, "unknown", why, advice or Advice("")))
    elif record.state is JobState.SUBMITTED and status.at - since > NEEDS_ATTENTION_AFTER:
        advice = about(Situation.OPEN_TOO_LONG, record.key)
        status.needs_attention.append(
            NeedsAttention(since, record.image.label, "open too long", "the provider has not finished it", advice)
        )
    elif record.state in {JobState.CLAIMED, JobState.SUBMITTED}:
        status.waiting.append(record)


def _since(record: JobRecord) -> datetime:
    return record.attempt.claimed_at if record.attempt else record.created_at


def _item(record: JobRecord, outcome: Outcome) -> RecentItem:
    return RecentItem(image=record.image.label, outcome=outcome, at=record.updated_at, job=record.key)


async def _recent(run: RunContext) -> list[RecentItem]:
    """Return the newest runs' bad results and missing prompts, one for each job or image, newest first."""
    found: dict[str, RecentItem] = {}
    runs_read = bad = 0
    async for name in list_recent_pages(run.storage, run.settings):
        page = await read_recent_page(run.storage, run.settings, name, limit=1 << 20)
        for item in page.items[::-1] if page else ():
            if (item.job or item.image) not in found:
                found[item.job or item.image] = item
                bad += _is_bad(item)
        runs_read += 1
        if runs_read >= MOST_RUNS or bad >= MOST_FAILED:
            break
    return [item for item in found.values() if _is_bad(item) or _lacks_prompt(item)]


def _is_bad(item: RecentItem) -> bool:
    return item.outcome is Outcome.FAILED or (item.outcome is Outcome.STORED and UNVERIFIED_PART in (item.video or ""))


def _lacks_prompt(item: RecentItem) -> bool:
    return item.outcome is Outcome.REFUSED and NO_PROMPT in (item.reason or "")


async def _still_open(run: RunContext, recent: Sequence[RecentItem]) -> list[NeedsAttention]:
    """Return what failed or could not be verified and is still so."""
    items = [item for item in recent if _is_bad(item)][:MOST_FAILED]
    jobs = [item.job for item in items if item.job]
    records = {
        key: found.record async for key, found in run.ledger.read_many(jobs) if isinstance(found, VersionedRecord)
    }
    entries = (_entry_for(item, records.get(item.job or "")) for item in items)
    return [entry for entry in entries if entry]


def _entry_for(item: RecentItem, record: JobRecord | None) -> NeedsAttention | None:
    attempt = record.attempt if record else None
    if item.outcome is Outcome.STORED:
        if record is None or attempt is None or not attempt.is_unverified:
            return None
        advice = about(Situation.UNVERIFIED, record.key)
        return NeedsAttention(item.at, item.image, "unverified", item.reason or "no reason recorded", advice)
    return _failed_entry(item) if record is None or record.state is JobState.FAILED else None


def _failed_entry(item: RecentItem) -> NeedsAttention:
    advice = advise(item, JobState.FAILED) or Advice("")
    return NeedsAttention(item.at, item.image, "failed", item.reason or "no reason recorded", advice)


def status_page(status: LedgerStatus) -> str:
    """Render the status as markdown of bounded size."""
    parts = (_head(status), _needs_attention(status.needs_attention), _waiting(status))
    return "\n".join(line for part in parts for line in part) + "\n"


def _head(status: LedgerStatus) -> Iterator[str]:
    yield f"## Status, {status.at:%Y-%m-%d %H:%M} UTC"
    cap = f", of a daily cap of {as_usd(status.cap_usd)}" if status.cap_usd is not None else ""
    yield from ("", f"**Today** {as_usd(status.today_usd)} spent or reserved by active runs{cap}.")
    if status.is_paused:
        yield from ("", f"**All submits are paused.** To resume: {as_code(command('resume'))}")
    if status.without_prompt:
        text = f"**Refused in the newest runs because they have no prompt: {status.without_prompt:,}.** Set "
        yield from ("", f"{text}{as_code('I2V_DEFAULT_PROMPT')} for images that bring none.")


def _needs_attention(entries: Sequence[NeedsAttention]) -> Iterator[str]:
    yield from ("", "### Needs attention", "")
    if not entries:
        yield "Nothing."
        return
    for entry in entries[:MOST_ROWS]:
        yield from _entry(entry)
    if len(entries) > MOST_ROWS:
        yield f"… and {len(entries) - MOST_ROWS:,} more: {as_code(command('jobs', '--state', 'unknown'))}"


def _entry(entry: NeedsAttention) -> Iterator[str]:
    """Render a list item: in a table, a long key leaves no room for the command."""
    yield f"- **{entry.what}** since {_minute(entry.since)}: {as_text(entry.image, CHARS, keep_end=True)}"
    yield from ("", f"  Reason: {as_text(entry.why, REASON_CHARS)}", "")
    command = [as_code(entry.advice.command)] if entry.advice.command else []
    yield from (f"  {' '.join([entry.advice.text, *command])}", "")


def _waiting(status: LedgerStatus) -> Iterator[str]:
    yield from ("", "### Open jobs, oldest first", "")
    more = max(0, len(status.waiting) - MOST_ROWS) + status.markers - status.read
    if not status.waiting and not more:
        yield "Nothing."
        return
    if status.waiting:
        yield from as_table(("Since (UTC)", "Image", "Request", "State"), map(_row, status.waiting[:MOST_ROWS]))
    if more:
        yield from ("", f"… and {more:,} more: {as_code(command('jobs', '--state', 'submitted'))}")
    yield from ("", "No action needed: the next run or reconcile stores these at no extra charge.")


def _row(record: JobRecord) -> list[str]:
    by = " (by callback)" if record.attempt and record.attempt.delivery == "callback" else ""
    image = as_text(record.image.label, CHARS, keep_end=True)
    return [_minute(_since(record)), image, record.request.mode_and_duration, record.state + by]


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
