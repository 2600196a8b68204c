"""`i2v limits`, `i2v pause` and `i2v resume`: what runs may still spend, and whether they may submit."""

import sys

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


def pause(*, as_json: options.Json = False) -> None:
    """Stop all submits of all runs, until you run `i2v resume`.

    Takes hold within 10 seconds. Submitted videos are still stored.
    """
    _set_paused(True, as_json=as_json)


def resume(*, as_json: options.Json = False) -> None:
    """Allow submits again after `i2v pause`. Images that were not tried need a new run."""
    _set_paused(False, as_json=as_json)


def _set_paused(paused: bool, *, as_json: bool) -> None:
    from i2v.settings import read_settings

    changed = with_ledger(lambda ledger: ledger.info.set_paused(paused))
    if as_json:
        print_json({"paused": paused, "changed": changed})
        return
    state = "paused: no run submits anything" if paused else "resumed: runs may submit"
    sys.stdout.write(f"{read_settings().jobs} {'is' if changed else 'was already'} {state}\n")
