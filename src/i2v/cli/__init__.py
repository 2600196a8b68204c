"""The command `i2v`: what is typed becomes calls into the library, and what they give becomes words and exit codes.

One file a command (`run`, `estimate`, …), registered in `app`. Importing any of them imports nothing heavy, so that
`i2v --help` answers at once: library, flow and Prefect are imported inside the commands.
"""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["end_at_signals", "main"]


def main() -> None:
    """Run the command line and end the process with its exit code."""
    end_at_signals("interrupted: nothing was submitted")
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Prefect's telemetry looks at nothing else, while it is imported
    from i2v.cli.app import app
    from i2v.errors import I2vError

    try:
        app()
    except I2vError as error:
        from i2v.cli.output.report_table import tell

        tell(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # such as `i2v jobs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def end_at_signals(words: str) -> None:
    """From now on Ctrl-C and SIGTERM end the process with these words."""

    def end(number: int, _frame: object) -> None:
        sys.stderr.write(f"\n{words}\n")
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
