"""Logging: records without secrets and control characters, JSON lines (`I2V_LOG_FORMAT=json`), context of a line."""

import json
import logging
import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from urllib.parse import urlsplit

from i2v.urls import SIGNED_PARAMETERS, hide_signatures

FIELDS = ("image", "job", "task_id", "flow_run_id", "flow_run_name", "task_run_id", "task_run_name")
"""The context fields of a line. Prefect adds those of its runs."""
HTTP_LIBRARIES = ("botocore", "boto3", "s3transfer", "urllib3", "httpx", "httpcore", "h11")
"""Below WARNING they log requests and answers with headers, signatures and credentials."""
HIDDEN = "(hidden: requests contain secrets)"
OUR_LOGGERS = ("i2v", "doors", "tasks", "flows", "prefect_support")
MIN_SECRET_CHARS = 8
"""Shorter values of secret variables, as in tests, are also parts of other words."""

_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_CONTROLS_AND_LINES = re.compile(_CONTROLS.pattern[:-1] + "\t\n]")
_USER_INFO = re.compile(r"(\w://)[^\s/'\"<>]*@")
_PARAMETER = re.compile(rf"(?<![A-Za-z])(?:{SIGNED_PARAMETERS})[\w.%-]*=[^&\s'\"<>,;)]+", re.IGNORECASE)
_HEADER = re.compile(r"((?:authorization|x-amz-security-token)['\"]?\s*[:,]\s*b?['\"]?)[^'\"\n]+", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|AUTH_STRING|OTLP_(\w+_)?HEADERS)$")


def log_context(image: str, job: str | None = None, task_id: str | None = None) -> dict[str, str | None]:
    """Return the `extra` of a log line about an image."""
    return {"image": image, "job": job, "task_id": task_id}


def escape_controls(text: str) -> str:
    """Return the text with control characters as escapes, except tabs and line breaks."""
    return _CONTROLS.sub(_escape, text)


def without_controls(text: str) -> str:
    """Return the text without control characters, except tabs and line breaks; it is as wide on a terminal."""
    return _CONTROLS.sub("", text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def to_json(value: object) -> str:
    """Return JSON on one line, readable in any language and without control characters."""
    text = json.dumps(value, ensure_ascii=False)
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


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
            **_trace_fields(),
        }
        if record.exc_info:
            fields["traceback"] = record.exc_text or self.formatException(record.exc_info)
        return to_json(fields)


def _trace_fields() -> dict[str, str]:
    """Return the ids of the current span, which handlers run in; empty outside of one."""
    from opentelemetry import trace  # noqa: PLC0415 - only JSON lines need it, and it takes 40 ms to import

    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}


def use_json_lines(loggers: Iterable[logging.Logger]) -> None:
    """Make the stream handlers of these loggers write JSON lines."""
    for logger in loggers:
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setFormatter(JsonLines())


def protect_logs() -> None:
    """Keep secrets and control characters out of all log records of this process, whatever handlers and levels are set.

    Call it as early as possible, and as often as you like.
    """
    for name in list(logging.root.manager.loggerDict) + list(HTTP_LIBRARIES):
        if name.partition(".")[0] in HTTP_LIBRARIES:
            logger = logging.getLogger(name)
            logger.setLevel(max(logger.level, logging.WARNING))
    if not isinstance(logging.getLogRecordFactory(), SafeRecords):
        logging.setLogRecordFactory(SafeRecords(logging.getLogRecordFactory()))


class SafeRecords:
    """A factory of log records that can be shown: handlers and levels that others configure cannot get around it."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make
        self._secrets = _secrets_in_environment()

    def __call__(self, *args: object, **options: object) -> logging.LogRecord:
        """Return a record without secrets and control characters."""
        record = self._make(*args, **options)
        top = record.name.partition(".")[0]
        if top in HTTP_LIBRARIES and record.levelno < logging.WARNING:
            record.msg, record.args, record.exc_info = HIDDEN, (), None
            return record
        if top in OUR_LOGGERS and isinstance(record.args, tuple):
            record.args = tuple(map(_on_one_line, record.args))
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - `logging` reports wrong arguments itself
            return record
        if (clean := self.clean(message)) != message:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[1]:
            text = logging.Formatter().formatException(record.exc_info)
            record.exc_text = self.clean(text)
        return record

    def clean(self, text: str) -> str:
        """Return the text without known secrets, user info and signatures of URLs, and control characters."""
        for secret in self._secrets:
            text = text.replace(secret, "…")
        text = _USER_INFO.sub(r"\1…@", text)
        text = _PARAMETER.sub("…", text) if "=" in text else text
        return escape_controls(hide_signatures(_HEADER.sub(r"\1…", text)))


def _on_one_line(value: object) -> object:
    """Return a text argument, such as a key or an error that names one, without line breaks; others unchanged."""
    if isinstance(value, int | float):
        return value
    text = str(value)
    return _CONTROLS_AND_LINES.sub(_escape, text) if _CONTROLS_AND_LINES.search(text) else value


def _secrets_in_environment() -> set[str]:
    values = {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)}
    values |= {part for value in values for part in value.split(",")}  # several callback secrets
    for name in ("AWS_ENDPOINT_URL", "PREFECT_API_URL"):
        values.add(urlsplit(os.environ.get(name, "")).password or "")
    return {value.strip() for value in values if len(value.strip()) >= MIN_SECRET_CHARS}
