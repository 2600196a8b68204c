"""How things stand: `read_status` finds what waits, since when, and what needs a person; `status_page` shows it.

It asks S3 a bounded number of times, however large the ledger is: two listings, and the records of the oldest open and
the newest failed jobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from i2v.ledger.budget import DailySpendStore, today_utc
from i2v.ledger.job import JobRecord, JobState
from i2v.money import money_text
from i2v.pipeline.run import Run
from i2v.recovery.reconcile import NEEDS_A_PERSON_AFTER, open_marks
from i2v.reports.advice import Advice, advise
from i2v.reports.markdown import as_code, as_table, as_text
from i2v.reports.recent import RecentItem, list_recent_pages, read_recent_page
from i2v.reports.run_report import Outcome

MOST_OPEN = 200
"""Open jobs that are looked at, oldest first."""
MOST_RUNS, MOST_FAILED = 20, 30
"""Runs that are looked through for what failed, newest first, and what is named of it."""
MOST_ROWS = 50
CHARS, REASON_CHARS = 100, 300
LONG_OPEN = "Charged, and open for more than a day. Check whether the provider still has it:"


@dataclass(frozen=True, slots=True)
class NeedsAttention:
    """What waits for a person."""

    since: datetime
    image: str
    what: str
    why: str
    advice: Advice


@dataclass(slots=True)
class LedgerStatus:
    """What is open and what needs a person; money in US dollars."""

    at: datetime
    is_paused: bool = False
    today_usd: Decimal = Decimal(0)
    """Spent, or held by runs that are under way, on this UTC day."""
    cap_usd: Decimal | None = None
    marks: int = 0
    """Jobs that carry an open mark."""
    looked_at: int = 0
    waiting: list[JobRecord] = field(default_factory=list)
    """Oldest first."""
    needy: list[NeedsAttention] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """In words: `2 need attention · 3 in progress since 2026-11-22 09:12 · $1.86 today`."""
        words = [f"{len(self.needy):,} {'needs' if len(self.needy) == 1 else 'need'} attention"] if self.needy else []
        if self.waiting:
            count = len(self.waiting)
            words.append(f"{count:,} in progress since {_since(self.waiting[0]):%Y-%m-%d %H:%M}")
        words += ["submits are paused"] if self.is_paused else []
        return " · ".join([*(words or ["all clear"]), f"${money_text(self.today_usd)} today"])


async def read_status(run: Run) -> LedgerStatus:
    """How things stand now.

    Raises:
        LedgerError: a record cannot be read by this version.
        StorageError: S3 did not answer well.
    """
    page = await run.ledger.read_info()
    today, _ = await DailySpendStore(run.storage, run.settings).read(today_utc())
    marks = list(await open_marks(run))
    standing = LedgerStatus(
        at=datetime.now(UTC),
        is_paused=bool(page and page.paused),
        today_usd=today.total_usd,
        cap_usd=run.settings.daily_cap_usd,
        marks=len(marks),
        looked_at=min(len(marks), MOST_OPEN),
    )
    async for held in run.ledger.read_many(marks[:MOST_OPEN]):
        _sort_in(standing, held.record)
    standing.waiting.sort(key=_since)
    standing.needy.sort(key=lambda needy: needy.since)
    standing.needy += await _failed(run)
    return standing


def _sort_in(standing: LedgerStatus, record: JobRecord) -> None:
    since = _since(record)
    if record.state is JobState.UNKNOWN:
        advice = advise(_item(record, Outcome.UNKNOWN), record.state)
        why = record.reason.message if record.reason else "the answer to its submit was lost"
        standing.needy.append(NeedsAttention(since, record.image.label, "unknown", why, advice or Advice("")))
    elif record.state is JobState.SUBMITTED and standing.at - since > NEEDS_A_PERSON_AFTER:
        advice = Advice(LONG_OPEN, f"i2v jobs show {record.key[:12]}")
        standing.needy.append(
            NeedsAttention(since, record.image.label, "open too long", "the provider has not finished it", advice)
        )
    elif record.state.is_open:
        standing.waiting.append(record)


def _since(record: JobRecord) -> datetime:
    return record.attempt.claimed_at if record.attempt else record.created_at


def _item(record: JobRecord, outcome: Outcome) -> RecentItem:
    return RecentItem(image=record.image.label, outcome=outcome, at=record.updated_at, job=record.key)


async def _failed(run: Run) -> list[NeedsAttention]:
    """What failed in the newest runs and still is so, newest first."""
    found: dict[str, RecentItem] = {}
    looked = 0
    async for name in list_recent_pages(run.storage, run.settings):
        page = await read_recent_page(run.storage, run.settings, name, limit=1 << 20)
        failed = [item for item in (page.items[::-1] if page else ()) if item.outcome is Outcome.FAILED]
        found |= {item.job or item.image: item for item in failed if (item.job or item.image) not in found}
        looked += 1
        if looked >= MOST_RUNS or len(found) >= MOST_FAILED:
            break
    items = list(found.values())[:MOST_FAILED]
    keys = [item.job for item in items if item.job]
    states = {held.record.key: held.record.state async for held in run.ledger.read_many(keys)}
    return [_failed_needy(item) for item in items if states.get(item.job or "", JobState.FAILED) is JobState.FAILED]


def _failed_needy(item: RecentItem) -> NeedsAttention:
    advice = advise(item, JobState.FAILED) or Advice("")
    return NeedsAttention(item.at, item.image, "failed", item.reason or "no reason recorded", advice)


def status_page(standing: LedgerStatus) -> str:
    """The page, as markdown of bounded size."""
    parts = (_head(standing), _needy(standing.needy), _waiting(standing))
    return "\n".join(line for part in parts for line in part) + "\n"


def _head(standing: LedgerStatus) -> Iterator[str]:
    yield f"## Status, {standing.at:%Y-%m-%d %H:%M} UTC"
    cap = f" of the daily cap of {_usd(standing.cap_usd)}" if standing.cap_usd is not None else ""
    yield from ("", f"**Today** {_usd(standing.today_usd)} spent or reserved by active runs{cap}.")
    if standing.is_paused:
        yield from ("", f"**All submits are paused.** To resume: {as_code('i2v resume')}")


def _needy(needy: Sequence[NeedsAttention]) -> Iterator[str]:
    yield from ("", "### Needs attention", "")
    if not needy:
        yield "Nothing."
        return
    for each in needy[:MOST_ROWS]:
        yield from _told(each)
    if len(needy) > MOST_ROWS:
        yield f"… and {len(needy) - MOST_ROWS:,} more: {as_code('i2v jobs --state unknown')}"


def _told(needy: NeedsAttention) -> Iterator[str]:
    """An item of a list: in a table a long key leaves the command no room. No line begins with a text of others."""
    yield f"- **{needy.what}** since {_minute(needy.since)}: {as_text(needy.image, CHARS, keep_end=True)}"
    yield from ("", f"  Reason: {as_text(needy.why, REASON_CHARS)}", "")
    command = [as_code(needy.advice.command)] if needy.advice.command else []
    yield from (f"  {' '.join([needy.advice.text, *command])}", "")


def _waiting(standing: LedgerStatus) -> Iterator[str]:
    yield from ("", "### In progress, oldest first", "")
    if not standing.waiting:
        yield "Nothing."
    else:
        yield from as_table(("Since (UTC)", "Image", "Request", "State"), map(_row, standing.waiting[:MOST_ROWS]))
    more = max(0, len(standing.waiting) - MOST_ROWS) + standing.marks - standing.looked_at
    if more:
        yield from ("", f"… and {more:,} more: {as_code('i2v jobs --state submitted')}")
    yield from ("", "No action needed: the next run resumes these at no extra charge.")


def _row(record: JobRecord) -> list[str]:
    asked = f"{record.request.mode} {record.request.duration} s"
    state = "at the provider" if record.state is JobState.SUBMITTED else "being submitted"
    by = " (by callback)" if record.attempt and record.attempt.delivery == "callback" else ""
    return [_minute(_since(record)), as_text(record.image.label, CHARS, keep_end=True), asked, state + by]


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def _usd(amount: Decimal) -> str:
    return as_text(f"${money_text(amount)}", CHARS)
