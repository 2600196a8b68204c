"""The run page: texts of others stay texts, the worst outcomes come first, and its size is limited."""

from __future__ import annotations

import string
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from i2v.ledger.job import JobState
from i2v.reports.markdown import as_code, as_link, as_text
from i2v.reports.run_page import (
    MAX_BYTES,
    MAX_GROUPS,
    MAX_NAMES,
    MAX_VIDEOS,
    RunPageInfo,
    VideoLinks,
    run_page,
    sample_videos,
)
from i2v.reports.run_report import ItemReport, Outcome, Report
from i2v.request import Request

MARKDOWN = MarkdownIt("commonmark").enable("table")
PRICE = Decimal("0.192")
ABOUT = RunPageInfo(report="s3://b-1/jobs/runs/1.json", rows="s3://b-1/jobs/runs/1.jsonl")
TAGS = {"h2", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "strong", "code", "a", "img", "br"}
HOSTILE = (
    "a|b||c",
    "\\|\\\\|`` ` ``` <script>alert(1)</script>",
    "[x](javascript:alert(1)) ![y](https://e.example/z.png)",
    "# head\n\n- item\r\n| a | b |\n| --- | --- |",
    "&lt;b&gt; &#124; &amp;quot; **bold** __b__ ~~s~~ $x$",
    "<!-- --> <img src=x onerror=alert(1)>",
    "cats/\u202egpj.exe \ud800 \x00 \u2028 \U000e0041",
)
FRAGMENTS = st.sampled_from([*string.punctuation, "\n", " ", "a", "é", "\\|", "```", "](", "<b>", "&#124;"])
TEXTS = st.one_of(st.text(max_size=60), st.lists(FRAGMENTS, max_size=30).map("".join))


class RenderedPage(HTMLParser):
    """What a browser shows: tags, link targets and the texts of cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.targets: list[str] = []
        self.cells: list[str] = []
        self.strong: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count the tag and keep its target."""
        self.tags[tag] += 1
        self.targets += [value or "" for name, value in attrs if name in {"href", "src"}]
        assert {name for name, _ in attrs} <= {"href", "src", "width", "align"}
        if tag in {"td", "th"}:
            self.cells.append("")
        if tag == "strong":
            self.strong.append("")
        if tag == "br":
            self.handle_data(" / ")

    def handle_data(self, data: str) -> None:
        """Add the text to the last cell, and to the last bold text if it is empty."""
        if self.strong and not self.strong[-1]:
            self.strong[-1] = data
        if self.cells and data != "\n":
            self.cells[-1] += data


def rendered(page: str) -> RenderedPage:
    """Render a page."""
    return RenderedPage(MARKDOWN.render(page))


def visible(text: str) -> str:
    """Return a text on one line, with a replacement for each invisible character."""
    chars = (char if char.isprintable() or char == "\u200d" else " " if char.isspace() else "\ufffd" for char in text)
    return "".join(chars).strip(" ")


def item(outcome: Outcome, number: int = 0, **more: object) -> ItemReport:
    """Return one image with this outcome."""
    image = f"s3://b-1/images/{outcome}-{number}.jpg"
    video = f"s3://b-1/videos/{outcome}-{number}.jpg/a-b.mp4" if outcome is Outcome.STORED else None
    return ItemReport.model_validate({"image": image, "outcome": outcome, "video": video, "seconds": 7, **more})


def page(*items: ItemReport, links: dict[str, VideoLinks] | None = None) -> str:
    """Return the page of a run with these images."""
    return run_page(Report(items=items), ABOUT, links or {})


@example(HOSTILE[0])
@example(HOSTILE[1])
@example(HOSTILE[2])
@example(HOSTILE[3])
@example(HOSTILE[4])
@example(HOSTILE[5])
@example(HOSTILE[6])
@settings(deadline=None)
@given(TEXTS)
def test_text_is_rendered_literally(text: str) -> None:
    """In a table cell it renders character by character, and adds neither tags nor cells."""
    table = rendered(f"| a | b |\n| --- | --- |\n| x{as_text(text, 1000)}x | {as_code(text)} |\n")
    assert table.tags - Counter({"code": 1}) == Counter(["table", "thead", "tbody", "tr", "tr", "th", "th", "td", "td"])
    assert table.cells[2].rstrip("\n") == f"x{visible(text)}x"
    assert table.cells[3].strip(" \n") == visible(text)


@settings(deadline=None)
@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_no_text_of_others_breaks_the_page(image: str, prompt: str, reason: str, label: str) -> None:
    """Whatever a key, prompt, message or label contains, the page has only its own tags and links."""
    request = Request.model_construct(prompt=prompt)
    video = "s3://b-1/videos/a/b.mp4"
    items = [
        ItemReport(image=image, outcome=Outcome.STORED, video=video, request=request, extra={"sku": label}),
        *(ItemReport(image=image, outcome=one, reason=reason) for one in (Outcome.FAILED, Outcome.REFUSED)),
    ]
    links = {video: VideoLinks("https://s3.example/p?a=1", "https://s3.example/v?a=1", "https://s3.example/m?a=1")}
    html = rendered(run_page(Report(items=tuple(items), stopped=reason), RunPageInfo(label=label), links))
    assert set(html.tags) <= TAGS
    assert html.tags["tr"] == 1 + 2 + 1 + 1
    assert len(html.cells) == 3 * 5
    assert sorted(html.targets) == sorted([*links[video], "https://s3.example/v?a=1"])


def test_the_worst_outcomes_come_first() -> None:
    """Failed, unknown, refused, not tried and open images come before the videos."""
    kinds = ("stored", "refused", "submitted", "not_tried", "failed", "unknown")
    html = rendered(page(*(item(Outcome(kind)) for kind in kinds)))
    assert html.strong == ["failed", "unknown", "refused", "not tried", "submitted"]
    assert html.cells[-2] == "s3://b-1/images/stored-0.jpg"


def test_custom_columns_stand_with_the_prompt() -> None:
    """A person sees which product a video belongs to."""
    html = rendered(page(item(Outcome.STORED, extra={"sku": "A_1", "campaign": "spring"})))
    assert "sku: A_1 · campaign: spring" in html.cells[-2]


def test_a_large_run_has_a_bounded_page() -> None:
    """The first reasons have a row each; the rest is counted with its reasons."""
    failed = [item(Outcome.FAILED, n, reason=f"down {n}") for n in range(500)]
    others = [item(Outcome.REFUSED), *(item(Outcome.STORED, n) for n in range(499))]
    text = page(*failed, *others)
    rows = rendered(text).tags["tr"]
    assert rows == 1 + MAX_GROUPS + 1 + MAX_VIDEOS
    assert "… and 420 more failed: 1x down 80; 1x down 81" in text
    assert "… and 1 more refused" in text
    assert "… and 475 more" in text


def test_a_reason_stands_once() -> None:
    """Images with the same reason share a row, also where each reason names its image."""
    names = [f"s3://b-1/images/refused-{n}.jpg" for n in range(21)]
    missing = [
        item(Outcome.REFUSED, n, reason=f"{name} has no prompt", again=f"run {name}") for n, name in enumerate(names)
    ]
    lost: dict[str, Any] = {
        "job": "a" * 64,
        "state": JobState.UNKNOWN,
        "possibly_charged_usd": PRICE,
        "reason": "the answer was lost",
    }
    html = rendered(page(*missing, *(item(Outcome.UNKNOWN, n, **lost) for n in range(2))))
    assert html.tags["tr"] == 3
    assert html.cells[3].startswith("unknown · 2 images · $0.384 possibly charged / s3://b-1/images/unknown-0.jpg")
    assert html.cells[6].startswith("refused · 21 images / s3://b-1/images/refused-0.jpg")
    assert html.cells[6].endswith(f"… and {21 - MAX_NAMES} more")
    assert html.cells[7] == "the image has no prompt"
    assert "/ … and 18 more" in html.cells[8]


def test_a_page_over_the_size_limit_has_no_links() -> None:
    """Presigned links are left out if they make the page too large."""
    items = [item(Outcome.STORED, n) for n in range(MAX_VIDEOS)]
    links = {str(one.video): VideoLinks(*(f"https://s3.example/{kind}" for kind in "pvm")) for one in items}
    long = {video: VideoLinks(*(f"{url}?{'x' * 9000}" for url in urls)) for video, urls in links.items()}
    assert page(*items, links=links).count("https://") == 4 * MAX_VIDEOS
    assert "https://" not in page(*items, links=long)
    assert len(page(*items, links=long)) < MAX_BYTES


def test_a_video_has_its_poster_and_links() -> None:
    """The poster links to the video; the page names the report and the rows."""
    stored = item(Outcome.STORED, cost_usd=PRICE, request=Request(prompt="it moves"))
    links = {
        str(stored.video): VideoLinks("https://s3.example/p?s=1&x=%2F", "https://s3.example/v", "https://s3.example/m")
    }
    info = RunPageInfo(
        images="s3://b-1/images/",
        report=ABOUT.report,
        rows=ABOUT.rows,
        links_until=datetime(2026, 11, 22, 9, 5, tzinfo=UTC),
    )
    text = run_page(Report(items=(stored,)), info, links)
    html = rendered(text)
    assert html.targets == ["https://s3.example/v", "https://s3.example/p?s=1&x=%2F", *links[str(stored.video)][1:]]
    assert html.cells[4] == "stored-0.jpg / it moves"
    assert html.cells[5].startswith("stored after\u00a07\u00a0s / $0.192 / video\u00a0·\u00a0manifest")
    assert "`s3://b-1/jobs/runs/1.jsonl`" in text
    assert "2026-11-22 09:05 UTC" in text


def test_without_links_the_page_has_the_video_uri() -> None:
    """If links are off, the URI can be copied."""
    stored = item(Outcome.STORED)
    cell = rendered(run_page(Report(items=(stored,)), RunPageInfo(), {})).cells[-1]
    assert cell.strip() == f"stored after\u00a07\u00a0s / $0.00 / {stored.video}"


def test_the_sample_includes_flagged_videos() -> None:
    """The others are spread over the run."""
    items = [item(Outcome.STORED, n, reason="replaced" if n == 777 else None) for n in range(1000)]
    sample = sample_videos(Report(items=tuple(items)))
    assert sample[0] is items[777]
    assert len(sample) == MAX_VIDEOS
    assert sample[-1] in items[950:]


def test_each_outcome_has_a_command() -> None:
    """It depends on the job's state if known; else running again is right and charges nothing twice."""
    job = "a" * 64
    pages = {
        "unknown": page(item(Outcome.UNKNOWN, job=job, state=JobState.UNKNOWN)),
        "failed": page(item(Outcome.FAILED, job=job, state=JobState.FAILED)),
        "not stored": page(item(Outcome.FAILED, job=job, state=JobState.SUBMITTED)),
        "not read": page(item(Outcome.FAILED, job=job, again="run s3://b-1/images/1.jpg")),
        "refused": page(item(Outcome.REFUSED, again="run s3://b-1/images/2.jpg --prompt 'it moves'")),
        "open": page(item(Outcome.SUBMITTED, job=job, state=JobState.SUBMITTED)),
        "not tried": page(item(Outcome.NOT_TRIED, job=job, state=JobState.READY, again="run s3://b-1/images/3.jpg")),
    }
    commands = {name: text.split("`")[1] for name, text in pages.items()}
    assert commands == {
        "unknown": "i2v jobs resolve aaaaaaaaaaaa --adopt TASKID",
        "failed": "i2v jobs resolve aaaaaaaaaaaa --resubmit",
        "not stored": "i2v reconcile",
        "not read": "i2v run s3://b-1/images/1.jpg",
        "refused": "i2v run s3://b-1/images/2.jpg --prompt 'it moves'",
        "open": "i2v reconcile",
        "not tried": "i2v run s3://b-1/images/3.jpg",
    }


def test_a_command_with_a_backtick_is_text() -> None:
    """A command that a code span cannot contain is rendered literally."""
    assert as_code("i2v run 's3://b/a|b`.jpg'") == "i2v run 's3://b/a\\|b\\`.jpg'"
    assert as_link("x", "https://e.example/a b|c)(?s=%2F&t=1") == "[x](https://e.example/a%20b%7Cc%29%28?s=%2F&t=1)"
