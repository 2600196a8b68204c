"""The two streams: results on stdout, everything else on stderr; and log lines above a progress bar."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from i2v.errors import I2vError, UsageError
from i2v.logs import JsonLines
from i2v.settings import read_settings

if TYPE_CHECKING:
    from logging import LogRecord

FILE_COLUMNS = 200
"""The width of a table that is written to a file or a pipe."""
STYLES = {logging.INFO: "dim", logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "bold red"}


def stdout() -> Console:
    """Return the console for results."""
    is_terminal = sys.stdout.isatty()
    return Console(width=None if is_terminal else FILE_COLUMNS, highlight=False, soft_wrap=not is_terminal)


def stderr() -> Console:
    """Return the console for progress, warnings and errors."""
    return Console(stderr=True, highlight=False)


def print_error(error: I2vError) -> None:
    """Print an error and its hint on stderr."""
    sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))


def print_json(value: object) -> None:
    """Print one JSON object on one line of stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


class LogLines(logging.Handler):
    """Log records as lines on a console: warnings and errors, or everything if `verbose`."""

    def __init__(self, console: Console, *, verbose: bool, as_json: bool = False) -> None:
        super().__init__(logging.INFO if verbose else logging.WARNING)
        self._console = console
        self._json = JsonLines() if as_json else None
        self._verbose = verbose

    def filter(self, record: LogRecord) -> bool:
        """Drop Prefect's line at the end of each run: the report says the same."""
        return self._verbose or not record.getMessage().startswith("Finished in state")

    def emit(self, record: LogRecord) -> None:
        """Print one line."""
        if self._json:
            self._console.print(Text(self._json.format(record)), soft_wrap=True)
            return
        style = STYLES.get(record.levelno, "dim")
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        self._console.print(Text(text, style=style), soft_wrap=True)


def show_logs(console: Console, *, verbose: bool) -> None:
    """Send all logs of this process to the console, and nowhere else."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(LogLines(console, verbose=verbose, as_json=_wants_json()))


def _wants_json() -> bool:
    try:
        return read_settings().log_format == "json"
    except UsageError:
        return False  # the command itself reports invalid settings
