"""S3 addresses as they are typed, kept and compared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from i2v.s3_uri import S3Uri

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


class Place(BaseModel):
    """A model that keeps an address."""

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
def test_an_address_is_bucket_and_key_as_they_are(text: str, uri: tuple[str, str]) -> None:
    """Nothing in a key is decoded, tidied or cut."""
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
def test_what_is_no_address_is_refused(text: str) -> None:
    """The message shows what was given and what it should look like."""
    with pytest.raises(ValueError, match="looks like s3://bucket/key"):
        S3Uri.parse(text)


@given(KEYS)
def test_any_key_comes_back(key: str) -> None:
    """Parsing is the inverse of printing."""
    uri = S3Uri("b-1", key)
    assert S3Uri.parse(str(uri)) == uri
    assert Place.model_validate_json(Place(at=uri).model_dump_json()).at == uri


def test_a_model_keeps_it_as_text() -> None:
    """Records in the ledger hold readable addresses, and take nothing else for one."""
    assert Place(at=S3Uri("b-1", "a")).model_dump(mode="json") == {"at": "s3://b-1/a"}
    assert Place.model_validate({"at": "s3://b-1/a"}).at == S3Uri("b-1", "a")
    for wrong in ("b-1/a", 7, None, ("b-1", "a")):
        with pytest.raises(ValidationError):
            Place.model_validate({"at": wrong})


def test_a_prefix_is_empty_or_ends_in_a_slash() -> None:
    """Everything else is one object."""
    assert [S3Uri("b-1", key).is_prefix for key in ("", "a/", "a", "a/b")] == [True, True, False, False]


def test_a_prefix_holds_what_lies_under_it() -> None:
    """By its letters, in its bucket; a name that only begins alike lies elsewhere."""
    images = S3Uri("b-1", "images/")
    assert images.holds(images / "a.jpg")
    assert images.holds(images)
    assert not images.holds(S3Uri("b-2", "images/a.jpg"))
    assert not images.holds(S3Uri("b-1", "images2/a.jpg"))
    assert S3Uri("b-1", "").holds(images)


def test_a_slash_appends() -> None:
    """Names are put behind a prefix as they are."""
    assert S3Uri("b-1", "videos/") / "a.jpg/x.mp4" == S3Uri("b-1", "videos/a.jpg/x.mp4")
