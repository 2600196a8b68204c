"""Pages of a listing, from boto3's responses."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from i2v.errors import StorageError
from i2v.s3.listing import Page, S3Entry, page_from_response
from i2v.s3_uri import S3Uri


@pytest.mark.parametrize("token", ["", "token"])
def test_a_page_is_built_from_a_response(token: str) -> None:
    """Etags lose their quotes, and only a truncated page has a token."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    entry = {"Key": "a b.jpg", "ETag": '"1"', "Size": 2, "LastModified": at}
    response = {"Contents": [entry], "IsTruncated": bool(token)} | ({"NextContinuationToken": token} if token else {})
    assert page_from_response(S3Uri("b-1", ""), response) == Page([S3Entry(S3Uri("b-1", "a b.jpg"), "1", 2, at)], token)


def test_an_entry_that_lacks_fields_is_kept() -> None:
    """Without an etag its image is looked at by HEAD; without a time it is as new as the page. The others go on."""
    page = {"IsTruncated": False, "ResponseMetadata": {"HTTPHeaders": {"date": "Thu, 26 Nov 2026 10:00:00 GMT"}}}
    entries = page_from_response(S3Uri("b-1", ""), page | {"Contents": [{"Key": "a.jpg"}]}).entries
    assert entries == [S3Entry(S3Uri("b-1", "a.jpg"), "", 0, datetime(2026, 11, 26, 10, tzinfo=UTC))]


def test_a_page_without_its_end_is_an_error() -> None:
    """A response without `IsTruncated` is an error, not the last page."""
    with pytest.raises(StorageError, match="not complete"):
        page_from_response(S3Uri("b-1", ""), {})
