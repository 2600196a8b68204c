"""A run as one page of markdown: what needs somebody first, then a sample of the videos, and where all of it lies.

Pure: `sample_videos` says which videos the page will show, and whoever can sign gives links to those. A page has a
bounded size, however many images the run had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from i2v.ledger.job import JobState
from i2v.money import money_text
from i2v.reports.advice import IN_PROGRESS, Advice, advise
from i2v.reports.markdown import BREAK, as_code, as_link, as_linked_image, as_table, as_text
from i2v.reports.recent import recent_item
from i2v.reports.run_report import ItemReport, Outcome, Report

WORST_FIRST = (Outcome.FAILED, Outcome.UNKNOWN, Outcome.REFUSED, Outcome.NOT_TRIED, Outcome.SUBMITTED)
SUCCESSES = (Outcome.STORED, Outcome.CACHED, Outcome.PLANNED)
MAX_ROWS_PER_OUTCOME = 40
"""Rows of each outcome that needs somebody."""
MAX_VIDEOS = 24
MAX_BYTES = 400_000
"""Prefect sets artifacts no limit of their own; proxies before it often take a megabyte."""
MAX_REASONS = 5
IMAGE_CHARS, PROMPT_CHARS, REASON_CHARS = 100, 120, 300
POSTER_PIXELS = 160


class VideoLinks(NamedTuple):
    """Signed, so never written down elsewhere."""

    poster: str
    video: str
    manifest: str


@dataclass(frozen=True, slots=True)
class RunPageInfo:
    """What a page says beside the report; the addresses are none where nothing was written."""

    label: str | None = None
    images: str | None = None
    """Where images lie; what lies there is named without it."""
    report: str | None = None
    lines: str | None = None
    links_until: datetime | None = None


def sample_videos(report: Report) -> list[ItemReport]:
    """The images without trouble that have a row: what is odd first, then spread over the run."""
    items = [item for outcome in SUCCESSES for item in report.items if item.outcome is outcome]
    odd = [item for item in items if item.reason][:MAX_VIDEOS]
    rest = [item for item in items if not item.reason]
    room = MAX_VIDEOS - len(odd)
    every = max(1, -(-len(rest) // room)) if room else 1
    return odd + rest[::every][:room]


def run_page(report: Report, about: RunPageInfo, links: Mapping[str, VideoLinks]) -> str:
    """The page of a run that has ended; `links` are by the video's address."""
    with_links = _page(report, about, links)
    return with_links if len(with_links.encode()) <= MAX_BYTES else _page(report, about, {})


def _page(report: Report, about: RunPageInfo, links: Mapping[str, VideoLinks]) -> str:
    return (
        "\n".join(
            [*_head(report, about), *_trouble(report, about), *_videos(report, about, links), *_foot(about, links)]
        )
        + "\n"
    )


def _head(report: Report, about: RunPageInfo) -> Iterator[str]:
    yield f"## {as_text(report.summary, REASON_CHARS)}"
    told = ["1 image" if len(report.items) == 1 else f"{len(report.items):,} images"]
    told += [f"label {as_text(about.label, IMAGE_CHARS)}"] if about.label else []
    told += [f"from {as_code(about.images)}"] if about.images else []
    told += [f"at risk {_money(report)}: billed, or perhaps so, without a video"] if report.at_risk_usd else []
    yield from ("", " · ".join(told))
    if report.stopped:
        yield from ("", f"**Submits were stopped:** {as_text(report.stopped, REASON_CHARS)}")


def _money(report: Report) -> str:
    return as_text(f"${money_text(report.at_risk_usd)}", REASON_CHARS)


def _trouble(report: Report, about: RunPageInfo) -> Iterator[str]:
    groups = {outcome: [item for item in report.items if item.outcome is outcome] for outcome in WORST_FIRST}
    rows = [_trouble_row(item, about) for items in groups.values() for item in items[:MAX_ROWS_PER_OUTCOME]]
    if not rows:
        return
    yield from ("", "### What did not become a video", "")
    yield from as_table(("image", "why", "what to do"), rows)
    for outcome, items in groups.items():
        if more := items[MAX_ROWS_PER_OUTCOME:]:
            yield from ("", f"… and {len(more):,} more {outcome.text}{_reasons(more)}")


def _reasons(items: Sequence[ItemReport]) -> str:
    counts = Counter(item.reason for item in items if item.reason)
    told = [f"{count:,} of {as_text(reason, IMAGE_CHARS)}" for reason, count in counts.most_common(MAX_REASONS)]
    return ": " + "; ".join(told) if told else ""


def _trouble_row(item: ItemReport, about: RunPageInfo) -> list[str]:
    paid = [as_text(f"${money_text(item.cost_usd)}", REASON_CHARS)] if item.cost_usd else []
    end = " · ".join([f"**{item.outcome.text}**", *paid])
    return [f"{end}{BREAK}{_image(item, about)}", as_text(item.reason or "", REASON_CHARS), _advice(item)]


def _advice(item: ItemReport) -> str:
    """By the job's state where this run saw it; else the image may have no job, and running again is right."""
    if item.state is JobState.SUBMITTED:
        advice: Advice | None = IN_PROGRESS
    else:
        advice = advise(recent_item(item if item.state else item.model_copy(update={"job": None})), item.state)
    return BREAK.join([advice.text, *([as_code(advice.command)] if advice.command else [])]) if advice else ""


def _videos(report: Report, about: RunPageInfo, links: Mapping[str, VideoLinks]) -> Iterator[str]:
    shown = sample_videos(report)
    if not shown:
        return
    yield from ("", "### Videos", "")
    yield from as_table(
        ("poster", "image", ""), (_video_row(item, about, links.get(item.video or "")) for item in shown)
    )
    total = sum(report.count(outcome) for outcome in SUCCESSES)
    if total > len(shown):
        yield from ("", f"… and {total - len(shown):,} more")


def _video_row(item: ItemReport, about: RunPageInfo, links: VideoLinks | None) -> list[str]:
    poster = as_linked_image(links.poster, links.video, POSTER_PIXELS) if links else ""
    prompt = as_text(item.request.prompt, PROMPT_CHARS) if item.request else ""
    cells = ([_image(item, about), prompt], [_end(item), as_text(item.reason or "", REASON_CHARS), _files(item, links)])
    return [poster, *(BREAK.join(filter(None, lines)) for lines in cells)]


def _end(item: ItemReport) -> str:
    after = f" after {item.seconds:,.0f} s" if item.seconds is not None else ""
    words = [f"{item.outcome.text}{after}", *(["attached"] if item.attached else []), f"${money_text(item.cost_usd)}"]
    return as_text(" · ".join(words), REASON_CHARS)


def _files(item: ItemReport, links: VideoLinks | None) -> str:
    if links:
        return f"{as_link('video', links.video)} · {as_link('manifest', links.manifest)}"
    return as_text(item.video or "", 2 * IMAGE_CHARS, keep_end=True)


def _image(item: ItemReport, about: RunPageInfo) -> str:
    return as_text(item.image.removeprefix(about.images or ""), IMAGE_CHARS, keep_end=True)


def _foot(about: RunPageInfo, links: Mapping[str, VideoLinks]) -> Iterator[str]:
    if about.report and about.lines:
        yield from ("", f"All of it: {as_code(about.report)}, and a line an image for tables: {as_code(about.lines)}")
    if links and about.links_until:
        until = as_text(f"{about.links_until:%Y-%m-%d %H:%M} UTC", REASON_CHARS)
        yield from ("", f"The links work until {until} at most.")
