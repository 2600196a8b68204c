"""The examples of docs/warehouse.md run on tables of real jobs."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import yaml

from i2v.export.places import FolderPlace
from i2v.export.schemas import COLUMNS, TABLES
from i2v.export.write import export_tables
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.documents import code_blocks
from tests.support.erasing import row_of, run_images
from tests.support.orders import OpenRun, put_photo

PAGE = "docs/warehouse.md"
PLACE = "s3://my-bucket/jobs/tables"
ATHENA = {
    "string": "string",
    "bigint": "int",
    "double": "float",
    "boolean": "bool",
    "decimal(20,10)": "money",
    "timestamp": "time",
    "map<string,string>": "map",
    "array<string>": "strings",
}


def _blocks(language: str, word: str = "") -> list[str]:
    return [block.text for block in code_blocks(language) if block.page == PAGE and word in block.text]


async def test_the_queries_give_what_was_billed(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, tmp_path: Path
) -> None:
    """DuckDB's examples and the dbt model run; spending by campaign, costs and bill agree to the cent."""
    autumn, winter = ({"campaign": name, "sku": f"sku of {name}"} for name in ("autumn", "winter"))
    await run_images(new_run, *(row_of(put_photo(sandbox, f"{n}.jpg", n), **autumn) for n in range(2)))
    provider.add_fault(on="submit", kind="lost_answer")
    await run_images(new_run, row_of(put_photo(sandbox, "9.jpg", 9), mode="pro", **winter))
    async with new_run() as run:
        await export_tables(run.ledger, FolderPlace(tmp_path), datetime.now(UTC).date())

    views, spending, newest, focus = (
        text.replace(PLACE, str(tmp_path)) for text in _blocks("sql") if "{{" not in text and "EXTERNAL" not in text
    )
    (model,) = _blocks("sql", "{{")
    database = duckdb.connect()
    database.execute(views)
    by_campaign = {row[1]: row[2:] for row in database.execute(spending).fetchall()}

    assert by_campaign == {"autumn": (2, Decimal("0.384"), 0), "winter": (1, Decimal("0.33"), Decimal("0.33"))}
    assert sum(row[1] for row in by_campaign.values()) == provider.billed_usd
    assert [row[0] for row in database.execute(newest).fetchall()] == ["sku of autumn"]
    assert [row[3] for row in database.execute(focus).fetchall()] == [provider.billed_usd]
    for is_incremental in (False, True):
        sql = re.sub(r"\{\{ config.*", "", model).replace("{{ source('i2v', 'attempts') }}", "attempts")
        rendered = re.sub(r"\{%.*?%\}\n(.*?)\{% endif %\}", r"\1" if is_incremental else "", sql, flags=re.DOTALL)
        assert "{" not in rendered
        assert len(database.execute(rendered).fetchall()) == 3


def test_athenas_table_has_the_columns_of_the_files() -> None:
    """Name, type and order are those of the files."""
    (block,) = _blocks("sql", "EXTERNAL TABLE")
    columns = re.search(r"i2v_videos \((.*?)\n\)\nPARTITIONED", block, re.DOTALL)
    assert columns
    pairs = [part.split() for part in re.split(r",\s+", columns[1])]

    assert {name: ATHENA[kind] for name, kind in pairs} == COLUMNS["videos"]


def test_dbt_knows_all_tables() -> None:
    """The sources are the tables, at their place."""
    (block,) = _blocks("yaml")
    (source,) = yaml.safe_load(block)["sources"]

    assert {table["name"] for table in source["tables"]} == set(TABLES)
    assert f"{PLACE}/{{name}}/*/*.parquet" in source["meta"]["external_location"]
