"""S3 URIs: parsing, storing and comparing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from i2v.s3_uri import S3Uri

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


class Model(BaseModel):
    """A model with an S3 URI."""

    at: S3Uri


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("s3://b-1/a.jpg", ("b-1", "a.jpg")),
        ("s3://b-1/", ("b-1", "")),
        ("s3://b-1/a/../b", ("b-1", "a/../b")),
        ("s3://b-1//a", ("b-1", "/a")),
        ("s3://b-1/a?b#c%20d", ("b-1", "a?b#c%20d")),
        ("s3://b-1/two\nlines", ("b-1", "two\nlines")),
        ("s3://my.bucket_1/ä", ("my.bucket_1", "ä")),
    ],
)
def test_a_uri_is_split_into_bucket_and_key(text: str, uri: tuple[str, str]) -> None:
    """A key is neither decoded nor normalized."""
    assert S3Uri.parse(text) == S3Uri(*uri)
    assert str(S3Uri.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s3://",
        "s3://b-1",
        "s3:///a",
        "S3://b-1/a",
        "b-1/a",
        "https://b-1/a",
        "s3://B/a",
        "s3://ab/../x"[:7],
        "s3://-b/a",
    ],
)
def test_an_invalid_uri_is_rejected(text: str) -> None:
    """The message shows the expected form."""
    with pytest.raises(ValueError, match="use s3://bucket/key"):
        S3Uri.parse(text)


@given(KEYS)
def test_any_key_round_trips(key: str) -> None:
    """Parsing is the inverse of printing."""
    uri = S3Uri("b-1", key)
    assert S3Uri.parse(str(uri)) == uri
    assert Model.model_validate_json(Model(at=uri).model_dump_json()).at == uri


def test_a_model_stores_a_uri_as_text() -> None:
    """A URI is a string in JSON, and an invalid one is rejected."""
    assert Model(at=S3Uri("b-1", "a")).model_dump(mode="json") == {"at": "s3://b-1/a"}
    assert Model.model_validate({"at": "s3://b-1/a"}).at == S3Uri("b-1", "a")
    for wrong in ("b-1/a", 7, None, ("b-1", "a")):
        with pytest.raises(ValidationError):
            Model.model_validate({"at": wrong})


def test_a_prefix_is_empty_or_ends_in_a_slash() -> None:
    """Any other key names one object."""
    assert [S3Uri("b-1", key).is_prefix for key in ("", "a/", "a", "a/b")] == [True, True, False, False]


def test_a_prefix_contains_the_keys_below_it() -> None:
    """A prefix contains the keys of its bucket that start with its key."""
    images = S3Uri("b-1", "images/")
    assert images.holds(images / "a.jpg")
    assert images.holds(images)
    assert not images.holds(S3Uri("b-2", "images/a.jpg"))
    assert not images.holds(S3Uri("b-1", "images2/a.jpg"))
    assert S3Uri("b-1", "").holds(images)


def test_a_slash_appends() -> None:
    """A name is appended to a prefix unchanged."""
    assert S3Uri("b-1", "videos/") / "a.jpg/x.mp4" == S3Uri("b-1", "videos/a.jpg/x.mp4")
