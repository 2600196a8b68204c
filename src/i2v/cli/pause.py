"""`i2v pause` and `i2v resume`: the flag in the ledger that every run reads before it submits."""

import sys

from i2v.cli import options
from i2v.cli.jobs import with_ledger
from i2v.cli.output.console import print_json


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
