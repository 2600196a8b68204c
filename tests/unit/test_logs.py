"""JSON log lines: one object each, with image, job and task."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from rich.console import Console

from i2v.cli.output.console import LogLines
from i2v.logs import JsonLines, log_context, use_json_lines

LOG = logging.getLogger("i2v.pipeline.poll")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Return the stream to which `LOG` writes JSON lines."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    LOG.addHandler(handler)
    use_json_lines([LOG])
    yield stream
    LOG.removeHandler(handler)


def test_a_line_is_an_object_with_image_job_and_task(stream: io.StringIO) -> None:
    """A line has time, level, message and context, also if the message has line breaks."""
    LOG.warning("%s:\nrendered", "tom.jpg", extra=log_context("s3://b-1/images/tom.jpg", "a" * 64, "task_1"))
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "warning",
        "logger": "i2v.pipeline.poll",
        "message": "tom.jpg:\nrendered",
        "image": "s3://b-1/images/tom.jpg",
        "job": "a" * 64,
        "task_id": "task_1",
    }


def test_an_exception_has_its_traceback(stream: io.StringIO) -> None:
    """The object has the traceback, and no empty fields."""
    try:
        int("no")
    except ValueError:
        LOG.exception("it broke", extra=log_context("tom.jpg"))
    entry = json.loads(stream.getvalue())
    assert "ValueError: invalid literal" in entry["traceback"]
    assert "job" not in entry


def test_the_command_writes_json_lines() -> None:
    """An object is one line on a narrow console too, and markup in it is not interpreted."""
    stream = io.StringIO()
    record = logging.LogRecord("i2v", logging.WARNING, "", 0, "[red]%s[/]", ("x" * 300,), None)
    LogLines(Console(file=stream, width=40), verbose=False, as_json=True).emit(record)
    assert json.loads(stream.getvalue())["message"] == f"[red]{'x' * 300}[/]"
    assert JsonLines().format(record) == stream.getvalue().strip()
