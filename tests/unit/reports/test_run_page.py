"""A run's page: the texts of others stay texts, the worst stands first, and its size is bounded."""

from __future__ import annotations

import string
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser

from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from i2v.ledger.job import JobState
from i2v.reports.markdown import as_code, as_link, as_text
from i2v.reports.run_page import (
    MAX_BYTES,
    MAX_ROWS_PER_OUTCOME,
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
MARKS = st.sampled_from([*string.punctuation, "\n", " ", "a", "é", "\\|", "```", "](", "<b>", "&#124;"])
TEXTS = st.one_of(st.text(max_size=60), st.lists(MARKS, max_size=30).map("".join))


class Shown(HTMLParser):
    """What a browser would show: the tags, and the texts of the cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.targets: list[str] = []
        self.cells: list[str] = []
        self.strong: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count it, and keep where it leads."""
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
        """Belongs to the last cell, and maybe to a word in bold."""
        if self.strong and not self.strong[-1]:
            self.strong[-1] = data
        if self.cells and data != "\n":
            self.cells[-1] += data


def shown(page: str) -> Shown:
    """A page as it is shown."""
    return Shown(MARKDOWN.render(page))


def seen(text: str) -> str:
    """What is to be read of a text: one line, and a mark for what cannot be seen."""
    signs = (sign if sign.isprintable() or sign == "\u200d" else " " if sign.isspace() else "\ufffd" for sign in text)
    return "".join(signs).strip(" ")


def item(outcome: Outcome, number: int = 0, **more: object) -> ItemReport:
    """One image that ended so."""
    image = f"s3://b-1/images/{outcome}-{number}.jpg"
    video = f"s3://b-1/videos/{outcome}-{number}.jpg/a-b.mp4" if outcome is Outcome.STORED else None
    return ItemReport.model_validate({"image": image, "outcome": outcome, "video": video, "seconds": 7, **more})


def page(*items: ItemReport, links: dict[str, VideoLinks] | None = None) -> str:
    """The page of a run of these."""
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
def test_a_text_is_shown_as_it_is(text: str) -> None:
    """In a cell of a table it is read back letter by letter, with no tag and no cell more."""
    table = shown(f"| a | b |\n| --- | --- |\n| x{as_text(text, 1000)}x | {as_code(text)} |\n")
    assert table.tags - Counter({"code": 1}) == Counter(["table", "thead", "tbody", "tr", "tr", "th", "th", "td", "td"])
    assert table.cells[2].rstrip("\n") == f"x{seen(text)}x"
    assert table.cells[3].strip(" \n") == seen(text)


@settings(deadline=None)
@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_no_text_of_others_breaks_the_page(image: str, prompt: str, reason: str, label: str) -> None:
    """Whatever a key, a prompt, a provider's words or a label hold, the page has its own tags and links alone."""
    request = Request.model_construct(prompt=prompt)
    video = "s3://b-1/videos/a/b.mp4"
    items = [
        ItemReport(image=image, outcome=Outcome.STORED, video=video, request=request),
        *(ItemReport(image=image, outcome=one, reason=reason) for one in (Outcome.FAILED, Outcome.REFUSED)),
    ]
    links = {video: VideoLinks("https://s3.example/p?a=1", "https://s3.example/v?a=1", "https://s3.example/m?a=1")}
    html = shown(run_page(Report(items=tuple(items), stopped=reason), RunPageInfo(label=label), links))
    assert set(html.tags) <= TAGS
    assert html.tags["tr"] == 1 + 2 + 1 + 1
    assert len(html.cells) == 3 * 5
    assert sorted(html.targets) == sorted([*links[video], "https://s3.example/v?a=1"])


def test_what_needs_somebody_stands_first() -> None:
    """Failed, unknown and refused, then what was not tried, then the videos, in this order."""
    kinds = ("stored", "refused", "submitted", "not_tried", "failed", "unknown")
    html = shown(page(*(item(Outcome(kind)) for kind in kinds)))
    assert html.strong == ["failed", "unknown", "refused", "not tried", "still open"]
    assert html.cells[-2] == "s3://b-1/images/stored-0.jpg"


def test_a_large_run_stays_readable() -> None:
    """Of a thousand images each kind of trouble has its first rows, the rest is counted with its reasons."""
    failed = [item(Outcome.FAILED, n, reason=f"down {n % 2}") for n in range(500)]
    others = [item(Outcome.REFUSED), *(item(Outcome.STORED, n) for n in range(499))]
    text = page(*failed, *others)
    rows = shown(text).tags["tr"]
    assert rows == 1 + MAX_ROWS_PER_OUTCOME + 1 + 1 + MAX_VIDEOS
    assert "… and 460 more failed: 230x down 0; 230x down 1" in text
    assert "… and 475 more" in text


def test_a_page_has_a_greatest_size() -> None:
    """Where signed links would make it too large, it goes without them."""
    items = [item(Outcome.STORED, n) for n in range(MAX_VIDEOS)]
    links = {str(one.video): VideoLinks(*(f"https://s3.example/{kind}" for kind in "pvm")) for one in items}
    long = {video: VideoLinks(*(f"{url}?{'x' * 9000}" for url in urls)) for video, urls in links.items()}
    assert page(*items, links=links).count("https://") == 4 * MAX_VIDEOS
    assert "https://" not in page(*items, links=long)
    assert len(page(*items, links=long)) < MAX_BYTES


def test_a_video_has_its_poster_and_links() -> None:
    """The poster is a picture that leads to the video; both addresses and the ledger's are told."""
    stored = item(Outcome.STORED, cost_usd=PRICE, request=Request(prompt="it moves"))
    links = {
        str(stored.video): VideoLinks("https://s3.example/p?s=1&x=%2F", "https://s3.example/v", "https://s3.example/m")
    }
    about = RunPageInfo(
        images="s3://b-1/images/",
        report=ABOUT.report,
        rows=ABOUT.rows,
        links_until=datetime(2026, 11, 22, 9, 5, tzinfo=UTC),
    )
    text = run_page(Report(items=(stored,)), about, links)
    html = shown(text)
    assert html.targets == ["https://s3.example/v", "https://s3.example/p?s=1&x=%2F", *links[str(stored.video)][1:]]
    assert html.cells[4] == "stored-0.jpg / it moves"
    assert html.cells[5].startswith("stored after 7 s / $0.192 / video\u00a0·\u00a0manifest")
    assert "`s3://b-1/jobs/runs/1.jsonl`" in text
    assert "2026-11-22 09:05 UTC" in text


def test_without_links_the_video_is_named() -> None:
    """Where links are off, its place in the bucket is there to be copied."""
    stored = item(Outcome.STORED)
    cell = shown(run_page(Report(items=(stored,)), RunPageInfo(), {})).cells[-1]
    assert cell.strip() == f"stored after 7 s / $0.00 / {stored.video}"


def test_what_is_odd_is_among_the_sample() -> None:
    """Of many videos those that were flagged are shown, and the others are spread over the run."""
    items = [item(Outcome.STORED, n, reason="replaced" if n == 777 else None) for n in range(1000)]
    sample = sample_videos(Report(items=tuple(items)))
    assert sample[0] is items[777]
    assert len(sample) == MAX_VIDEOS
    assert sample[-1] in items[950:]


def test_each_trouble_says_what_to_type() -> None:
    """By the job's state where that was seen; where it was not, running again is right and pays nothing twice."""
    job = "a" * 64
    told = {
        "unknown": page(item(Outcome.UNKNOWN, job=job, state=JobState.UNKNOWN)),
        "failed": page(item(Outcome.FAILED, job=job, state=JobState.FAILED)),
        "not stored": page(item(Outcome.FAILED, job=job, state=JobState.SUBMITTED)),
        "not read": page(item(Outcome.FAILED, job=job)),
        "refused": page(item(Outcome.REFUSED)),
        "open": page(item(Outcome.SUBMITTED, job=job, state=JobState.SUBMITTED)),
        "not tried": page(item(Outcome.NOT_TRIED, job=job, state=JobState.READY)),
    }
    commands = {name: text.split("`")[1] for name, text in told.items()}
    assert commands == {
        "unknown": "i2v jobs resolve aaaaaaaaaaaa --adopt TASKID",
        "failed": "i2v jobs resolve aaaaaaaaaaaa --resubmit",
        "not stored": "i2v reconcile",
        "not read": "i2v run s3://b-1/images/failed-0.jpg",
        "refused": "i2v run s3://b-1/images/refused-0.jpg",
        "open": "i2v reconcile",
        "not tried": "i2v run s3://b-1/images/not_tried-0.jpg",
    }


def test_an_odd_address_is_no_code() -> None:
    """A command that a code span would garble is shown as a text, letter by letter."""
    assert as_code("i2v run 's3://b/a|b`.jpg'") == "i2v run 's3://b/a\\|b\\`.jpg'"
    assert as_link("x", "https://e.example/a b|c)(?s=%2F&t=1") == "[x](https://e.example/a%20b%7Cc%29%28?s=%2F&t=1)"
