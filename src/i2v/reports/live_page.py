"""A run that is under way as a page of markdown: how far it is, what it cost so far, and when it will end."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from decimal import Decimal

from i2v.money import money_text
from i2v.reports.markdown import as_table, as_text
from i2v.reports.progress import RunProgress

CHARS = 300


def live_page(tally: RunProgress, spent_usd: Decimal, rendered_seconds: Collection[float]) -> str:
    """What is known by now; `rendered_seconds` are how long the last jobs rendered."""
    now = datetime.now(UTC)
    done = f"{tally.done.total():,} of {tally.total or 0:,} images done"
    lines = [f"## Under way: {done}", "", *as_table(tuple(tally.counts), [[f"{n:,}" for n in tally.counts.values()]])]
    told = [f"${money_text(spent_usd)} so far", *_foreseen(tally, rendered_seconds, now)]
    if oldest := tally.oldest:
        told.append(f"the longest renders since {oldest:%H:%M:%S} UTC")
    lines += ["", as_text(" · ".join(told), CHARS), "", as_text(f"As of {now:%Y-%m-%d %H:%M:%S} UTC.", CHARS)]
    return "\n".join(lines) + "\n"


def _foreseen(tally: RunProgress, rendered_seconds: Collection[float], now: datetime) -> list[str]:
    end = tally.expected_end(rendered_seconds)
    if end is None:
        return ["no video has come yet that would tell when it ends"]
    mean = sum(rendered_seconds) / len(rendered_seconds)
    minutes = max(1, round((end - now).total_seconds() / 60))
    return [
        f"expected to end about {end:%H:%M} UTC, in {minutes} min",
        f"the last {len(rendered_seconds)} videos rendered in {mean:.0f} s",
    ]
