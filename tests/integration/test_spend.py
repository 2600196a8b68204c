"""The spend report reads the ledger, and the balance has to agree with it."""

from __future__ import annotations

from decimal import Decimal

from i2v.animate import Steps, bring
from i2v.spend import sum_spend
from i2v.submit import submit
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.integration.conftest import OpenRun, order_of, put


async def test_the_report_adds_up_to_what_was_billed(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Stored, at risk and open are all that the emulator billed, and the balance fell by just that."""
    async with new_run() as run:
        await sum_spend(run.storage, run.settings, days=1, client=run.client)
        await bring(run, await order_of(run, put(sandbox, "cats/a.jpg", 1)), Steps())
        await bring(run, await order_of(run, put(sandbox, "cats/b.jpg", 2), duration=10), Steps())
        provider.fault(on="submit", kind="lost_answer")
        await submit(run, await order_of(run, put(sandbox, "dogs/c.jpg", 3), mode="pro"))
        provider.settings(render_seconds=60)
        await submit(run, await order_of(run, put(sandbox, "dogs/d.jpg", 4)))
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
    assert {(group.folder, group.mode, group.outcome) for group, _ in report.groups} == {
        ("cats", "standard 6 s", "stored"),
        ("cats", "standard 10 s", "stored"),
        ("dogs", "pro 6 s", "unknown"),
        ("dogs", "standard 6 s", "submitted"),
    }


async def test_money_that_the_ledger_does_not_know_is_told(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A balance that fell by more than we submitted is said in words."""
    async with new_run() as run:
        await sum_spend(run.storage, run.settings, days=1, client=run.client)
        provider.settings(balance_usd=Decimal(990))
        report = await sum_spend(run.storage, run.settings, days=1, client=run.client)
    assert report.differs
    assert "the balance fell by $10.00, the ledger says $0.00" in report.sentence
