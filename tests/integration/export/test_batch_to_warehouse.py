"""A batch file with custom columns and prompts, from its rows to the warehouse: names, manifests, tables and sums."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import duckdb

from i2v.batches.process import BatchRun, find_or_write_shards
from i2v.export.places import FolderPlace
from i2v.export.write import export_tables
from i2v.pipeline.run import open_run
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.local_shards import DEFAULT, LocalShards
from tests.support.orders import job_records, put_copies

ROWS = int(os.environ.get("I2V_RUN_IMAGES", "8"))
CAMPAIGNS = ("autumn", "spring", "winter")
BATCH = "0b0e7e2c-1f7b-4b57-8a6c-3a4a1f1c9f10"
SPENDING = "SELECT extra['campaign'], sum(cost_usd) FROM read_parquet('{}/attempts/*/*.parquet') GROUP BY ALL"
VIDEOS = "SELECT extra['campaign'], extra['sku'], prompt, mode, video FROM read_parquet('{}/videos/*/*.parquet')"
Spent = dict[str, Decimal]


def campaign_of(number: int) -> str:
    """Return the campaign of a row."""
    return CAMPAIGNS[number % len(CAMPAIGNS)]


def prompt_of(number: int) -> str:
    """Return the prompt of a row, which names its campaign."""
    return f"{campaign_of(number)}: product {number} turns"


def put_batch_file(sandbox: Sandbox) -> str:
    """Put the images and the batch file, of which every fourth row is pro, and return its address."""
    put_copies(sandbox, ROWS)
    rows = (
        f"/images/{number:03}.jpg,{prompt_of(number)},{'' if number % 4 else 'pro'},A-{number},{campaign_of(number)}"
        for number in range(ROWS)
    )
    lines = ["image,prompt,mode,sku,campaign", *(f"s3://{sandbox.bucket}{row}" for row in rows)]
    return sandbox.put_image("lists/products.csv", "\n".join(lines).encode())


def sums(amounts: Iterable[tuple[str, Decimal]]) -> Spent:
    """Return the sum of each campaign."""
    spent: defaultdict[str, Decimal] = defaultdict(Decimal)
    for campaign, usd in amounts:
        spent[campaign] += usd
    return spent


async def test_a_batch_file_ends_in_the_warehouse(
    sandbox: Sandbox, provider: Provider, settings: Settings, aws: None, tmp_path: Path
) -> None:
    """Each of `I2V_RUN_IMAGES` (8) rows has its name and manifest; by campaign, tables, ledger, report and bill agree.

    One answer is lost and one task fails: both cost money, and neither has a video.
    """
    own = settings.model_copy(update={"publish_as": "published/{extra.campaign}/{extra.sku}.mp4", "first_submits": 0})
    provider.set_options(render="shared")
    provider.add_fault(on="submit", kind="lost_answer", prompt=prompt_of(0))
    provider.add_fault(on="task", kind="fails", code="MODEL_X", prompt=prompt_of(1), times=None)
    async with open_run(own, BATCH, batch=BATCH) as run:
        plan = await find_or_write_shards(run, [put_batch_file(sandbox)], DEFAULT, min(250, ROWS // 2))
        merged = await BatchRun(run, plan, LocalShards(plan, own), 2).process(partial=False)
        await export_tables(run.ledger, FolderPlace(tmp_path), datetime.now(UTC).date())

    stored = range(2, ROWS)
    assert merged.total.summary().startswith(f"{len(stored)} stored · 1 failed · 1 unknown")
    database = duckdb.connect()
    videos = database.execute(VIDEOS.format(tmp_path)).fetchall()
    assert sorted(video[:4] for video in videos) == sorted(
        (campaign_of(number), f"A-{number}", prompt_of(number), "standard" if number % 4 else "pro")
        for number in stored
    )
    assert sandbox.keys("published/") == sorted(
        f"published/{campaign_of(number)}/A-{number}.{ending}" for number in stored for ending in ("jpg", "json", "mp4")
    )
    for campaign, sku, prompt, _, video in videos:
        manifest = sandbox.read_json(f"published/{campaign}/{sku}.json")
        assert (manifest["extra"], manifest["video"]["uri"]) == ({"sku": sku, "campaign": campaign}, video)
        assert manifest["request"]["prompt"] == prompt

    rows = [json.loads(line) for line in sandbox.read(f"jobs/runs/{BATCH}.jsonl").splitlines()]
    spent = dict(database.execute(SPENDING.format(tmp_path)).fetchall())
    assert spent == sums((job.extra["campaign"], job.cost_usd) for job in job_records(sandbox))
    assert spent == sums((task.request.prompt.partition(":")[0], task.billed_usd) for task in provider.tasks.values())
    assert spent == sums((row["extra"]["campaign"], _cost(row)) for row in rows)
    assert sum(spent.values()) == provider.billed_usd


def _cost(row: dict[str, float]) -> Decimal:
    return Decimal(str(row["cost_usd"])) + Decimal(str(row["possibly_charged_usd"]))
