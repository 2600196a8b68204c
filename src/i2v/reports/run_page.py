"""The page of a finished run, as markdown: first what needs attention, then a sample of the videos. Pure.

The caller signs links to the videos that `sample_videos` returns. The page has a maximum size, however large the run.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, groupby
from typing import NamedTuple

from i2v.ledger.job import JobState
from i2v.money import sum_charges
from i2v.reports.advice import Advice, Situation, about, advise
from i2v.reports.markdown import (
    BREAK,
    NO_BREAK_SPACE,
    as_charges,
    as_code,
    as_image_cell,
    as_link,
    as_table,
    as_text,
    as_usd,
)
from i2v.reports.recent import recent_item
from i2v.reports.run_report import ItemReport, Outcome, Report

WORST_FIRST = (Outcome.FAILED, Outcome.UNKNOWN, Outcome.REFUSED, Outcome.NOT_TRIED, Outcome.SUBMITTED)
SUCCESSES = (Outcome.STORED, Outcome.CACHED, Outcome.PLANNED)
_RANK = {outcome: rank for rank, outcome in enumerate(WORST_FIRST)}
MAX_GROUPS = 80
"""Different reasons."""
MAX_NAMES, MAX_COMMANDS = 8, 3
"""Of the images with the same reason."""
MAX_VIDEOS = 24
MAX_BYTES = 400_000
"""Prefect does not limit the size of an artifact; proxies in front of it often limit requests to 1 MB."""
MAX_REASONS = 5
IMAGE_CHARS, PROMPT_CHARS, REASON_CHARS = 100, 120, 300
POSTER_PIXELS = 160


class VideoLinks(NamedTuple):
    """Presigned URLs. They are secret: do not write them anywhere else."""

    poster: str
    video: str
    manifest: str


@dataclass(frozen=True, slots=True)
class RunPageInfo:
    """What the page shows besides the report. `report` and `rows` are `None` if the run wrote none."""

    label: str | None = None
    images: str | None = None
    """The images prefix, which names leave out."""
    report: str | None = None
    rows: str | None = None
    links_until: datetime | None = None


def sample_videos(report: Report) -> list[ItemReport]:
    """Return the successful images to show: those with a reason first, then some spread evenly over the run."""
    items = [item for outcome in SUCCESSES for item in report.items if item.outcome is outcome]
    flagged = [item for item in items if item.reason][:MAX_VIDEOS]
    rest = [item for item in items if not item.reason]
    room = MAX_VIDEOS - len(flagged)
    step = max(1, -(-len(rest) // room)) if room else 1
    return flagged + rest[::step][:room]


def run_page(report: Report, info: RunPageInfo, links: Mapping[str, VideoLinks]) -> str:
    """Return the page; `links` are by video URI, and are left out if they make the page too large."""
    with_links = _page(report, info, links)
    return with_links if len(with_links.encode()) <= MAX_BYTES else _page(report, info, {})


def _page(report: Report, info: RunPageInfo, links: Mapping[str, VideoLinks]) -> str:
    parts = (_head(report, info), attention(report, info), _videos(report, info, links), _footer(info, links))
    return "\n".join(line for part in parts for line in part) + "\n"


def _head(report: Report, info: RunPageInfo) -> Iterator[str]:
    yield f"## {as_text(report.summary, REASON_CHARS)}"
    facts = ["1 image" if len(report.items) == 1 else f"{len(report.items):,} images"]
    facts += [f"label {as_text(info.label, IMAGE_CHARS)}"] if info.label else []
    facts += [f"from {as_code(info.images)}"] if info.images else []
    facts += [f"not processed: {as_text(report.others, REASON_CHARS)}"] if report.others else []
    if report.at_risk_usd:
        facts.append(f"at risk {as_usd(report.at_risk_usd)}: charged or possibly charged, without a video")
    yield from ("", " · ".join(facts))
    if report.stopped:
        yield from ("", f"**Submits stopped:** {as_text(report.stopped, REASON_CHARS)}")
    for note in report.notes:
        yield from ("", f"**Note:** {as_text(note, REASON_CHARS)}")


def attention(report: Report, info: RunPageInfo) -> Iterator[str]:
    """Yield the lines about images that need attention, grouped by reason, worst first."""
    groups = _groups(report)
    rows = [_attention_row(items, info) for items in groups[:MAX_GROUPS]]
    if not rows:
        return
    yield from ("", "### Needs attention", "")
    yield from as_table(("Image", "Reason", "Action"), rows)
    for outcome, more in groupby(chain(*groups[MAX_GROUPS:]), key=lambda item: item.outcome):
        items = list(more)
        yield from ("", f"… and {len(items):,} more {outcome.text}{_reasons(items)}")


def _groups(report: Report) -> list[list[ItemReport]]:
    """Return the images that need attention, worst first; those with the same reason are one group."""
    groups: dict[tuple[Outcome, str, JobState | None], list[ItemReport]] = {}
    for item in sorted(report.items, key=lambda item: _RANK.get(item.outcome, 0)):
        if item.outcome in _RANK:
            groups.setdefault((item.outcome, _reason(item), item.state), []).append(item)
    return list(groups.values())


def _reason(item: ItemReport) -> str:
    """Return the reason without the image's name, which stands beside it."""
    return (item.reason or "").replace(item.image, "the image") if item.image else item.reason or ""


def _reasons(items: Sequence[ItemReport]) -> str:
    counts = Counter(_reason(item) for item in items if item.reason).most_common(MAX_REASONS)
    return ": " + "; ".join(f"{count:,}x {as_text(reason, IMAGE_CHARS)}" for reason, count in counts) if counts else ""


def _attention_row(items: Sequence[ItemReport], info: RunPageInfo) -> list[str]:
    first, charges = items[0], sum_charges(item.charges for item in items)
    count = f"{len(items):,} images" if len(items) > 1 else ""
    head = " · ".join(filter(None, (f"**{first.outcome.text}**", count, as_charges(charges) if charges else "")))
    advices = [advice for item in items[:MAX_COMMANDS] if (advice := _advice(item))]
    commands = [as_code(advice.command) for advice in advices if advice.command]
    return [
        BREAK.join([head, *_some([_name(item, info) for item in items[:MAX_NAMES]], len(items))]),
        as_text(_reason(first), REASON_CHARS),
        BREAK.join([*(advice.text for advice in advices[:1]), *(_some(commands, len(items)) if commands else ())]),
    ]


def _some(lines: Sequence[str], total: int) -> list[str]:
    """Return the lines, and how many are left out."""
    return [*lines, *([f"… and {total - len(lines):,} more"] if total > len(lines) else [])]


def _advice(item: ItemReport) -> Advice | None:
    """Advise by the job's state. Without a state the image may have no job: advise as if it has none."""
    if item.state is JobState.SUBMITTED:
        return about(Situation.SUBMITTED)
    return advise(recent_item(item if item.state else item.model_copy(update={"job": None})), item.state)


def _videos(report: Report, info: RunPageInfo, links: Mapping[str, VideoLinks]) -> Iterator[str]:
    shown = sample_videos(report)
    if not shown:
        return
    yield from ("", "### Videos", "")
    rows = (_video_row(item, info, links.get(item.video or "")) for item in shown)
    yield from as_table(("Poster", "Image, prompt and its source", "Result"), rows)
    total = sum(report.count(outcome) for outcome in SUCCESSES)
    if total > len(shown):
        yield from ("", f"… and {total - len(shown):,} more")


def _video_row(item: ItemReport, info: RunPageInfo, links: VideoLinks | None) -> list[str]:
    poster = as_image_cell(links.poster, links.video, POSTER_PIXELS) if links else ""
    prompt = as_text(item.shown_prompt(PROMPT_CHARS), 2 * PROMPT_CHARS)
    columns = as_text(" · ".join(f"{name}: {value}" for name, value in item.extra.items()), PROMPT_CHARS)
    took = item.outcome is Outcome.STORED and item.seconds is not None
    after = f" after{NO_BREAK_SPACE}{item.seconds:,.0f}{NO_BREAK_SPACE}s" if took else ""
    cost = as_charges(item.charges)
    if item.attached:
        cost += f" in this run; {as_charges(item.job_charges)} in an earlier one"
    reason = as_text(item.reason or "", REASON_CHARS)
    cells = ([_name(item, info), prompt, columns], [f"{item.outcome.text}{after}", cost, reason, _files(item, links)])
    return [poster, *(BREAK.join(filter(None, lines)) for lines in cells)]


def _files(item: ItemReport, links: VideoLinks | None) -> str:
    if links:
        return NO_BREAK_SPACE.join((as_link("video", links.video), "·", as_link("manifest", links.manifest)))
    return as_text(item.video or "", 2 * IMAGE_CHARS, keep_end=True)


def _name(item: ItemReport, info: RunPageInfo) -> str:
    return as_text(item.image.removeprefix(info.images or ""), IMAGE_CHARS, keep_end=True)


def _footer(info: RunPageInfo, links: Mapping[str, VideoLinks]) -> Iterator[str]:
    if info.report and info.rows:
        yield from ("", f"Full report: {as_code(info.report)}. As JSON Lines, one row per image: {as_code(info.rows)}")
    if links and info.links_until:
        yield from ("", f"Links expire at {info.links_until:%Y-%m-%d %H:%M} UTC, or earlier.")
