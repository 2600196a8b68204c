"""Logging: JSON lines (`I2V_LOG_FORMAT=json`), the context of a line, and quiet HTTP libraries."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime

FIELDS = ("image", "job", "task_id", "flow_run_id", "flow_run_name", "task_run_id", "task_run_name")
"""What a line may be about; Prefect adds its runs."""


def log_context(image: str, job: str | None = None, task_id: str | None = None) -> dict[str, str | None]:
    """The `extra` of a log line that tells of a step of an image."""
    return {"image": image, "job": job, "task_id": task_id}


class JsonLines(logging.Formatter):
    """One object a record: time (UTC), level, logger, message, what it is about, and a traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The object on one line."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: str(value) for name in FIELDS if (value := getattr(record, name, None))},
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def use_json_lines(loggers: Iterable[logging.Logger]) -> None:
    """Let what these loggers write to a stream be JSON."""
    for logger in loggers:
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setFormatter(JsonLines())


def quiet_http_logs() -> None:
    """Let httpx and httpcore log warnings only: at INFO they log every URL whole, at DEBUG every header."""
    for name in ("httpx", "httpcore"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
