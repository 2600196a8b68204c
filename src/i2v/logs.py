"""Logging: JSON lines (`I2V_LOG_FORMAT=json`), the context of a line, and quiet HTTP libraries."""

import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime

FIELDS = ("image", "job", "task_id", "flow_run_id", "flow_run_name", "task_run_id", "task_run_name")
"""The context fields of a line. Prefect adds those of its runs."""


def log_context(image: str, job: str | None = None, task_id: str | None = None) -> dict[str, str | None]:
    """Return the `extra` of a log line about an image."""
    return {"image": image, "job": job, "task_id": task_id}


class JsonLines(logging.Formatter):
    """Format a record as one JSON object: time (UTC), level, logger, message, context and traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object on one line."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: str(value) for name in FIELDS if (value := getattr(record, name, None))},
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def use_json_lines(loggers: Iterable[logging.Logger]) -> None:
    """Make the stream handlers of these loggers write JSON lines."""
    for logger in loggers:
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setFormatter(JsonLines())


def quiet_http_logs() -> None:
    """Let httpx and httpcore log warnings only: at INFO they log URLs with queries, at DEBUG all headers."""
    for name in ("httpx", "httpcore"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
