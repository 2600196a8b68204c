"""The run report: its summary, its sums and the object of `--json`."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2v.ledger.job import JobState
from i2v.money import money_text
from i2v.reports.run_report import ItemReport, Outcome, Report
from i2v.request import Mode, Request

PRICE = Decimal("0.192")
COUNTS = ["stored", "cached", "refused", "failed", "unknown", "submitted", "not_tried", "planned"]


def items(outcome: str, count: int = 1, cost: Decimal = PRICE, risk: Decimal = Decimal(0)) -> list[ItemReport]:
    """Return this many images with this outcome."""
    return [
        ItemReport(image=f"s3://b-1/{outcome}{number}.jpg", outcome=Outcome(outcome), cost_usd=cost, at_risk_usd=risk)
        for number in range(count)
    ]


def report(*parts: list[ItemReport], **changes: bool) -> Report:
    """Return a report with all these images."""
    return Report.model_validate({"items": tuple(item for part in parts for item in part), **changes})


UNKNOWN = [item.model_copy(update={"possibly_charged_usd": PRICE}) for item in items("unknown", cost=Decimal(0))]
ANY_ITEM = st.builds(
    ItemReport,
    image=st.just("s3://b-1/a.jpg"),
    outcome=st.sampled_from(Outcome),
    cost_usd=st.decimals(0, 10, places=3),
    at_risk_usd=st.decimals(0, 10, places=3),
)


def test_the_summary_has_counts_and_cost() -> None:
    """997 stored, 2 refused by the provider after they were accepted, 1 unknown: the example in the design."""
    ended = report(items("stored", 997), items("refused", 2), items("unknown", cost=Decimal(0), risk=PRICE))
    assert ended.summary == "997 stored · 2 refused · 1 unknown · $191.81"


@pytest.mark.parametrize(
    ("parts", "summary"),
    [
        ([], "no images · $0.00"),
        ([items("stored")], "1 stored · $0.192"),
        ([items("stored"), items("cached", 3, Decimal(0))], "1 stored · 3 cached · $0.192"),
        ([items("stored"), UNKNOWN], "1 stored · 1 unknown · $0.192 charged, $0.192 possibly charged"),
        ([UNKNOWN], "1 unknown · $0.192 possibly charged"),
        ([items("submitted", 2)], "2 submitted · $0.384"),
        ([items("not_tried", 5, Decimal(0)), items("failed")], "1 failed · 5 not tried · $0.192"),
        ([items("planned", 10), items("cached", 1, Decimal(0))], "1 cached · 10 planned · would cost $1.92"),
        ([items("planned", 2, Decimal(0))], "2 planned · would cost $0.00"),
    ],
)
def test_the_summary_lists_only_outcomes_that_occurred(parts: list[list[ItemReport]], summary: str) -> None:
    """Outcomes come in a fixed order, and the cost last."""
    assert report(*parts).summary == summary


def test_json_has_the_documented_keys_in_order() -> None:
    """Scripts rely on exactly these."""
    ended = report(items("stored"), items("unknown", cost=Decimal(0), risk=PRICE)).for_json()
    assert list(ended) == [*COUNTS, "spent_usd", "possibly_charged_usd", "at_risk_usd", "items"]
    keys = ["image", "outcome", "job", "task_id", "video", "cost_usd", "possibly_charged_usd", "reason"]
    keys += ["prompt", "prompt_source", "extra"]
    assert list(ended["items"][0]) == keys
    assert (ended["spent_usd"], ended["at_risk_usd"]) == (0.192, 0.192)
    assert json.loads(json.dumps(ended)) == ended


def test_every_outcome_has_a_count() -> None:
    """The counts cover everything that can happen to an image."""
    assert [outcome.value for outcome in Outcome] == COUNTS


@given(st.lists(ANY_ITEM, max_size=30))
def test_counts_and_sums_add_up(found: list[ItemReport]) -> None:
    """Each image is counted once, and sums are exact."""
    made = Report(items=tuple(found))
    as_json = made.for_json()
    assert sum(as_json[name] for name in COUNTS) == len(as_json["items"]) == len(found)
    assert made.spent_usd + made.planned_usd == sum((item.cost_usd for item in found), Decimal(0))
    assert as_json["spent_usd"] == float(made.spent_usd)
    assert as_json["at_risk_usd"] == float(sum((item.at_risk_usd for item in found), Decimal(0)))


def test_sums_are_decimal() -> None:
    """A thousand cents are exactly ten dollars."""
    assert report(items("stored", 1000, Decimal("0.01"))).for_json()["spent_usd"] == 10.0


@pytest.mark.parametrize("outcome", COUNTS)
def test_failing_outcomes_fail_the_run(outcome: str) -> None:
    """Failed, unknown, not tried and open images fail a run; refused images do not."""
    assert report(items("stored"), items(outcome)).succeeded == (
        outcome not in {"failed", "unknown", "not_tried", "submitted"}
    )


def test_images_awaiting_callbacks_do_not_fail_the_run() -> None:
    """An unknown image still does."""
    assert report(items("submitted"), awaits_callbacks=True).succeeded
    assert not report(items("submitted"), items("unknown"), awaits_callbacks=True).succeeded


def test_nothing_is_valid_if_no_image_passed_validation() -> None:
    """A run without a valid image exits 3, unlike a run whose images are all refused by the provider."""
    wrong = [item.model_copy(update={"valid": False}) for item in items("refused", 2, Decimal(0))]
    assert report(wrong).nothing_valid
    assert not report(wrong, items("refused")).nothing_valid


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0.00"),
        ("0.192", "0.192"),
        ("0.32", "0.32"),
        ("0.3200", "0.32"),
        ("0.1925", "0.192"),
        ("1.92", "1.92"),
        ("191.808", "191.81"),
        ("5", "5.00"),
        ("1000000", "1000000.00"),
    ],
)
def test_money_has_two_decimals_and_a_third_below_a_dollar(amount: str, text: str) -> None:
    """No amount has an exponent."""
    assert money_text(Decimal(amount)) == text


def test_a_partial_run_that_reached_its_limit_is_complete() -> None:
    """What the limit left is counted and alerts nobody; anything else not tried still fails the run."""
    left = [item.model_copy(update={"limit_reached": True}) for item in items("not_tried", 2)]
    run = report(items("stored"), left).model_copy(update={"is_partial": True})
    assert (run.completed, run.succeeded) == (True, False)
    assert "2 not tried (spending limit)" in run.summary
    assert not run.model_copy(update={"is_partial": False}).completed
    mixed = run.model_copy(update={"items": (*run.items, *items("not_tried"))})
    assert ("3 not tried (2 by the spending limit)" in mixed.summary, mixed.completed) == (True, False)


def test_an_item_can_be_read_back_from_the_runs_record() -> None:
    """A batch merges the records of its shards: nothing that its page, sums and exit code need is lost."""
    request = Request(prompt="it moves", mode=Mode.PRO, take=2)
    item = ItemReport(
        image="s3://b-1/images/a.jpg",
        outcome=Outcome.NOT_TRIED,
        job="a" * 64,
        cost_usd=Decimal("0.33"),
        at_risk_usd=Decimal("0.33"),
        seconds=1.5,
        flags=("unverified: cut off",),
        limit_reached=True,
        needs_prompt=True,
        valid=False,
        request=request,
        prompt_source="flag",
        extra={"sku": "A-1"},
        state=JobState.SUBMITTED,
        video_sha256="b" * 64,
    )
    record = json.loads(json.dumps(Report(items=(item,)).for_record()))
    (read,) = (ItemReport.from_record(each) for each in record["items"])
    assert read == item
    assert (read.row, read.for_json()) == (item.row, item.for_json())
