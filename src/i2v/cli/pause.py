"""`i2v pause` and `i2v resume`: the flag in the ledger that every run reads before it submits."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from i2v.cli import options

if TYPE_CHECKING:
    from i2v.s3.storage import Storage
    from i2v.settings import Settings


def pause(*, as_json: options.Json = False) -> None:
    """Stop all submits of all runs, on every machine, until `i2v resume`.

    A run submits at most 32 more videos before it stops. Submitted videos are still stored.
    """
    _set_paused(True, as_json=as_json)


def resume(*, as_json: options.Json = False) -> None:
    """Allow submits again after `i2v pause`. Images that were not tried need a new run."""
    _set_paused(False, as_json=as_json)


def _set_paused(paused: bool, *, as_json: bool) -> None:
    from i2v.cli.jobs import with_storage
    from i2v.cli.output.console import print_json

    async def write(storage: Storage, settings: Settings) -> tuple[str, bool]:
        from i2v.ledger.ledger import Ledger

        return str(settings.jobs), await Ledger(storage, settings).set_paused(paused)

    ledger, changed = with_storage(write)
    if as_json:
        print_json({"paused": paused, "changed": changed})
        return
    state = "paused: no run submits anything" if paused else "resumed: runs may submit"
    sys.stdout.write(f"{ledger} {'is' if changed else 'was already'} {state}\n")
