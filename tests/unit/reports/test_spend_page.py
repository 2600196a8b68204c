"""The spend page and its chart: sums that add up, names that stay texts, and a limited size."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from i2v.ledger.job import JobState
from i2v.reports.limit_usage import LimitUsage
from i2v.reports.markdown import as_text
from i2v.reports.spend import AtRisk, Group, Groups, SpendReport, Sums, month_days, sum_groups
from i2v.reports.spend_chart import draw_spend
from i2v.reports.spend_page import spend_page
from i2v.spending_limits import Limit

DOLLAR = as_text("$", 9)
MARKDOWN = MarkdownIt("commonmark").enable("table")
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
TODAY, YESTERDAY = "2026-11-26", "2026-11-25"
HOSTILE = (
    "$\\frac{1$",
    "_url/host",
    "猫と犬",
    "a|b`c",
    "<script>alert(1)</script>",
    "![x](http://evil.example/x)",
    "n" * 300,
)


def row(day: str = TODAY, folder: str = "cats", **sums: str | int) -> tuple[Group, Sums]:
    """Return the sums of one folder on one day."""
    return Group(day, "standard 6 s", folder, "", "stored"), Sums.model_validate({"attempts": 1, **sums})


def report_of(month: Groups, **changes: object) -> SpendReport:
    """Return the report at noon."""
    today = [each for each in month if each[0].day == TODAY]
    fields = {"since": NOON - timedelta(days=1), "until": NOON, "groups": today, "month": month, **changes}
    return SpendReport.model_validate(fields)


def line(page: str, start: str) -> list[str]:
    """Return the cells of the first table row with this start, without dollar signs."""
    [*_, found] = [each for each in page.splitlines()[::-1] if each.startswith(f"| {start}")]
    return [cell.strip(" *\\$").replace(DOLLAR, "") for cell in found.strip("|").split("|")][1:]


def test_the_page_shows_what_limits_have_left() -> None:
    """With whose they are, and a limited number of them."""
    names = [f"I2V_LIMITS (label 'team {number}', month)" for number in range(30)]
    limits = [LimitUsage(Limit("a", "month", Decimal(20), name), Decimal(15 + n)) for n, name in enumerate(names)]
    page = spend_page(report_of([row(stored_usd="0.192")], limits=limits))
    assert line(page, as_text("I2V_LIMITS (label 'team 7', month)", 80))[:3] == ["22.00", "20.00", "0.00"]
    assert "team 19" in page
    assert "team 20" not in page
    assert "… and 10 more" in page
    assert "### Limits" not in spend_page(report_of([row(stored_usd="0.192")]))


def colours(picture: bytes) -> int:
    """Decode a PNG and return how many colors it has."""
    with Image.open(io.BytesIO(picture), formats=("PNG",)) as image:
        image.load()
        return len(image.convert("RGB").getcolors(1 << 24) or [])


def test_the_page_has_the_sums() -> None:
    """Today, yesterday and the month have what was charged, is at risk and was saved, and the parts add up."""
    month = [
        row(stored_usd="0.192"),
        row(folder="dogs", at_risk_usd="0.33"),
        row(YESTERDAY, open_usd="0.32"),
        row("2026-11-01", attempts=0, saved_usd="1.50", saved_images=7),
    ]
    page = spend_page(report_of(month))
    assert line(page, "**Charged") == ["0.522", "0.32", "0.522", "0.842"]
    assert line(page, "At risk: ") == ["0.33", "0.00", "0.33", "0.33"]
    assert line(page, "**Saved") == ["0.00", "0.00", "0.00", "1.50"]
    assert line(page, "Images reused") == ["0", "0", "0", "7"]
    assert (line(page, "cats"), line(page, "dogs")) == (
        ["2", "0.512", "0.00", "1.50"],
        ["1", "0.33", "0.33", "0.00"],
    )
    assert line(page, TODAY) == ["2", "0.522", "0.33", "0.00"]
    assert str(sum_groups(month).total_usd) == "0.842"


@pytest.mark.parametrize(
    ("balance", "text"),
    [
        ({}, "did not return its balance"),
        ({"balance_usd": "9.81"}, "balance is $9.81.\n"),
        (
            {"balance_usd": "9.81", "balance_fell_usd": "0.192", "ledger_since_last_usd": "0.192"},
            "fell by $0.192; the ledger has $0.192. They agree.",
        ),
        (
            {"balance_usd": "9.81", "balance_fell_usd": "-5", "ledger_since_last_usd": "0.192"},
            "fell by -$5.00; the ledger has $0.192. **They differ.**",
        ),
    ],
)
def test_the_page_compares_the_balance(balance: dict[str, str], text: str) -> None:
    """It says whether the balance agrees, also after a top-up or without an answer."""
    assert text.replace("$", DOLLAR) in spend_page(report_of([], **balance))


def test_without_a_link_the_chart_is_mermaid() -> None:
    """Prefect's UI draws the same thirty days; if nothing was charged there is no chart."""
    chart = spend_page(report_of([row(stored_usd="1.25")]))
    [bars] = re.findall(r"bar \[(.*)\]", chart)
    assert (bars.count(",") + 1, bars.split(", ")[-1], chart.count("```")) == (30, "1.25", 2)
    assert "xychart" not in spend_page(
        report_of(
            [row(stored_usd="1.25")],
        ),
        "https://s3.example/a.png?X=1",
    )
    assert '<img src="https://s3.example/a.png?X=1"' in spend_page(report_of([]), "https://s3.example/a.png?X=1")
    assert "xychart" not in spend_page(report_of([]))


def test_names_of_others_stay_texts() -> None:
    """A folder, label or image that looks like markdown, HTML or a formula is shown literally."""
    risk = AtRisk(NOON, "ab" * 32, HOSTILE[5], JobState.UNKNOWN, Decimal("0.33"))
    month = [row(folder=name, stored_usd="0.192") for name in HOSTILE]
    page = spend_page(report_of(month, at_risk=[risk]))
    html = MARKDOWN.render(page)
    assert [html.count(tag) for tag in ("<script", "<img", "<a ", "<code")] == [0, 0, 0, 2]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert html.count("<tr>") == page.count("\n| ") - page.count("| --- |\n")
    assert "`i2v jobs show abababababab`" in page
    assert colours(draw_spend(month, month_days(NOON))) > 20


def test_a_large_ledger_has_a_small_page() -> None:
    """Any number of folders fits in one page, and the sums include them all."""
    month = [row(day, f"f{n}", stored_usd="10") for day in month_days(NOON) for n in range(200)]
    page = spend_page(report_of(month))
    assert len(page.encode()) < 20_000
    assert line(page, "188 others")[:2] == ["5,640", "56400.00"]


def _amounts(values: Iterable[str]) -> Groups:
    return [row(day, stored_usd=value) for day, value in zip(month_days(NOON), values, strict=False)]


@pytest.mark.parametrize(
    "month",
    [[], _amounts(["1000000000"] * 30), [row(saved_usd="5", saved_images=1)]],
    ids=["empty", "huge", "saved alone"],
)
def test_a_chart_is_drawn_for_any_month(month: Groups) -> None:
    """Without spend, with huge amounts or with savings only, it is a valid PNG that is not blank."""
    picture = draw_spend(month, month_days(NOON))
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size == (880, 1210)
    assert colours(picture) > 8
    assert len(picture) < 150_000


def test_more_spend_is_more_color() -> None:
    """Twice the days have twice the colored area, and the part at risk is stacked on top."""

    def ink(month: Groups) -> dict[object, int]:
        with Image.open(io.BytesIO(draw_spend(month, month_days(NOON)))) as image:
            found = image.convert("RGB").crop((0, 0, 880, 300)).getcolors(1 << 24) or []
        return {colour: count for count, colour in found}

    green, red = (47, 158, 110), (201, 58, 47)
    few, many = (ink(_amounts(["1"] * days))[green] for days in (10, 20))
    assert 1.7 < many / few < 2.3
    both = ink([row(day, stored_usd="1", at_risk_usd="1") for day in month_days(NOON)])
    assert 0.8 < both[green] / both[red] < 1.25
