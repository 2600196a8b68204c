"""Ctrl-C and SIGTERM outside a run.

During one: `i2v.cli.run_monitor`, `i2v.cli.prefect.batch_run`, and on workers `prefect_support.sigterm`.
"""

import signal
import sys


def end_at_signals(message: str) -> None:
    """Make Ctrl-C and SIGTERM end the process with this message."""

    def end(number: int, _frame: object) -> None:
        sys.stderr.write(f"\n{message}\n")
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
