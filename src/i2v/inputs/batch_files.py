"""Parse a batch file: a `.csv` or `.jsonl` that lists images with their prompts. Errors are reported by line.

`i2v.inputs.sources` reads the file and resolves its rows to images.
"""

import csv
import json
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from i2v.errors import UsageError
from i2v.inputs.prompts import RequestOptions
from i2v.request import Mode
from i2v.urls import redact_url

SUFFIXES = (".csv", ".jsonl")
MAX_BATCH_FILE_BYTES = 100_000_000
"""Our own limit: enough for several hundred thousand images."""
ERRORS_SHOWN = 10
T = TypeVar("T")
_HINT = "Columns are image, prompt, mode (standard, pro), duration (6, 10) and take; only image is required"


class BatchRow(RequestOptions):
    """One image and its request options. The flow's parameter `images` accepts it too.

    `image` is `s3://bucket/key` or an https URL; in a batch file it may also be a name relative to that file.
    """

    image: str = Field(min_length=1, repr=False)

    @model_validator(mode="after")
    def _pro_is_six_seconds(self) -> Self:
        if self.mode is Mode.PRO and self.duration not in (None, 6):
            raise ValueError("pro is always 6 s: leave duration empty, or use standard")
        return self

    @property
    def options(self) -> RequestOptions:
        """Return the row without its image."""
        return RequestOptions(**self.model_dump(exclude={"image"}))


class BatchFile:
    """The content of a batch file. The suffix of `name` says how to parse it."""

    def __init__(self, name: str, body: bytes) -> None:
        self.name = name
        self.body = body
        self._errors: list[str] = []

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a local batch file, or raise `UsageError` if that fails."""
        try:
            with path.open("rb") as file:
                return cls(str(path), file.read(MAX_BATCH_FILE_BYTES + 1))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "invalid path"
            raise UsageError(f"Cannot read batch file {path}: {why}", "Check its path and permissions") from None

    def resolve_rows(self, resolve: Callable[[BatchRow], T]) -> list[T]:
        """Return the result of `resolve` for each row.

        Raise one `UsageError` that names every wrong line, including those for which `resolve` raises `UsageError`.
        """
        resolved = []
        for line, fields in self._jsonl_lines() if self.name.lower().endswith(".jsonl") else self._csv_lines():
            try:
                if row := self._row(line, fields):
                    resolved.append(resolve(row))
            except UsageError as error:
                self._add(line, f"column image: {error.message}")
        if self._errors:
            hidden = len(self._errors) - ERRORS_SHOWN
            more = f"; and {hidden:,} more" if hidden > 0 else ""
            raise self._error(f": {'; '.join(self._errors[:ERRORS_SHOWN])}{more}")
        if not resolved:
            raise self._error(" lists no images")
        return resolved

    def _add(self, line: int, text: str) -> None:
        self._errors.append(f"line {line}, {text}")

    def _error(self, text: str, hint: str = _HINT) -> UsageError:
        return UsageError(f"Batch file {self.name}{text}", hint)

    def _text(self) -> str:
        if len(self.body) > MAX_BATCH_FILE_BYTES:
            raise self._error(f" is larger than {MAX_BATCH_FILE_BYTES // 1_000_000} MB", "Split it")
        if not self.body.strip():
            raise self._error(" is empty")
        try:
            return self.body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = self.body.count(b"\n", 0, error.start) + 1
            raise self._error(f": line {line} is not UTF-8", "Save it as UTF-8") from None

    def _csv_lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        reader = csv.reader(StringIO(self._text(), newline=""), strict=True)
        try:
            header = [name.strip().lower() for name in next(reader, [])]
            self._check_header(header)
            end = reader.line_num
            for values in reader:
                line, end = end + 1, reader.line_num
                if len(values) > len(header):
                    self._add(line, f"{len(values)} values for {len(header)} columns (quote a value that has a comma)")
                elif any(value.strip() for value in values):
                    yield line, {name: value for name, value in zip(header, values, strict=False) if value.strip()}
        except csv.Error as error:
            raise self._error(f": line {reader.line_num}: {error}", "Quote values as RFC 4180 describes") from None

    def _check_header(self, header: list[str]) -> None:
        if unknown := [column for column in header if column not in BatchRow.model_fields]:
            names = ", ".join(repr(redact_url(column)[:40]) for column in unknown[:ERRORS_SHOWN])
            comma = " (separated by commas?)" if len(header) == 1 else ""
            raise self._error(f": line 1 has unknown columns {names}{comma}")
        if "image" not in header:
            raise self._error(": line 1 has no column image")
        if len(set(header)) < len(header):
            raise self._error(": line 1 has a duplicate column")

    def _jsonl_lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(self._text().split("\n"), 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:
                self._add(number, f"not JSON: {getattr(error, 'msg', None) or type(error).__name__}")
                continue
            if isinstance(fields, dict):
                yield number, fields
            else:
                self._add(number, 'not a JSON object such as {"image": "s3://bucket/key"}')

    def _row(self, line: int, fields: dict[str, Any]) -> BatchRow | None:
        trimmed = {name: value.strip() for name, value in fields.items() if isinstance(value, str) and name != "prompt"}
        try:
            return BatchRow.model_validate(fields | trimmed)
        except ValidationError as error:
            for one in error.errors(include_url=False):
                self._add(line, _describe(one))
        return None


def _describe(error: Any) -> str:
    column = error["loc"][0][:40] if error["loc"] else "mode"
    match error["type"]:
        case "missing":
            return f"column {column} is missing"
        case "extra_forbidden":
            return f"column {column!r} is unknown"
        case "value_error":
            return f"column {column}: {error['msg'].removeprefix('Value error, ')}"
        case _:
            value = "" if column == "image" else f", not {str(error['input'])[:40]!r}"
            return f"column {column}: {error['msg']}{value}"
