"""The page of a run in progress, as markdown: how far it is, what it has cost so far and when it should end."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from i2v.money import money_text
from i2v.reports.markdown import as_table, as_text
from i2v.reports.progress import RunProgress

MAX_CHARS = 300


def live_page(progress: RunProgress, spent_usd: Decimal) -> str:
    """Return the page."""
    now = datetime.now(UTC)
    counts = progress.counts
    facts = [f"${money_text(spent_usd)} so far", *_estimate(progress, now)]
    if oldest := progress.oldest:
        facts.append(f"longest rendering since {oldest:%H:%M:%S} UTC")
    lines = [
        f"## In progress: {progress.done.total():,} of {progress.total or 0:,} images done",
        "",
        *as_table(tuple(counts), [[f"{count:,}" for count in counts.values()]]),
        "",
        as_text(" · ".join(facts), MAX_CHARS),
        "",
        as_text(f"Updated {now:%Y-%m-%d %H:%M:%S} UTC.", MAX_CHARS),
    ]
    return "\n".join(lines) + "\n"


def _estimate(progress: RunProgress, now: datetime) -> list[str]:
    end, rendered_seconds = progress.expected_end, progress.render_seconds
    if end is None:
        return ["no estimate until the first video is rendered"]
    mean = sum(rendered_seconds) / len(rendered_seconds)
    minutes = max(1, round((end - now).total_seconds() / 60))
    return [
        f"expected end {end:%H:%M} UTC, in {minutes} min",
        f"the last {len(rendered_seconds)} videos rendered in {mean:.0f} s on average",
    ]
