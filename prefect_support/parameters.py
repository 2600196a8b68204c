"""Types of the flows' parameters: plain in the form of Prefect's UI, with the validation behind it.

A union such as `str | None` would become a tab for each type. So the form gets a plain schema, an empty field is
`None`, and the flow itself validates: code may pass dict rows, one image instead of a list, and decimals.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from i2v.inputs.batch_files import BatchRow


def _as_list(value: Any) -> Any:
    """Return one image as a list, without the form's empty lines."""
    entries = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [entry for entry in entries if entry not in ("", None)]


def _none_if_empty(value: Any) -> Any:
    return None if value == "" else value


_EMPTY = BeforeValidator(_none_if_empty)
_TEXTS = {"type": "array", "items": {"type": "string"}}
Images = Annotated[list[str | BatchRow], BeforeValidator(_as_list), WithJsonSchema(_TEXTS)]
Text = Annotated[str | None, _EMPTY, WithJsonSchema({"type": "string"})]
Dollars = Annotated[Decimal | None, Field(ge=0), _EMPTY, WithJsonSchema({"type": "number", "minimum": 0})]
Time = Annotated[datetime | None, _EMPTY, WithJsonSchema({"type": "string", "format": "date-time"})]
JobKeys = Annotated[list[str] | None, WithJsonSchema(_TEXTS)]
"""An empty list selects no jobs: its caller found none."""
