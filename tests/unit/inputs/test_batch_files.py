from __future__ import annotations

import csv
import io
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from i2v.errors import UsageError
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
        (b"image,motion,x\na.jpg,walk,y\n", "line 1 has unknown columns 'motion', 'x'"),
        (b"s3://bucket/a.jpg\ns3://bucket/b.jpg\n", "line 1 has unknown columns"),
        (b"image;prompt\na.jpg;walk\n", "(separated by commas?)"),
        (b"image,image\na.jpg,b.jpg\n", "line 1 has a duplicate column"),
        ("image,prompt\na.jpg,müde\n".encode("latin-1"), "line 2 is not UTF-8"),
        ("image,prompt\na.jpg,walk\n".encode("utf-16"), "line 1 is not UTF-8"),
        (b'image,prompt\na.jpg,"walk\n', "unexpected end of data"),
        (b"image,prompt\na.jpg,walk, slowly\n", "line 2, 3 values for 2 columns"),
        (b"image,prompt\n,walk\n", "line 2, column image is missing"),
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
        (b'{"prompt": "walk"}', "line 2, column image is missing"),
        (b'{"image": "a.jpg", "prompt": 5}', "line 2, column prompt: Input should be a valid string, not '5'"),
        (b'{"image": "a.jpg", "prompt": "\\ud800"}', "line 2, column prompt"),
        (b'{"image": "a.jpg", "motion": "x"}', "line 2, column 'motion' is unknown"),
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
