"""The two streams: results on stdout, all else on stderr, and log lines that stand above a progress bar."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from i2v.errors import UsageError
from i2v.logs import JsonLines
from i2v.settings import read_settings

if TYPE_CHECKING:
    from logging import LogRecord

WIDE = 200
"""Columns of a table that goes into a file or a pipe."""
STYLES = {logging.INFO: "dim", logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "bold red"}


def stdout() -> Console:
    """For results."""
    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False, soft_wrap=not sys.stdout.isatty())


def stderr() -> Console:
    """For progress, warnings and errors."""
    return Console(stderr=True, highlight=False)


class LogLines(logging.Handler):
    """Log records as plain lines on a console. What the report tells anyway is left out.

    Args:
        console: where to.
        verbose: also what is no warning, and how each step ended.
        as_json: one object a record.
    """

    def __init__(self, console: Console, *, verbose: bool, as_json: bool = False) -> None:
        super().__init__(logging.INFO if verbose else logging.WARNING)
        self._console = console
        self._json = JsonLines() if as_json else None
        self._verbose = verbose

    def filter(self, record: LogRecord) -> bool:
        """Leave out what Prefect says at the end of each task and flow run."""
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
    """Let all logs of this process go to the console, in place of where they went."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(LogLines(console, verbose=verbose, as_json=_wants_json()))


def _wants_json() -> bool:
    try:
        return read_settings().log_format == "json"
    except UsageError:
        return False  # whoever needs the settings says what is wrong with them
