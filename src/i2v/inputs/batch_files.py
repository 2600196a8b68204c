"""A manifest: a `.csv` or `.jsonl` that names images and what is asked for each. Bytes to rows, and faults by line.

Where manifests lie and what their rows mean as images is in `i2v.inputs.sources`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from io import StringIO
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from i2v.errors import UsageError
from i2v.inputs.prompts import AskedDuration, AskedMode, AskedPrompt, AskedTake, RequestOptions
from i2v.media.images import shown
from i2v.request import Mode

SUFFIXES = (".csv", ".jsonl")
MAX_MANIFEST_BYTES = 100_000_000
"""Ours: some hundred thousand images with long prompts."""
FAULTS_SHOWN = 10
_HINT = "Columns are image, prompt, mode (standard, pro), duration (6, 10) and take; only image is required"


class BatchRow(BaseModel):
    """An image and what is asked for it; also taken in the flow's parameter `images`.

    `image` is `s3://bucket/key` or an https URL; in a manifest in S3 also a name relative to the manifest's own place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    image: str = Field(min_length=1, repr=False)
    prompt: AskedPrompt = None
    mode: AskedMode = None
    duration: AskedDuration = None
    take: AskedTake = None

    @model_validator(mode="after")
    def _pro_is_six_seconds(self) -> Self:
        if self.mode is Mode.PRO and self.duration not in (None, 6):
            raise ValueError("pro is always 6 s: leave duration empty, or ask for standard")
        return self

    @property
    def asked(self) -> RequestOptions:
        """What the row says about the request."""
        return RequestOptions(prompt=self.prompt, mode=self.mode, duration=self.duration, take=self.take)


class Faults:
    """What is wrong in one manifest, line by line, so that all of it is told at once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._first: list[str] = []
        self._count = 0

    def add(self, line: int, text: str) -> None:
        """Note a fault; lines are counted from 1."""
        self._count += 1
        if self._count <= FAULTS_SHOWN:
            self._first.append(f"line {line}, {text}")

    def check(self) -> None:
        """Tell what was noted.

        Raises:
            UsageError: something was.
        """
        if self._count:
            more = f"; and {self._count - FAULTS_SHOWN:,} more" if self._count > FAULTS_SHOWN else ""
            raise UsageError(f"Manifest {self.name}: {'; '.join(self._first)}{more}", _HINT)


def read_rows(body: bytes, faults: Faults) -> list[tuple[int, BatchRow]]:
    """The rows of a manifest named `.csv` or `.jsonl`, each with its line. Wrong ones are noted in `faults`, left out.

    Raises:
        UsageError: nothing can be read from it: no UTF-8, no header, wrong columns, broken quotes, no row.
    """
    read = _jsonl_lines if faults.name.lower().endswith(".jsonl") else _csv_lines
    lines = 0
    rows = []
    for lines, (line, fields) in enumerate(read(_text(body, faults.name), faults), 1):  # noqa: B007 - counts them
        if row := _row(line, fields, faults):
            rows.append((line, row))
    if not lines:
        faults.check()
        raise UsageError(f"Manifest {faults.name} names no image", _HINT)
    return rows


def _text(body: bytes, name: str) -> str:
    if not body.strip():
        raise UsageError(f"Manifest {name} is empty", _HINT)
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise UsageError(f"Manifest {name}: line {line} is no UTF-8 text", "Save it as UTF-8") from None


def _csv_lines(text: str, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        _check_header(header, faults.name)
        end = reader.line_num
        for values in reader:
            line, end = end + 1, reader.line_num
            if len(values) > len(header):
                faults.add(line, f"{len(values)} values for {len(header)} columns (a comma in a text needs quotes)")
            elif any(value.strip() for value in values):
                yield line, {name: value for name, value in zip(header, values, strict=False) if value.strip()}
    except csv.Error as error:
        raise UsageError(f"Manifest {faults.name}: line {reader.line_num}: {error}", "See RFC 4180 on quotes") from None


def _check_header(header: list[str], name: str) -> None:
    known = list(BatchRow.model_fields)
    if unknown := [column for column in header if column not in known]:
        shape = " (separated by commas?)" if len(header) == 1 else ""
        raise UsageError(f"Manifest {name}: line 1 has unknown columns {_few(unknown)}{shape}", _HINT)
    if "image" not in header:
        raise UsageError(f"Manifest {name}: line 1 has no column image", _HINT)
    if len(set(header)) < len(header):
        raise UsageError(f"Manifest {name}: line 1 names a column twice", _HINT)


def _few(names: list[str]) -> str:
    return ", ".join(repr(shown(name)[:40]) for name in names[:FAULTS_SHOWN])


def _jsonl_lines(text: str, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.add(number, f"no JSON: {getattr(error, 'msg', None) or type(error).__name__}")
            continue
        if isinstance(fields, dict):
            yield number, fields
        else:
            faults.add(number, 'no JSON object such as {"image": "s3://bucket/key"}')


def _row(line: int, fields: dict[str, Any], faults: Faults) -> BatchRow | None:
    try:
        return BatchRow.model_validate({name: _trimmed(name, value) for name, value in fields.items()})
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            faults.add(line, _fault(fault))
    return None


def _trimmed(name: str, value: object) -> object:
    return value.strip() if isinstance(value, str) and name != "prompt" else value


def _fault(fault: Any) -> str:
    column = fault["loc"][0][:40] if fault["loc"] else "mode"
    match fault["type"]:
        case "missing":
            return f"column {column} is missing"
        case "extra_forbidden":
            return f"column {column!r} is unknown"
        case "value_error":
            return f"column {column}: {fault['msg'].removeprefix('Value error, ')}"
        case _:
            value = "" if column == "image" else f", not {str(fault['input'])[:40]!r}"
            return f"column {column}: {fault['msg']}{value}"
