"""The spend report sums the ledger and compares it with the provider's balance."""

from __future__ import annotations

from decimal import Decimal

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.generate import Steps, generate, process_order
from i2v.pipeline.submit import submit
from i2v.reports.markdown import as_text
from i2v.reports.spend import sum_groups, sum_spend
from i2v.reports.spend_page import spend_page
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.orders import OpenRun, order_for, put_photo

DOLLAR = as_text("$", 9)


async def test_the_report_adds_up_to_what_was_billed(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Stored, at risk and open add up to what the emulator billed, and the balance fell by exactly that."""
    async with new_run() as run:
        await sum_spend(run.storage, run.settings, days=1, client=run.client)
        await process_order(run, await order_for(run, put_photo(sandbox, "cats/a.jpg", 1)), Steps())
        await process_order(run, await order_for(run, put_photo(sandbox, "cats/b.jpg", 2), duration=10), Steps())
        provider.add_fault(on="submit", kind="lost_answer")
        await submit(run, await order_for(run, put_photo(sandbox, "dogs/c.jpg", 3), mode="pro"))
        provider.set_options(render_seconds=60)
        await submit(run, await order_for(run, put_photo(sandbox, "dogs/d.jpg", 4)))
        report = await sum_spend(run.storage, run.settings, days=1, client=run.client)
    sums = report.totals
    assert (sums.attempts, sums.stored_usd, sums.at_risk_usd, sums.open_usd) == (
        4,
        Decimal("0.512"),
        Decimal("0.33"),
        Decimal("0.192"),
    )
    assert sums.total_usd == provider.billed_usd
    assert (report.balance_fell_usd, report.ledger_since_last_usd, report.differs) == (
        provider.billed_usd,
        provider.billed_usd,
        False,
    )
    assert sum_groups(report.month) == sums
    assert [(risk.usd, risk.state) for risk in report.at_risk] == [(Decimal("0.33"), "unknown")]
    assert {(group.folder, group.mode, group.outcome) for group, _ in report.groups} == {
        ("cats", "standard 6 s", "stored"),
        ("cats", "standard 10 s", "stored"),
        ("dogs", "pro 6 s", "unknown"),
        ("dogs", "standard 6 s", "submitted"),
    }


async def test_charges_missing_from_the_ledger_are_reported(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """The summary says if the balance fell by more than the ledger has."""
    async with new_run() as run:
        await sum_spend(run.storage, run.settings, days=1, client=run.client)
        provider.set_options(balance_usd=Decimal(990))
        report = await sum_spend(run.storage, run.settings, days=1, client=run.client)
    assert report.differs
    assert "balance fell by $10.00, ledger has $0.00" in report.summary


async def test_savings_are_reported(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Cached and attached images count as saved at their price; images that the run paid for do not."""
    for seed, name in enumerate(("cats/a.jpg", "cats/copy.jpg", "dogs/b.jpg")):
        put_photo(sandbox, name, seed=min(seed, 1) if seed != 1 else 0)
    async with new_run(run_id="dies") as run:
        await submit(run, await order_for(run, f"s3://{sandbox.bucket}/images/dogs/b.jpg"))
    for run_id in ("first", "again"):
        async with new_run(run_id=run_id) as run:
            items = await find_items([f"s3://{sandbox.bucket}/images/"], run.storage, run.settings)
            await generate(run, items, RequestOptions.model_validate({"prompt": "a slow zoom"}), Steps())
    async with new_run() as run:
        report = await sum_spend(run.storage, run.settings, days=1, client=run.client)
    saved = {(group.folder, group.outcome): sums for group, sums in report.groups if sums.saved_images}
    assert {kind: (sums.saved_images, sums.saved_usd) for kind, sums in saved.items()} == {
        ("cats", "cached"): (3, Decimal("0.576")),  # the copy in the first run, and both in the second
        ("dogs", "attached"): (1, Decimal("0.192")),
        ("dogs", "cached"): (1, Decimal("0.192")),
    }
    assert (report.totals.total_usd, report.totals.saved_usd) == (provider.billed_usd, Decimal("0.960"))
    assert "$0.96 saved" in report.summary
    assert f"| **Saved**: attached or cached, not charged again | **{DOLLAR}0.96**" in spend_page(report)


async def test_an_empty_ledger_has_a_report(new_run: OpenRun) -> None:
    """Before the first video there is a report with empty sums."""
    async with new_run() as run:
        report = await sum_spend(run.storage, run.settings, days=366, client=run.client)
    assert (report.month, report.at_risk, report.summary) == ([], [], "0 attempts · $0.00 stored · $0.00 at risk")
    assert f"**{DOLLAR}0.00**" in spend_page(report)
