"""Custom columns: further columns of a batch file, and the metadata `i2v-<name>` of an object.

They are text that i2v carries along to records, manifests and reports. They never change a job's key.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import PydanticCustomError

from i2v.errors import Refused
from i2v.inputs.metadata_text import decode_metadata, encode_metadata
from i2v.media.images import is_text
from i2v.urls import is_signed

MAX_COLUMNS, MAX_VALUE_CHARS, MAX_BYTES = 20, 500, 2_000
"""Our own limits; the last is for all names and values together, as S3's limit for an object's metadata."""
METADATA_PREFIX = "i2v-"
ROW_COLUMNS = ("image", "prompt", "mode", "duration", "take")
RESERVED = frozenset(
    {"extra", "prompt_source", "outcome", "video", "sha256", "cost_usd", "possibly_charged_usd", "job", "task_id"}
    | {"reason", "label", "run_id", "model", "seconds", "stem", "key", "folder"}
)
"""Names that mean something else where custom columns are shown."""
ERROR_TYPE = "custom_columns"
_NAME = re.compile(r"[a-z0-9_][a-z0-9_-]{0,39}")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_LOOKS_LIKE = 0.81
"""How similar a name must be to one of `ROW_COLUMNS` to be a typing error, which would buy another video."""
Pairs = tuple[tuple[str, str], ...]


def _parse(given: object) -> Pairs:
    if not isinstance(given, Mapping | tuple):
        raise _error([("extra", 'it is not an object such as {"sku": "A-1"}')])
    pairs = given.items() if isinstance(given, Mapping) else given
    named = [(str(name).strip().lower(), value) for name, value in pairs]
    columns: dict[str, str] = {}
    problems: list[tuple[str, str]] = []
    for name, value in named:
        text = _as_text(value)
        problem = name_problem(name) or _value_problem(text) or ("it is given twice" if name in columns else None)
        if problem:
            problems.append((name[:40], problem))
        elif text:
            columns[name] = text
    if problems or (problems := _size_problems(columns)):
        raise _error(problems)
    return tuple(columns.items())


def _error(problems: Sequence[tuple[str, str]]) -> PydanticCustomError:
    text = "; ".join(f"column {name!r}: {problem}" for name, problem in problems)
    return PydanticCustomError(ERROR_TYPE, "{text}", {"text": text, "problems": problems})


def _as_text(value: object) -> str | None:
    """Return a value as text: numbers and booleans as JSON has them, nothing for null; `None` for anything else."""
    match value:
        case None:
            return ""
        case str():
            return value.strip()
        case bool():
            return str(value).lower()
        case int() | Decimal() | float():
            return str(value)
    return None


@lru_cache(4096)
def name_problem(name: str) -> str | None:
    """Return why a column cannot have this name, `None` if it can."""
    if name in ROW_COLUMNS:
        return "i2v has a column of this name; write it in lower case, or rename it"
    if meant := get_close_matches(name, ROW_COLUMNS, 1, _LOOKS_LIKE):
        return f"it looks like {meant[0]}; correct or rename it"
    if name in RESERVED or name.startswith(METADATA_PREFIX):
        return "this name is reserved; rename it, for example to my_" + name.removeprefix(METADATA_PREFIX)[:20]
    if not _NAME.fullmatch(name):
        return "a name has letters a to z, digits, _ and -, at most 40; rename it"
    return None


def _value_problem(text: str | None) -> str | None:
    if text is None:
        return "a value is a text, a number or a boolean"
    if len(text) > MAX_VALUE_CHARS:
        return f"it has {len(text):,} characters; the limit is {MAX_VALUE_CHARS}"
    if not is_text(text) or _CONTROLS.search(text):
        return "it contains control characters or invalid ones; save it as UTF-8"
    if "://" in text and is_signed(text):
        return "it is a signed URL, which everyone who sees the run could use; leave it out"
    return None


def _size_problems(columns: Mapping[str, str]) -> list[tuple[str, str]]:
    if len(columns) > MAX_COLUMNS:
        return [(list(columns)[MAX_COLUMNS], f"it is one of {len(columns)} custom columns; the limit is {MAX_COLUMNS}")]
    size = sum(len(name) + len(value.encode()) for name, value in columns.items())
    largest = max(columns, key=lambda name: len(columns[name]), default="")
    problem = f"custom columns have at most {MAX_BYTES:,} bytes in all, not {size:,}; shorten it"
    return [(largest, problem)] if size > MAX_BYTES else []


CustomColumns = Annotated[Pairs, BeforeValidator(_parse), PlainSerializer(dict, return_type=dict[str, str])]
"""Names and values; an object in JSON."""


def columns_in_metadata(metadata: Mapping[str, str], label: str) -> Pairs:
    """Return the custom columns in an object's metadata. Raise `Refused` (`metadata_invalid`) if one cannot be used."""
    given = {
        name.lower().removeprefix(METADATA_PREFIX): decode_metadata(value)
        for name, value in metadata.items()
        if name.lower().startswith(METADATA_PREFIX)
    }
    try:
        return _parse(given)
    except PydanticCustomError as error:
        raise Refused(
            f"{label} has metadata x-amz-meta-i2v-… that cannot be used: {error.message()}",
            "Correct the object's metadata, or remove it",
            "metadata_invalid",
        ) from None


def metadata_of_columns(columns: Pairs) -> dict[str, str] | None:
    """Return custom columns as object metadata, or `None` if one is too long for that."""
    encoded = {f"{METADATA_PREFIX}{name}": encode_metadata(value) for name, value in columns}
    values = {name: value for name, value in encoded.items() if value is not None}
    return values if len(values) == len(encoded) else None
