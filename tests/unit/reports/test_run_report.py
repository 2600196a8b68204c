"""What a run says of itself: the sentence, the sums and the object of `--json`."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2v.money import money_text
from i2v.reports.run_report import ItemReport, Outcome, Report

PRICE = Decimal("0.192")
COUNTS = ["stored", "cached", "refused", "failed", "unknown", "submitted", "not_tried", "planned"]


def items(outcome: str, count: int = 1, cost: Decimal = PRICE, risk: Decimal = Decimal(0)) -> list[ItemReport]:
    """So many images that ended so."""
    return [
        ItemReport(image=f"s3://b-1/{outcome}{number}.jpg", outcome=Outcome(outcome), cost_usd=cost, at_risk_usd=risk)
        for number in range(count)
    ]


def report(*parts: list[ItemReport], **changes: bool) -> Report:
    """A report of all these."""
    return Report.model_validate({"items": tuple(item for part in parts for item in part), **changes})


ANY_ITEM = st.builds(
    ItemReport,
    image=st.just("s3://b-1/a.jpg"),
    outcome=st.sampled_from(Outcome),
    cost_usd=st.decimals(0, 10, places=3),
    at_risk_usd=st.decimals(0, 10, places=3),
)


def test_the_sentence_is_as_designed() -> None:
    """997 stored, 2 refused by the provider after they were taken, 1 unknown: the design's own example."""
    ended = report(items("stored", 997), items("refused", 2), items("unknown", cost=Decimal(0), risk=PRICE))
    assert ended.summary == "997 stored · 2 refused · 1 unknown · $191.81"


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([], "no images · $0.00"),
        ([items("stored")], "1 stored · $0.192"),
        ([items("stored"), items("cached", 3, Decimal(0))], "1 stored · 3 cached · $0.192"),
        ([items("submitted", 2)], "2 still open · $0.384"),
        ([items("not_tried", 5, Decimal(0)), items("failed")], "1 failed · 5 not tried · $0.192"),
        ([items("planned", 10), items("cached", 1, Decimal(0))], "1 cached · 10 planned · would cost $1.92"),
        ([items("planned", 2, Decimal(0))], "2 planned · would cost $0.00"),
    ],
)
def test_the_sentence_names_what_there_is(parts: list[list[ItemReport]], sentence: str) -> None:
    """Outcomes in a fixed order, none that did not occur, and the money last."""
    assert report(*parts).summary == sentence


def test_json_has_the_designed_keys_in_order() -> None:
    """design.md part 7: scripts rely on exactly these."""
    ended = report(items("stored"), items("unknown", cost=Decimal(0), risk=PRICE)).for_json()
    assert list(ended) == [*COUNTS, "spent_usd", "at_risk_usd", "items"]
    assert list(ended["items"][0]) == ["image", "outcome", "job", "task_id", "video", "cost_usd", "reason"]
    assert (ended["spent_usd"], ended["at_risk_usd"]) == (0.192, 0.192)
    assert json.loads(json.dumps(ended)) == ended


def test_every_outcome_has_a_count_of_its_name() -> None:
    """Nothing that can happen to an image is left out of the counts."""
    assert [outcome.value for outcome in Outcome] == COUNTS


@given(st.lists(ANY_ITEM, max_size=30))
def test_counts_sum_to_the_items_and_money_to_the_cent(found: list[ItemReport]) -> None:
    """Each image is counted once, and sums are exact, whatever the run was."""
    made = Report(items=tuple(found))
    as_json = made.for_json()
    assert sum(as_json[name] for name in COUNTS) == len(as_json["items"]) == len(found)
    assert made.spent_usd + made.planned_usd == sum((item.cost_usd for item in found), Decimal(0))
    assert as_json["spent_usd"] == float(made.spent_usd)
    assert as_json["at_risk_usd"] == float(sum((item.at_risk_usd for item in found), Decimal(0)))


def test_a_thousand_cents_are_ten_dollars() -> None:
    """Sums are decimal: no cent is lost on the way."""
    assert report(items("stored", 1000, Decimal("0.01"))).for_json()["spent_usd"] == 10.0


@pytest.mark.parametrize("outcome", COUNTS)
def test_a_run_fails_by_what_went_wrong(outcome: str) -> None:
    """Failed, unknown, not tried and still open fail a run; refusals are outcomes."""
    assert report(items("stored"), items(outcome)).succeeded == (
        outcome not in {"failed", "unknown", "not_tried", "submitted"}
    )


def test_what_a_callback_will_end_is_no_trouble() -> None:
    """Where callbacks come, a submitted image is a good end of the run; an unknown one is not."""
    assert report(items("submitted"), awaits_callbacks=True).succeeded
    assert not report(items("submitted"), items("unknown"), awaits_callbacks=True).succeeded


def test_nothing_is_valid_where_all_images_were_refused_unread() -> None:
    """Exit 3 is told from exit 0 by this: no image could have been submitted."""
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
def test_money_has_two_digits_and_a_third_where_it_counts(amount: str, text: str) -> None:
    """Below a dollar a tenth of a cent is said; no amount is written with an exponent."""
    assert money_text(Decimal(amount)) == text
