"""Parse a batch file: a `.csv` or `.jsonl` that lists images with their prompts. Errors are reported by line.

`i2v.inputs.sources` reads the file and resolves its rows to images.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from i2v.errors import ROWS_SHOWN, BadRow, BadRows, UsageError, shown_rows
from i2v.inputs import custom_columns
from i2v.inputs.prompts import RequestOptions
from i2v.request import Mode
from i2v.urls import redact_url

SUFFIXES = (".csv", ".jsonl")
MAX_BATCH_FILE_BYTES = 100_000_000
"""Our own limit: enough for several hundred thousand images."""
T = TypeVar("T")
_HINT = (
    "Columns are image, prompt, mode (standard, pro), duration (6, 10), take, and your own such as sku; only image is "
    "required"
)
_SKIP_HINT = "Nothing was charged. Correct them (--json lists all), or go on without them: --skip-bad-rows"


class BatchRow(RequestOptions):
    """One image and its request options. The flow's parameter `images` accepts it too.

    `image` is `s3://bucket/key` or an https URL; in a batch file it may also be a name relative to that file. Fields
    that it does not have become custom columns.
    """

    image: str = Field(min_length=1, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _collect_custom_columns(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or cls.model_fields.keys() >= data.keys():
            return data
        extra, custom = data.get("extra") or {}, {name: data[name] for name in data if name not in cls.model_fields}
        known = {name: data[name] for name in data if name in cls.model_fields}
        return {**known, "extra": {**extra, **custom} if isinstance(extra, Mapping) else extra}

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
        self.bad_rows: list[BadRow] = []
        """What `resolve_rows` found wrong."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a local batch file, or raise `UsageError` if that fails."""
        try:
            with path.open("rb") as file:
                return cls(str(path), file.read(MAX_BATCH_FILE_BYTES + 1))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "invalid path"
            raise UsageError(f"Cannot read batch file {path}: {why}", "Check its path and permissions") from None

    def resolve_rows(self, resolve: Callable[[BatchRow], T], *, skip_bad_rows: bool = False) -> list[T]:
        """Return the result of `resolve` for each row.

        Raise one `BadRows` that names every wrong line, including those for which `resolve` raises `UsageError`; with
        `skip_bad_rows`, only if no row is left.
        """
        resolved = []
        for line, fields in self._jsonl_lines() if self.name.lower().endswith(".jsonl") else self._csv_lines():
            try:
                if row := self._row(line, fields):
                    resolved.append(resolve(row))
            except UsageError as error:
                self._add(line, error.message, "image")
        if self.bad_rows and not (skip_bad_rows and resolved):
            message = f"Batch file {self.name}: {shown_rows(self.bad_rows)}"
            raise BadRows(message, f"{_SKIP_HINT}. {_HINT}", self.bad_rows)
        if not resolved:
            raise self._error(" lists no images")
        return resolved

    def _add(self, line: int, reason: str, column: str = "") -> None:
        self.bad_rows.append(BadRow(self.name, line, column, reason))

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
        custom = [column for column in header if column not in BatchRow.model_fields or column == "extra"]
        if wrong := [(name, why) for name in custom if (why := custom_columns.name_problem(name))]:
            names = "; ".join(f"column {redact_url(name)[:40]!r}: {why}" for name, why in wrong[:ROWS_SHOWN])
            comma = " (separated by commas?)" if len(header) == 1 else ""
            raise self._error(f": line 1, {names}{comma}")
        if "image" not in header:
            raise self._error(": line 1 has no column image")
        if len(set(header)) < len(header):
            raise self._error(": line 1 has a duplicate column")

    def _jsonl_lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(self._text().split("\n"), 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line, parse_float=Decimal)
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
                for column, reason in _problems(one):
                    self._add(line, reason, column)
        return None


def _problems(error: Any) -> Sequence[tuple[str, str]]:
    """Return the columns that an error names, with what is wrong with them."""
    column = error["loc"][0][:40] if error["loc"] else "mode"
    match error["type"]:
        case custom_columns.ERROR_TYPE:
            return list(error["ctx"]["problems"])
        case "missing":
            return [(column, "it is missing")]
        case "value_error":
            return [(column, error["msg"].removeprefix("Value error, "))]
        case _:
            value = "" if column == "image" else f", not {str(error['input'])[:40]!r}"
            return [(column, f"{error['msg']}{value}")]
