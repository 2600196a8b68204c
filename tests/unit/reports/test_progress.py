"""The progress of a run: its counts, its expected end and its live page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from i2v.money import ZERO
from i2v.reports.live_page import live_page
from i2v.reports.progress import RunProgress
from i2v.reports.run_report import ItemReport, Outcome
from tests.support.job_records import PRICE, SUBMITTED


def ended(outcome: Outcome, job: str | None = None) -> ItemReport:
    """Return an image with this outcome."""
    return ItemReport(image="s3://b-1/a.jpg", outcome=outcome, job=job, cost_usd=PRICE if job else ZERO)


def make_progress(images: int) -> RunProgress:
    """Return the progress of a run with one image stored, one refused, one rendering and one storing."""
    progress = RunProgress()
    progress.total = images
    for key in "abc":
        progress.submit(SUBMITTED.model_copy(update={"key": key}))
    progress.finish_image(ended(Outcome.STORED, "a"))
    progress.finish_image(ended(Outcome.REFUSED))
    progress.start_step("storing", "c")
    return progress


def test_each_image_is_counted_once() -> None:
    """An image counts as waiting only until its job starts rendering or it has an outcome."""
    progress = make_progress(6)
    assert progress.counts == {"waiting": 2, "rendering": 1, "storing": 1, "stored": 1, "refused": 1}
    assert sum(progress.counts.values()) == 6
    assert progress.words == "2 waiting · 1 rendering · 1 storing · 1 stored · 1 refused · $0.576"
    assert round(progress.percent) == 33


def test_a_repeated_step_is_not_a_change() -> None:
    """Starting a step returns whether it differs from the job's current step."""
    progress = RunProgress()
    assert [progress.start_step(step, "a") for step in ("rendering", "rendering", "storing")] == [True, False, True]


def test_the_slowest_recent_job_sets_the_expected_end() -> None:
    """The run should end when its last job has rendered as long as the slowest one; before the first, None."""
    now = datetime.now(UTC)
    waiting, rendering = make_progress(6), make_progress(4)
    assert waiting.expected_end is None
    for progress in (waiting, rendering):
        progress.render_seconds.extend([80, 100])
        end = progress.expected_end
        assert end
        assert abs(end - now - timedelta(seconds=100)) < timedelta(seconds=5)
    done = RunProgress()
    done.total = 1
    done.render_seconds.append(100)
    done.finish_image(ended(Outcome.STORED))
    assert done.expected_end < now + timedelta(seconds=5)  # type: ignore[operator]


def test_the_live_page_shows_progress_cost_and_estimate() -> None:
    """The live page shows the counts by step, the cost so far and the expected end."""
    progress = make_progress(6)
    progress.render_seconds.extend([90, 110])
    text = live_page(progress)
    assert text.startswith("## Running: 2 of 6 images done\n")
    assert "| waiting | rendering | storing | stored | refused |" in text
    assert "| 2 | 1 | 1 | 1 | 1 |" in text
    assert "\\$0.576 so far" in text
    assert "in 2 min · the last 2 videos rendered in 100 s on average" in text
    assert "no estimate until the first video" in live_page(make_progress(6))
