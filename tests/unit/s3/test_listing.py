"""Pages of a listing, from boto3's responses."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from i2v.s3.listing import Page, S3Entry, page_from_response
from i2v.s3_uri import S3Uri


@pytest.mark.parametrize("token", ["", "token"])
def test_a_page_is_built_from_a_response(token: str) -> None:
    """Etags lose their quotes, and only a truncated page has a token."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    entry = {"Key": "a b.jpg", "ETag": '"1"', "Size": 2, "LastModified": at}
    response = {"Contents": [entry], "IsTruncated": bool(token)} | ({"NextContinuationToken": token} if token else {})
    assert page_from_response("b-1", response) == Page([S3Entry(S3Uri("b-1", "a b.jpg"), "1", 2, at)], token)


def test_a_page_without_its_end_is_an_error() -> None:
    """A response without `IsTruncated` is an error, not the last page."""
    with pytest.raises(KeyError):
        page_from_response("b-1", {})
