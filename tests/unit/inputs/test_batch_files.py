from __future__ import annotations

import csv
import io
import json
import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from i2v.errors import BadRows, UsageError
from i2v.inputs.batch_files import BatchFile, BatchRow
from i2v.request import Mode

COLUMNS = ("image", "prompt", "mode", "duration", "take")
ROWS = st.lists(
    st.builds(
        BatchRow,
        image=st.from_regex(r"s3://bucket/[\w ,;\"']{0,9}x", fullmatch=True),
        prompt=st.none() | st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        mode=st.sampled_from([None, Mode.STANDARD]),
        duration=st.sampled_from([None, 6, 10]),
        take=st.none() | st.integers(1, 99),
    ),
    min_size=1,
)


def _read(body: bytes, name: str = "m.csv") -> list[BatchRow]:
    return BatchFile(name, body).resolve_rows(lambda row: row)


def _error(body: bytes, name: str = "m.csv") -> str:
    with pytest.raises(UsageError) as caught:
        _read(body, name)
    assert caught.value.message.startswith(f"Batch file {name}")
    assert caught.value.hint
    return caught.value.message


@given(ROWS)
def test_a_csv_round_trips_its_rows(rows: list[BatchRow]) -> None:
    """Commas, quotes, line breaks and any character in a prompt are preserved."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    writer.writerows([row.model_dump(mode="json")[column] for column in COLUMNS] for row in rows)

    assert _read(buffer.getvalue().encode()) == rows


@given(ROWS)
def test_a_jsonl_round_trips_its_rows(rows: list[BatchRow]) -> None:
    """Unicode line separators within a text do not end the line."""
    for escaped in (True, False):
        lines = [json.dumps(row.model_dump(mode="json"), ensure_ascii=escaped) for row in rows]
        assert _read("\n".join(lines).encode(), "m.jsonl") == rows


@pytest.mark.parametrize(
    "body",
    [
        b"image,prompt,mode,duration\na.jpg,walk,pro,6\n",
        b"\xef\xbb\xbfimage,prompt,mode,duration\r\na.jpg,walk,pro,6\r\n",
        b" Duration, MODE ,image,prompt\n 6,pro , a.jpg ,walk",
        b'image,prompt,mode,duration\n\n"a.jpg","walk","pro","6"\n,,,\n\n',
    ],
    ids=["plain", "from Excel", "any order", "blank lines"],
)
def test_a_csv_is_read_leniently(body: bytes) -> None:
    """A byte order mark, blank lines, spaces around values and any order of columns are accepted."""
    assert _read(body) == [BatchRow(image="a.jpg", prompt="walk", mode=Mode.PRO, duration=6)]


def test_a_short_row_sets_only_its_values() -> None:
    """Only the image is required."""
    assert _read(b"image,prompt,take\na.jpg\nb.jpg,walk\n") == [
        BatchRow(image="a.jpg"),
        BatchRow(image="b.jpg", prompt="walk"),
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"image,prompt\n", "lists no images"),
        (b"prompt\nwalk\n", "line 1 has no column image"),
        (b"image,promt,take_\na.jpg,walk,2\n", "line 1, column 'promt': it looks like prompt; correct or rename it"),
        (b"image,promt,take_\na.jpg,walk,2\n", "column 'take_': it looks like take"),
        (b"image,job\na.jpg,1\n", "line 1, column 'job': this name is reserved; rename it, for example to my_job"),
        (b"image,i2v-sku\na.jpg,1\n", "column 'i2v-sku': this name is reserved"),
        (b"image,extra\na.jpg,1\n", "column 'extra': this name is reserved"),
        (b"image,Product ID\na.jpg,1\n", "column 'product id': a name has letters a to z, digits, _ and -"),
        (b"image," + b"x" * 41 + b"\na.jpg,1\n", "at most 40; rename it"),
        (b"image,sku\na.jpg," + b"x" * 501 + b"\n", "line 2, column sku: it has 501 characters; the limit is 500"),
        (b"image,sku\na.jpg,x\0y\n", "line 2, column sku: it contains control characters"),
        (b"image,source\na.jpg,https://b.s3.test/a?X-Amz-Signature=1\n", "line 2, column source: it is a signed URL"),
        (b"s3://bucket/a.jpg\ns3://bucket/b.jpg\n", "line 1, column 's3://bucket/a.jpg': a name has"),
        (b"image;prompt\na.jpg;walk\n", "(separated by commas?)"),
        (b"image,image\na.jpg,b.jpg\n", "line 1 has a duplicate column"),
        ("image,prompt\na.jpg,müde\n".encode("latin-1"), "line 2 is not UTF-8"),
        ("image,prompt\na.jpg,walk\n".encode("utf-16"), "line 1 is not UTF-8"),
        (b'image,prompt\na.jpg,"walk\n', "unexpected end of data"),
        (b"image,prompt\na.jpg,walk, slowly\n", "line 2, 3 values for 2 columns"),
        (b"image,prompt\n,walk\n", "line 2, column image: it is missing"),
        (
            b"image,mode\na.jpg,standard\nb.jpg,fast\n",
            "line 3, column mode: Input should be 'standard' or 'pro', not 'fast'",
        ),
        (b"image,duration\na.jpg,7\n", "line 2, column duration: Input should be 6 or 10, not '7'"),
        (b"image,take\na.jpg,0\n", "line 2, column take: Input should be greater than or equal to 1, not '0'"),
        (b"image,mode,duration\na.jpg,pro,10\n", "line 2, column mode: pro is always 6 s"),
        (b'image,prompt,take\na.jpg,"two\nlines",1\n"b.jpg","two\nmore",x\n', "line 4, column take"),
        (b"image,prompt\na.jpg," + b"x" * 200_000, "field larger than field limit"),
    ],
)
def test_an_invalid_csv_is_reported_by_line_and_column(body: bytes, message: str) -> None:
    """The error names the line and the column."""
    assert message in _error(body)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2, not JSON"),
        (b"a.jpg", "line 2, not JSON"),
        (b'"a.jpg"', "line 2, not a JSON object"),
        (b"[" * 100_000, "line 2, not JSON"),
        (b'{"image": null}', "line 2, column image: Input should be a valid string"),
        (b'{"image": ""}', "line 2, column image: String should have at least 1 character"),
        (b'{"prompt": "walk"}', "line 2, column image: it is missing"),
        (b'{"image": "a.jpg", "prompt": 5}', "line 2, column prompt: Input should be a valid string, not '5'"),
        (b'{"image": "a.jpg", "prompt": "\\ud800"}', "line 2, column prompt"),
        (b'{"image": "a.jpg", "Prompt": "x"}', "line 2, column prompt: i2v has a column of this name"),
        (b'{"image": "a.jpg", "tags": ["x"]}', "line 2, column tags: a value is a text, a number or a boolean"),
        (b'{"image": "a.jpg", "sku": 1, "SKU": 2}', "line 2, column sku: it is given twice"),
        (b'{"image": "a.jpg", "extra": "x"}', "line 2, column extra: it is not an object such as"),
        (b'{"image": "a.jpg", "a": "\\ud800"}', "line 2, column a: it contains control characters or invalid ones"),
        (b'{"image": "a.jpg", "take": ' + b"9" * 5000 + b"}", "line 2, not JSON"),
    ],
)
def test_an_invalid_jsonl_is_reported_by_line_and_column(line: bytes, message: str) -> None:
    """The error names the line, whatever is wrong with it."""
    assert message in _error(b'{"image": "good.jpg"}\n' + line + b"\n", "m.jsonl")


def test_all_errors_are_reported_together_up_to_ten() -> None:
    """The message spells out ten errors and counts the rest."""
    message = _error(b"image,mode\n" + b"a.jpg,fast\n" * 1000)

    assert message.count("column mode") == 10
    assert message.endswith("; and 990 more")


def test_a_row_does_not_show_a_signed_url() -> None:
    """The text of a row and its validation errors leave out the image, which may be a signed URL."""
    row = BatchRow(image="https://example.org/a.jpg?sig=SECRET", prompt="walk")
    with pytest.raises(ValidationError) as caught:
        BatchRow.model_validate({"image": row.image, "mode": "fast"})

    assert "SECRET" not in repr(row) + str(row) + str(caught.value)


def test_a_hundred_thousand_rows_are_read_quickly() -> None:
    """A batch file of a whole archive is parsed in seconds."""
    body = b"image,prompt,mode,duration\n" + b"".join(
        b"s3://bucket/images/%d.jpg,walk,standard,6\n" % number for number in range(100_000)
    )
    started = time.process_time()

    assert len(_read(body)) == 100_000
    assert time.process_time() - started < 10


def test_further_columns_are_carried_as_text() -> None:
    """Their names are in lower case; blank values and null are left out; numbers are written as the file has them."""
    of_csv = _read("image,SKU,campaign,note\na.jpg, 007 ,Frühling,\n".encode())
    of_jsonl = _read(b'{"image": "a.jpg", "SKU": 7, "price": 1.50, "sale": true, "note": null}', "m.jsonl")

    assert [dict(row.extra) for row in of_csv] == [{"sku": "007", "campaign": "Frühling"}]
    assert [dict(row.extra) for row in of_jsonl] == [{"sku": "7", "price": "1.50", "sale": "true"}]


def test_a_row_survives_being_written_as_json() -> None:
    """So that shards and parameters keep its columns."""
    row = BatchRow.model_validate({"image": "a.jpg", "prompt": "walk", "sku": "A-1", "extra": {"campaign": "spring"}})

    assert dict(row.extra) == {"campaign": "spring", "sku": "A-1"}
    assert _read(row.model_dump_json(exclude_none=True).encode(), "m.jsonl") == [row]
    assert BatchRow.model_validate(row.model_dump()) == row
    assert row.options.extra == row.extra


def test_custom_columns_have_a_limit_in_all() -> None:
    """More than 20 columns or 2,000 bytes are refused, and the message names a column."""
    many = json.dumps({"image": "a.jpg", **{f"c{number}": 1 for number in range(21)}})
    large = json.dumps({"image": "a.jpg", **{f"c{number}": "ü" * 300 for number in range(4)}})

    assert "line 1, column c20: it is one of 21 custom columns; the limit is 20" in _error(many.encode(), "m.jsonl")
    assert "custom columns have at most 2,000 bytes in all, not 2,408" in _error(large.encode(), "m.jsonl")


def test_bad_rows_can_be_skipped_and_are_kept_with_line_and_column() -> None:
    """The good rows are resolved; without one the file is rejected."""
    file = BatchFile("m.csv", b'image,mode,sku\n"a.jpg",,"two\nlines"\nb.jpg,fast,1\nc.jpg,pro,2\n')
    found = file.resolve_rows(lambda row: row.image, skip_bad_rows=True)

    assert found == ["a.jpg", "c.jpg"]
    assert [row[:3] for row in file.bad_rows] == [("m.csv", 4, "mode")]
    with pytest.raises(BadRows) as caught:
        BatchFile("m.csv", b"image,mode\nb.jpg,fast\n").resolve_rows(lambda row: row, skip_bad_rows=True)
    assert len(caught.value.rows) == 1
    assert pickle.loads(pickle.dumps(caught.value)).rows == caught.value.rows  # noqa: S301 - Prefect does
