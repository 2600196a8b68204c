"""The page of a running run, as markdown: its counts, its cost so far and its expected end."""

from datetime import UTC, datetime

from i2v.reports.markdown import as_charges, as_table
from i2v.reports.progress import RunProgress


def live_page(progress: RunProgress) -> str:
    """Return the page."""
    now = datetime.now(UTC)
    counts = progress.counts
    facts = [f"{as_charges(progress.charges)} so far", *_estimate(progress, now)]
    if oldest := progress.oldest:
        facts.append(f"oldest job rendering since {oldest:%H:%M:%S} UTC")
    lines = [
        f"## Running: {progress.done.total():,} of {progress.total or 0:,} images done",
        "",
        *as_table(tuple(counts), [[f"{count:,}" for count in counts.values()]]),
        "",
        " · ".join(facts),
        "",
        f"Updated {now:%Y-%m-%d %H:%M:%S} UTC.",
    ]
    return "\n".join(lines) + "\n"


def _estimate(progress: RunProgress, now: datetime) -> list[str]:
    end, seconds = progress.expected_end, progress.render_seconds
    if end is None:
        return ["no estimate until the first video is rendered"]
    minutes = max(1, round((end - now).total_seconds() / 60))
    return [
        f"expected end {end:%H:%M} UTC, in {minutes} min",
        f"the last {len(seconds)} videos rendered in {sum(seconds) / len(seconds):.0f} s on average",
    ]
