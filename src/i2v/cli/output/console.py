"""The two streams: results on stdout, everything else on stderr; and log lines above a progress bar."""

import logging
import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from i2v.errors import I2vError
from i2v.logs import JsonLines, escape_controls, to_json, without_controls

FILE_COLUMNS = 200
"""The width of a table that is written to a file or a pipe."""
STYLES = {logging.INFO: "dim", logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "bold red"}


class SafeConsole(Console):
    """Prints no control characters, so that no key or prompt steers the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the parts of what is printed."""
        for part in super().render(renderable, options):
            yield part if part.control else Segment(without_controls(part.text), part.style)


def stdout() -> Console:
    """Return the console for results. It prints text literally: a key may contain `[red]` or `:cat:`."""
    is_terminal = sys.stdout.isatty()
    width = None if is_terminal else FILE_COLUMNS
    return SafeConsole(width=width, markup=False, emoji=False, highlight=False, soft_wrap=not is_terminal)


def stderr() -> Console:
    """Return the console for progress, warnings and errors."""
    return SafeConsole(stderr=True, markup=False, emoji=False, highlight=False)


def print_error(error: I2vError) -> None:
    """Print an error and its hint on stderr."""
    text = f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else "")
    sys.stderr.write(escape_controls(text))


def print_json(value: object) -> None:
    """Print one JSON object on one line of stdout."""
    sys.stdout.write(to_json(value) + "\n")
    sys.stdout.flush()


class LogLines(logging.Handler):
    """Log records as lines on a console: warnings and errors, or everything if `verbose`."""

    def __init__(self, console: Console, *, verbose: bool, as_json: bool = False) -> None:
        super().__init__(logging.INFO if verbose else logging.WARNING)
        self._console = console
        self._verbose = verbose
        self.setFormatter(JsonLines() if as_json else logging.Formatter())

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop Prefect's line at the end of each run: the report says the same."""
        return self._verbose or not record.getMessage().startswith("Finished in state")

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line, and the traceback if there is one."""
        line = Text(self.format(record))
        if not isinstance(self.formatter, JsonLines):
            line = Text(f"{record.levelname.lower()}: {line}", style=STYLES.get(record.levelno, "dim"))
        self._console.print(line, soft_wrap=True)


def show_logs(console: Console, *, verbose: bool) -> None:
    """Send all logs of this process to the console, and nowhere else. The settings must be valid."""
    from i2v.settings import read_settings

    lines = LogLines(console, verbose=verbose, as_json=read_settings().log_format == "json")
    logging.basicConfig(handlers=[lines], force=True)
