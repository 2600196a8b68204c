"""Logging in a flow's process: send the library's lines to Prefect, and drop Prefect's lines that repeat a state."""

import logging

from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler

from i2v.errors import I2vError
from i2v.logs import protect_logs, use_json_lines
from i2v.settings import Settings


def send_library_logs() -> None:
    """Send the library's logs to Prefect, which attaches them to the current task run."""
    protect_logs()
    _plain_lines_without_terminal()
    log = logging.getLogger("i2v")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, APILogHandler) for handler in log.handlers):
        log.addHandler(APILogHandler())
        logging.getLogger("prefect.task_runs").addFilter(_is_not_redundant)


def _plain_lines_without_terminal() -> None:
    """Without a terminal, replace Prefect's console handler, which spends half of its CPU time on layout."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, PrefectConsoleHandler) and not handler.console.is_terminal:
            plain = logging.StreamHandler(handler.stream)
            plain.setLevel(handler.level)
            plain.setFormatter(handler.formatter)
            plain.filters = handler.filters[:]
            root.removeHandler(handler)
            root.addHandler(plain)


def format_logs(settings: Settings) -> None:
    """Write the logs of this process as JSON lines if I2V_LOG_FORMAT is json."""
    if settings.log_format == "json":
        use_json_lines([logging.getLogger(), logging.getLogger("prefect")])


def _is_not_redundant(record: logging.LogRecord) -> bool:
    """Drop Prefect's lines that repeat a task run's state, with or without traceback; keep those about a retry.

    One line per successful step would be half of a run's log, and costs CPU time on both sides.
    """
    message = record.getMessage()
    if message.startswith("Task run failed with ") and " - Retry " in message:
        return True
    expected = bool(record.exc_info) and isinstance(record.exc_info[1], I2vError)  # type: ignore[index]
    repeats = "Task run failed with state: ", *(() if record.levelno > logging.INFO else ("Finished in state ",))
    is_outcome = message.startswith("Finished in state ") and message.endswith("type=CANCELLED)")  # refused or open
    return not expected and not is_outcome and not message.startswith(repeats)
