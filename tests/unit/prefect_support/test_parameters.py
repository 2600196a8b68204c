"""The run form has plain fields, and the flows still accept what code gives them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from i2v.inputs.batch_files import BatchRow
from prefect_support.parameters import Dollars, Images, JobKeys, Text, Time

TYPES: dict[str, Any] = {"images": Images, "text": Text, "dollars": Dollars, "time": Time, "jobs": JobKeys}


@pytest.mark.parametrize("name", TYPES)
def test_a_field_has_one_plain_type(name: str) -> None:
    """A union would be shown as tabs, one of them with the text 'Property is type "None"'."""
    schema = TypeAdapter(TYPES[name]).json_schema()
    assert schema["type"] in {"string", "number", "array"}
    assert "anyOf" not in str(schema)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("s3://b-1/images/", ["s3://b-1/images/"]),
        (["s3://b-1/a.jpg", ""], ["s3://b-1/a.jpg"]),
        ({"image": "s3://b-1/a.jpg", "take": 2}, [BatchRow.model_validate({"image": "s3://b-1/a.jpg", "take": 2})]),
        ([BatchRow(image="s3://b-1/a.jpg")], [BatchRow(image="s3://b-1/a.jpg")]),
        ([], []),
    ],
)
def test_images_may_be_one_or_a_list_of_texts_and_rows(given: object, expected: object) -> None:
    """As before the form had plain types; empty lines of the form are left out."""
    assert TypeAdapter(Images).validate_python(given) == expected


def test_an_empty_field_is_none() -> None:
    """The form sends an empty text for a field that was cleared."""
    assert [TypeAdapter(TYPES[name]).validate_python("") for name in ("text", "dollars", "time")] == [None, None, None]
    assert TypeAdapter(Dollars).validate_python(Decimal("0.1")) == TypeAdapter(Dollars).validate_python("0.1")


def test_an_empty_list_of_jobs_is_not_all_jobs() -> None:
    """Code that found no job to settle must not settle every open one."""
    assert TypeAdapter(JobKeys).validate_python([]) == []
    assert TypeAdapter(JobKeys).validate_python(None) is None


@pytest.mark.parametrize(("name", "value"), [("dollars", -1), ("dollars", "five"), ("images", [5]), ("time", "x")])
def test_a_wrong_value_is_rejected(name: str, value: object) -> None:
    """Before anything else happens."""
    with pytest.raises(ValidationError):
        TypeAdapter(TYPES[name]).validate_python(value)
