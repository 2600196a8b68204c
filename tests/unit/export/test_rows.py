"""What the tables say about a job."""

from __future__ import annotations

from decimal import Decimal

import pytest

from i2v.export.focus import cost_row
from i2v.export.rows import AttemptRow, VideoRow, attempt_rows, video_rows
from i2v.export.schemas import COLUMNS
from i2v.ledger.attempt import EndKind
from i2v.ledger.job import JobRecord, JobState
from i2v.ledger.transitions import store
from tests.support.focus_columns import FOCUS_COLUMNS
from tests.support.job_records import (
    BY_STATE,
    CLAIMED_BY_B,
    LATE_TASK,
    NOW,
    PRICE,
    RELEASED,
    VIDEO,
    applied,
    end_task,
    explore,
    task_of,
)
from tests.support.settings import MakeSettings

KINDS = {"Decimal": {"money"}, "String": {"string"}, "Date/Time": {"time"}, "JSON": {"map"}}


def test_the_columns_are_the_fields_of_the_rows() -> None:
    """Each field of a row but its partition's day is a column, in both directions."""
    assert list(COLUMNS["attempts"]) == [name for name in AttemptRow.model_fields if name != "day"]
    assert list(COLUMNS["videos"]) == [name for name in VideoRow.model_fields if name != "day"]


def test_costs_have_the_columns_of_focus(make_settings: MakeSettings) -> None:
    """All mandatory columns of FOCUS 1.2 are there; each other one is FOCUS's too or begins with `x_`."""
    (attempt,) = attempt_rows(BY_STATE[JobState.STORED])
    row, columns = cost_row(attempt, make_settings()), COLUMNS["costs"]
    mandatory = {name for name, column in FOCUS_COLUMNS.items() if column.level == "Mandatory"}

    assert len(mandatory) == 21
    assert mandatory - columns.keys() == set()
    assert {name for name in columns if not name.startswith("x_")} - FOCUS_COLUMNS.keys() == set()
    assert row.keys() == columns.keys()
    for name in columns.keys() & FOCUS_COLUMNS.keys():
        assert columns[name] in KINDS[FOCUS_COLUMNS[name].kind], name
        assert row[name] is not None or FOCUS_COLUMNS[name].may_be_null, name


def test_a_cost_is_its_price_times_its_quantity(make_settings: MakeSettings) -> None:
    """FOCUS asks that unit price times quantity is the cost; a possibly charged video counts in full and says so."""
    (lost,) = attempt_rows(BY_STATE[JobState.UNKNOWN])
    row = cost_row(lost, make_settings(I2V_ACCOUNT_LABEL="team"))

    assert row["ListUnitPrice"] * row["PricingQuantity"] == row["ListCost"] == row["BilledCost"] == PRICE
    assert (row["x_PossiblyCharged"], "possibly charged" in row["ChargeDescription"]) == (PRICE, True)
    assert (row["BillingAccountId"], row["BillingPeriodStart"].day, row["BillingPeriodEnd"].month) == ("team", 1, 12)


def test_every_attempt_has_a_row_with_its_amounts() -> None:
    """Whatever happens to a job, the rows have the same sums as its record."""
    steps = list(explore(max_attempts=2))
    assert len(steps) > 100

    for step in steps:
        rows = list(attempt_rows(step.new))
        assert len(rows) == len(step.new.attempts)
        assert sum((row.cost_usd for row in rows), Decimal(0)) == step.new.cost_usd
        assert all(row.cost_usd == row.stored_usd + row.open_usd + row.at_risk_usd for row in rows), step.new


@pytest.mark.parametrize(
    ("record", "ends"),
    [
        (RELEASED, [EndKind.UNPAID]),
        (CLAIMED_BY_B, [EndKind.LOST, None]),
        (LATE_TASK, [None, None]),
        (end_task(LATE_TASK, "task_a"), [EndKind.FAILED, None]),
    ],
)
def test_an_attempt_has_its_end(record: JobRecord, ends: list[EndKind | None]) -> None:
    """Each attempt has its own end, or none while it is open."""
    assert [row.ended_as for row in attempt_rows(record)] == ends


def test_two_videos_of_one_job_are_two_rows() -> None:
    """The job's own is current; the one beside it is not, and both were paid."""
    both = task_of(LATE_TASK, "B", "task_b")
    both = applied(store(both, "task_a", VIDEO, NOW))
    both = applied(store(both, "task_b", VIDEO, NOW))

    assert [(row.attempt, row.is_current, row.cost_usd) for row in video_rows(both)] == [
        (1, True, PRICE),
        (2, False, PRICE),
    ]


def test_a_forgotten_image_leaves_cost_hash_and_times() -> None:
    """Name, prompt, custom columns and the video's address are gone."""
    stored, forgotten = (next(video_rows(BY_STATE[state])) for state in (JobState.STORED, JobState.FORGOTTEN))

    assert (forgotten.cost_usd, forgotten.stored_at, forgotten.image_sha256) == (
        stored.cost_usd,
        stored.stored_at,
        stored.image_sha256,
    )
    assert (forgotten.prompt, forgotten.video, dict(forgotten.extra)) == ("forgotten", None, {})
    assert "a.jpg" not in forgotten.model_dump_json()
    (attempt,) = attempt_rows(BY_STATE[JobState.FORGOTTEN])
    assert (attempt.outcome, attempt.state) == ("stored", "forgotten")
