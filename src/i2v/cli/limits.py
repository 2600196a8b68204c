"""`i2v limits`: what the spending limits have left."""

from i2v.cli import options
from i2v.cli.jobs import with_ledger
from i2v.cli.output.console import print_json, stdout


def limits(*, as_json: options.Json = False) -> None:
    """Show what each spending limit has left, and when it resets.

    I2V_DAILY_CAP_USD and I2V_LIMITS set the limits of all runs and of labels.
    """
    from rich.table import Table

    from i2v.money import money_text
    from i2v.reports.limit_usage import read_usage

    usages = with_ledger(lambda ledger: read_usage(ledger.storage, ledger.settings))
    if as_json:
        print_json({"limits": [usage.for_json() for usage in usages]})
        return
    if not usages:
        stdout().print("No spending limit is set. See I2V_DAILY_CAP_USD and I2V_LIMITS in docs/settings.md")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("limit", "spent", "of", "left", "resets (UTC)"):
        table.add_column(name, justify="right" if name in {"spent", "of", "left"} else "left", overflow="fold")
    for usage in usages:
        amounts = (usage.spent_usd, usage.limit.usd, usage.left_usd)
        table.add_row(usage.limit.name, *(f"${money_text(amount)}" for amount in amounts), usage.resets)
    stdout().print(table)
