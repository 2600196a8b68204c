"""A page of a listing as S3 sends it: all of it is read as it was meant, and what is no page is left to boto3."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote_plus
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2v.s3.listing import Page, S3Entry, by_boto3, read_page
from i2v.s3_uri import S3Uri

BUCKET = "b-1"
SPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
ODD_KEYS = [
    "a//b.jpg",
    "a b+c%20d.jpg",
    "\u00eb.jpg",
    "e\u0301.jpg",
    "two\nlines",
    "<&>'\".jpg",
    "\U0001f600",
    "\x00\x01",
]
KEYS = st.sampled_from(ODD_KEYS) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
ENTRIES = st.builds(
    S3Entry,
    st.builds(S3Uri, st.just(BUCKET), KEYS),
    st.text("0123456789abcdef-", min_size=1, max_size=34),
    st.integers(0, 5 << 40),
    st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)),
)


def contents(entry: S3Entry, *, is_turned: bool = False) -> str:
    """An entry as S3 writes it, with what nobody asked for; `is_turned` in another order."""
    fields = [
        f"<Key>{quote_plus(entry.uri.key)}</Key>",
        f"<LastModified>{entry.last_modified.isoformat(timespec='milliseconds')[:-6]}Z</LastModified>",
        f"<ETag>&quot;{entry.etag}&quot;</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>",
        f"<Size>{entry.size}</Size>",
        "<Owner><ID>1</ID><DisplayName/></Owner><StorageClass>STANDARD</StorageClass>",
    ]
    return f"<Contents>{''.join(reversed(fields) if is_turned else fields)}</Contents>"


def xml(inside: str, *, more: str = "", space: str = SPACE, encoding: str = "url") -> bytes:
    """A whole page."""
    token = f"<NextContinuationToken>{escape(more)}</NextContinuationToken>" if more else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult{space}><Name>{BUCKET}</Name><Prefix/>'
        f"<EncodingType>{encoding}</EncodingType><IsTruncated>{str(bool(more)).lower()}</IsTruncated>"
        f"{inside}{token}</ListBucketResult>"
    ).encode()


@given(st.lists(ENTRIES, max_size=5), st.text("ab1/+=&<", max_size=8), st.sampled_from([SPACE, ""]), st.booleans())
def test_a_page_is_read_as_it_was_meant(entries: list[S3Entry], more: str, space: str, is_turned: bool) -> None:
    """Any keys, in S3's order, with etags, sizes and times, and the token for the next page, whatever else it tells."""
    inside = "".join(contents(entry, is_turned=is_turned) for entry in entries)
    assert read_page(BUCKET, xml(inside, more=more, space=space)) == Page(entries, more)


def test_a_key_that_is_not_encoded_is_not_decoded() -> None:
    """A server that does not know how to encode keys says so, and its percent signs are its own."""
    entry = S3Entry(S3Uri(BUCKET, "a+b%20c.jpg"), "1", 1, datetime(2026, 1, 1, tzinfo=UTC))
    inside = contents(entry).replace(quote_plus(entry.uri.key), entry.uri.key)
    assert read_page(BUCKET, xml(inside, encoding="")) == Page([entry])


ENTRY = contents(S3Entry(S3Uri(BUCKET, "a.jpg"), "1", 1, datetime(2026, 1, 1, tzinfo=UTC)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"<html><body>Sign in</body></html>",
        b"<Error><Code>InternalError</Code></Error>",
        xml(ENTRY)[:-30],
        xml(ENTRY).replace(b"<Key>a.jpg</Key>", b""),
        xml(ENTRY).replace(b"2026-01-01T", b"yesterday"),
        xml(ENTRY).replace(b"<Size>1<", b"<Size><"),
        xml(ENTRY).replace(b"<Contents>", b'<Contents xmlns="urn:other">'),
        xml(ENTRY).replace(b"<IsTruncated>false</IsTruncated>", b""),
        xml(ENTRY, more="1").replace(b"NextContinuationToken>", b"Other>"),
    ],
)
def test_what_is_no_page_is_left_to_boto3(body: bytes) -> None:
    """An error in a 200, a portal's page, half an answer: none is taken for a listing that ends here."""
    assert read_page(BUCKET, body) is None


@pytest.mark.parametrize("more", ["", "token"])
def test_a_page_that_boto3_has_read_is_the_same(more: str) -> None:
    """Who reads listings does not see by whom they were asked for."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    answer = {"Contents": [{"Key": "a b.jpg", "ETag": '"1"', "Size": 2, "LastModified": at}], "IsTruncated": bool(more)}
    page = by_boto3(BUCKET, answer | ({"NextContinuationToken": more} if more else {}))
    assert page == Page([S3Entry(S3Uri(BUCKET, "a b.jpg"), "1", 2, at)], more)
