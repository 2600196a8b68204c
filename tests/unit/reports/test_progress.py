"""How far a run is: what is counted, and when it is expected to end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from i2v.reports.live_page import live_page
from i2v.reports.progress import RunProgress
from i2v.reports.run_report import ItemReport, Outcome


def ended(outcome: Outcome, job: str | None = None) -> ItemReport:
    """An image that ended so."""
    return ItemReport(image="s3://b-1/a.jpg", outcome=outcome, job=job)


def tally_of(images: int) -> RunProgress:
    """Of so many images one is stored, one refused, one renders and one is stored just now."""
    tally = RunProgress()
    tally.counted(images)
    for job in "abc":
        tally.step("rendering", job)
    tally.ended(ended(Outcome.STORED, "a"))
    tally.ended(ended(Outcome.REFUSED))
    tally.step("storing", "c")
    return tally


def test_each_image_is_counted_once() -> None:
    """What renders, is stored or has ended is not waiting, and a job that ended is at no step."""
    tally = tally_of(6)
    assert tally.counts == {"waiting": 2, "rendering": 1, "storing": 1, "stored": 1, "refused": 1}
    assert sum(tally.counts.values()) == 6
    assert tally.words(Decimal("0.384")) == "2 waiting · 1 rendering · 1 storing · 1 stored · 1 refused · $0.384"
    assert round(tally.percent) == 33


def test_a_step_is_new_once() -> None:
    """Being told again that a job renders changes nothing, so nothing is drawn anew and its wait goes on."""
    tally = RunProgress()
    assert [tally.step("rendering", "a"), tally.step("rendering", "a"), tally.step("storing", "a")] == [
        True,
        False,
        True,
    ]


def test_the_end_is_expected_from_the_last_renderings() -> None:
    """What waits takes as long as the slowest of the last, what renders already less; without any nothing is told."""
    now = datetime.now(UTC)
    waiting, rendering = tally_of(6), tally_of(4)
    assert waiting.expected_end([]) is None
    for tally in (waiting, rendering):
        end = tally.expected_end([80, 100])
        assert end
        assert abs(end - now - timedelta(seconds=100)) < timedelta(seconds=5)
    done = RunProgress()
    done.counted(1)
    done.ended(ended(Outcome.STORED))
    assert done.expected_end([100]) < now + timedelta(seconds=5)  # type: ignore[operator]


def test_the_live_page_tells_what_is_asked_of_it() -> None:
    """How many are done and at which step, the money so far, and when it will end."""
    text = live_page(tally_of(6), Decimal("0.384"), [90, 110])
    assert text.startswith("## In progress: 2 of 6 images done\n")
    assert "| waiting | rendering | storing | stored | refused |" in text
    assert "| 2 | 1 | 1 | 1 | 1 |" in text
    assert "\\$0.384 so far" in text
    assert "in 2 min · the last 2 videos rendered in 100 s on average" in text
    assert "no estimate until the first video" in live_page(tally_of(6), Decimal(0), [])
