"""Faulty rows of a batch file are all found before anything is paid."""

from __future__ import annotations

from pathlib import Path

import pytest

from i2v.cli.images.local_files import find_named_images
from i2v.errors import BadRows
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.generate import Steps, generate
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.forked_command import forked_i2v
from tests.support.i2v_command import bare_env
from tests.support.orders import OpenRun, put_photo
from tests.support.settings import SealedSettings


def test_all_bad_rows_are_in_the_json(sandbox: Sandbox, tmp_path: Path) -> None:
    """The command exits with 2 and prints each on stdout, and the message names them; nothing was asked of anyone."""
    lines = ["image,mode", *["s3://b/a.jpg,fast"] * 1000]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    result = forked_i2v("estimate", str(tmp_path / "rows.csv"), "--json", env=bare_env(**sandbox.env))

    assert result.code == 2
    assert [row["line"] for row in result.report["bad_rows"]] == [*range(2, 1002)]
    assert result.report["items"] == []
    assert "line 11, column mode: Input should be" in result.err
    assert "; and 990 more\n" in result.err
    assert "--skip-bad-rows" in result.err


def test_skipped_rows_are_named(sandbox: Sandbox, tmp_path: Path) -> None:
    """The others are processed, and the report has file, line, column and reason of each that was not."""
    uri = put_photo(sandbox)
    file = tmp_path / "rows.csv"
    file.write_text(f'image,mode,take,note\n{uri},,1,"two\nlines"\n{uri},fast,,\n,,0,\n{uri},pro,1,a,b\n{uri},pro,,\n')
    words = ("estimate", str(file), "--prompt", "it moves", "--skip-bad-rows")
    result = forked_i2v(*words, "--json", env=bare_env(**sandbox.env))

    assert result.code == 0
    assert result.report["planned"] == 2
    found = [(row["file"], row["line"], row["column"]) for row in result.report["bad_rows"]]
    assert found == [(str(file), line, column) for line, column in ((4, "mode"), (5, "take"), (5, "image"), (6, ""))]
    assert result.report["bad_rows"][-1]["reason"] == "5 values for 4 columns (quote a value that has a comma)"
    assert "3 bad rows skipped: line 4, column mode" in result.err
    assert " · 3 bad rows skipped · would cost $" in result.err


async def test_a_run_stops_or_skips(sandbox: Sandbox, new_run: OpenRun) -> None:
    """A file in the bucket is checked as a whole before any submit; the run's record names what it skipped."""
    photo = put_photo(sandbox)
    uri = sandbox.put_image("lists/rows.jsonl", f'{{"image": "{photo}"}}\n\n{{"image": 5}}\n'.encode())
    async with new_run(run_id="skips") as run:
        with pytest.raises(BadRows, match="line 3, column image"):
            await find_items([photo, uri], run.storage, run.settings)
        items = await find_items(uri, run.storage, run.settings, skip_bad_rows=True)
        report, _ = await generate(run, items, RequestOptions(prompt="it moves"), Steps())

    assert report.summary == "1 stored · 1 bad row skipped · $0.192"
    assert report.completed
    stored = sandbox.read_json("jobs/runs/skips.json")["report"]["bad_rows"]
    assert [(row["file"], row["line"], row["column"]) for row in stored] == [(uri, 3, "image")]


def test_a_missing_local_file_is_a_bad_row(tmp_path: Path) -> None:
    """Its row can be skipped like any other."""
    (tmp_path / "a.jpg").write_bytes(make_jpeg(400, 400))
    (tmp_path / "rows.csv").write_text("image\na.jpg\nb.jpg\n")
    settings = SealedSettings(I2V_BUCKET="my-bucket")
    named = find_named_images([str(tmp_path / "rows.csv")], settings, skip_bad_rows=True)

    assert [image.path.name for image in named.local] == ["a.jpg"]
    assert [(row.line, row.column) for row in named.bad_rows] == [(3, "image")]
