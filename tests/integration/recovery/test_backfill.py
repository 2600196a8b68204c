"""Reconcile with generate finds the images without a result in a real bucket, and pays for each once."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from i2v.errors import UsageError
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.run import open_run
from i2v.pipeline.submit import submit
from i2v.recovery.backfill import BackfillOptions, ReconcileResult, backfill_options, reconcile_and_backfill
from i2v.recovery.images_without_video import MissingSearch, versions_with_outcome
from i2v.reports.run_report import Outcome, Report
from i2v.s3.listing import S3Entry
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.forked_command import forked_i2v
from tests.support.i2v_command import bare_env
from tests.support.listing_server import START, listing_server, name_of
from tests.support.orders import OpenRun, order_for, put_photo
from tests.support.settings import SealedSettings

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
# S3's Date has whole seconds, but listings may have fractions
ALL = BackfillOptions(LONG_AGO, RequestOptions(prompt="it moves"), settling=timedelta(seconds=-2))
PROMPTLESS = BackfillOptions(LONG_AGO, RequestOptions(), settling=timedelta(seconds=-2))


async def backfill(new_run: OpenRun, options: BackfillOptions = ALL, *, limit: int = 100) -> ReconcileResult:
    """Run reconcile with generate, as a separate process would."""
    async with new_run() as run:
        return await reconcile_and_backfill(run, options, limit=limit)


def generated(result: ReconcileResult) -> dict[str, Outcome]:
    """Return the outcome of each generated image by name."""
    assert result.generated
    return {item.image.rpartition("images/")[2]: item.outcome for item in result.generated.items}


def put_numbered(sandbox: Sandbox, *numbers: int) -> list[str]:
    """Put a photo for each number and return their names."""
    for number in numbers:
        put_photo(sandbox, f"{number}.jpg", seed=number)
    return [f"{number}.jpg" for number in numbers]


async def generate_all(run: RunContext, *uris: str, prompt: str = "another prompt") -> Report:
    """Run generate over these images."""
    items = await find_items(list(uris), run.storage, run.settings)
    report, _ = await generate(run, items, RequestOptions(prompt=prompt), Steps())
    return report


async def test_only_missing_images_are_generated_once(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """New and replaced images are paid once; stored, refused, failed, unknown and open ones are not paid again."""
    names = ("stored", "replaced", "failed", "unknown", "open")
    uris = {name: put_photo(sandbox, f"{name}.jpg", seed) for seed, name in enumerate(names)}
    refused = sandbox.put_image("images/refused.jpg", make_jpeg(200, 200))
    async with new_run() as run:
        await generate_all(run, uris["stored"], uris["replaced"], refused)
        provider.add_fault(on="submit", kind="fail_code", code="Timeout")
        await generate_all(run, uris["failed"])
        provider.add_fault(on="submit", kind="lost_answer")
        await generate_all(run, uris["unknown"])
        await submit(run, await order_for(run, uris["open"]))
    billed = provider.billed_usd
    missing = {"replaced.jpg", "replaced.jpg.png", "replaced.jpg/Zo\u00eb a+b%20c.jpg"}
    for seed, name in enumerate(sorted(missing), 10):
        put_photo(sandbox, name, seed)
    first, again = await backfill(new_run), await backfill(new_run)
    assert generated(first) == dict.fromkeys(missing, Outcome.STORED)
    assert generated(again) == {}
    assert provider.billed_usd - billed == Decimal("0.192") * 3
    assert {item.image for item in first.settled.items} == {uris["unknown"], uris["open"]}
    assert len({item.image for item in first.report.items}) == len(first.report.items)


async def test_two_reconciles_at_once_pay_once(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Two concurrent reconciles find the same images, and each is billed once."""
    put_numbered(sandbox, 1, 2, 3)
    both = await asyncio.gather(backfill(new_run), backfill(new_run))
    assert [set(generated(result).values()) <= {Outcome.STORED, Outcome.CACHED} for result in both] == [True, True]
    assert Counter(provider.billed().values()) == {1: 3}


async def test_a_dry_run_plans_and_changes_nothing(
    sandbox: Sandbox, provider: Provider, settings: Settings, aws: None
) -> None:
    """A dry run prices the missing images without an API key, and sends nothing to the bucket or the provider."""
    put_numbered(sandbox, 1, 2)
    before = sandbox.keys()
    async with open_run(settings.model_copy(update={"api_key": None}), "dry", dry_run=True) as run:
        result = await reconcile_and_backfill(run, ALL)
    assert result.summary == "2 planned · would cost $0.384"
    assert (result.succeeded, sandbox.keys(), provider.request_log.entries) == (True, before, [])


async def test_the_oldest_images_come_first_up_to_the_limit(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """With a limit of 2 the two oldest images are generated, and the next reconcile takes the rest."""
    for number in (3, 1, 2):
        put_numbered(sandbox, number)
        await asyncio.sleep(0.05)  # the sandbox's listings have milliseconds
    first, second = await backfill(new_run, limit=2), await backfill(new_run, limit=2)
    assert list(generated(first)) == ["3.jpg", "1.jpg"]
    assert list(generated(second)) == ["2.jpg"]
    assert provider.billed().total() == 3


async def test_images_without_a_prompt_do_not_use_up_the_limit(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Old images without a prompt are reported as refused each time, and a newer image is still generated."""
    promptless = put_numbered(sandbox, *range(20))
    await asyncio.sleep(0.05)  # the sandbox's listings have milliseconds
    sandbox.put_image("images/new.jpg", make_jpeg(400, 400), prompt="it moves")
    result = await backfill(new_run, PROMPTLESS, limit=1)
    assert generated(result) == {"new.jpg": Outcome.STORED} | dict.fromkeys(promptless, Outcome.REFUSED)
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key="images/7.jpg.txt", Body=b"it purrs")
    result = await backfill(new_run, PROMPTLESS, limit=1)
    assert generated(result)["7.jpg"] is Outcome.STORED
    assert provider.billed().total() == 2


async def test_jobs_that_need_attention_do_not_use_up_the_limit(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Images with a deleted video or an unknown equal job are reported each time; a newer image is still generated."""
    deleted = put_photo(sandbox, "deleted.jpg", seed=1)
    async with new_run() as run:
        await generate_all(run, deleted, prompt="it moves")
        provider.add_fault(on="submit", kind="lost_answer")
        await generate_all(run, put_photo(sandbox, "unknown.jpg", seed=2), prompt="it moves")
    for key in sandbox.keys("videos/"):
        sandbox.s3().delete_object(Bucket=sandbox.bucket, Key=key)
    put_photo(sandbox, "equal.jpg", seed=2)
    await asyncio.sleep(0.05)  # the sandbox's listings have milliseconds
    put_photo(sandbox, "new.jpg", seed=3)
    result = await backfill(new_run, limit=1)
    expected = {"deleted.jpg": Outcome.FAILED, "equal.jpg": Outcome.UNKNOWN, "new.jpg": Outcome.STORED}
    assert (generated(result), result.succeeded) == (expected, False)
    assert provider.billed().total() == 3


async def test_backfill_spends_up_to_the_limit(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """With money for two of three images the third is not tried, the run fails, and the next one generates it."""
    put_numbered(sandbox, 1, 2, 3)
    async with new_run(max_spend_usd=Decimal("0.50")) as run:
        result = await reconcile_and_backfill(run, ALL)
    async with new_run(max_spend_usd=Decimal("0.10")) as run:
        stopped = await reconcile_and_backfill(run, ALL)
    assert (result.summary, result.succeeded) == ("2 stored · 1 not tried (spending limit) · $0.384", False)
    assert stopped.stopped
    assert "max_spend_usd has $0.10 left" in stopped.stopped.message
    assert list(generated(await backfill(new_run)).values()) == [Outcome.STORED]


async def test_recent_images_are_left_to_the_door(
    sandbox: Sandbox, provider: Provider, settings: Settings, new_run: OpenRun
) -> None:
    """Images from the last two minutes, by S3's clock, are not generated."""
    put_numbered(sandbox, 1)
    request = RequestOptions(prompt="it moves")
    options = backfill_options(settings, request, generate=True, since=LONG_AGO, max_spend_usd=Decimal(1))
    assert options == BackfillOptions(LONG_AGO, request, timedelta(minutes=2))
    result = await backfill(new_run, options)
    assert (generated(result), result.summary) == ({}, "nothing is open, and every image has an outcome")


class ChangedAfterListing(Storage):
    """S3 that calls a function right after the images were listed."""

    def __init__(self, change: Callable[[], object]) -> None:
        super().__init__()
        self._change = change

    async def pages(
        self, prefix: S3Uri, *, start_after: str = "", recursive: bool = True
    ) -> AsyncGenerator[Sequence[S3Entry], None]:
        """List, then call the function."""
        async for page in super().pages(prefix, start_after=start_after, recursive=recursive):
            yield page
        if prefix.key == "images/":
            self._change()


async def test_images_changed_after_the_listing_are_skipped(
    sandbox: Sandbox, provider: Provider, settings: Settings, new_run: OpenRun
) -> None:
    """An image that is deleted, replaced or finished after the listing costs nothing and causes no failure."""
    deleted, replaced, finished = (
        put_photo(sandbox, f"{name}.jpg", seed) for seed, name in enumerate(("deleted", "replaced", "finished"))
    )
    assert deleted
    assert replaced
    async with new_run() as run:
        await generate_all(run, finished)
    (manifest,) = [key for key in sandbox.keys("videos/") if key.endswith(".json")]
    body = sandbox.read(manifest)
    sandbox.s3().delete_object(Bucket=sandbox.bucket, Key=manifest)

    def change() -> None:
        sandbox.s3().delete_object(Bucket=sandbox.bucket, Key="images/deleted.jpg")
        put_photo(sandbox, "replaced.jpg", seed=9)
        sandbox.s3().put_object(Bucket=sandbox.bucket, Key=manifest, Body=body)

    async with open_run(settings, "changed", storage=ChangedAfterListing(change)) as run:
        result = await reconcile_and_backfill(run, ALL)
    assert (result.summary, result.succeeded) == ("nothing is open, and every image has an outcome", True)
    assert provider.billed().total() == 1


async def test_an_interrupted_search_ends_at_once(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Ctrl-C during the search ends it: no image is validated or paid."""
    put_numbered(sandbox, 1)
    async with new_run() as run:
        run.brake.interrupt()
        result = await reconcile_and_backfill(run, ALL)
    assert result.summary == "stopped before all images were checked: interrupted"
    assert (generated(result), provider.billed().total()) == ({}, 0)


@pytest.mark.parametrize("given", [{}, {"since": LONG_AGO}, {"max_spend_usd": Decimal(1)}])
def test_generate_requires_since_and_max_spend(settings: Settings, given: dict[str, Any]) -> None:
    """The error names the missing parameters, so that no archive is processed by mistake."""
    with pytest.raises(UsageError) as caught:
        backfill_options(settings, RequestOptions(), **{"since": None, "max_spend_usd": None, **given}, generate=True)
    assert {name for name in ("since", "max_spend_usd") if name in caught.value.message} == {
        "since",
        "max_spend_usd",
    } - given.keys()


@asynccontextmanager
async def run_over_listing(images: int, each: int, environment: pytest.MonkeyPatch) -> AsyncIterator[RunContext]:
    """Open a run over a listing of this many images, of which every `each`-th has no result."""
    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}.items():
        environment.setenv(f"AWS_{name}", value)
    with listing_server(images, each) as address:
        environment.setenv("AWS_ENDPOINT_URL", address)
        async with open_run(SealedSettings(I2V_BUCKET="big"), "many", dry_run=True) as run:
            yield run


async def test_ten_missing_images_are_found_among_thousands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ten missing images are found, oldest first, among unusual names. `I2V_LISTED_IMAGES` sets the total."""
    images = int(os.environ.get("I2V_LISTED_IMAGES", "3000"))
    async with run_over_listing(images, images // 10, monkeypatch) as run:
        search = MissingSearch(run, await versions_with_outcome(run), LONG_AGO, START)
        found = [entry.uri.key for entry in await search.next_batch(100)]
    assert found == [f"images/{name_of(number)}" for number in range(images - 1, 0, -images // 10)]
    assert len(search.taken) == images - 10


def test_the_command_generates_missing_images(sandbox: Sandbox, provider: Provider) -> None:
    """Too little money exits with 3 and names the limit; enough exits with 0 and prints one JSON object."""
    put_numbered(sandbox, 1)
    env = bare_env(**sandbox.env, I2V_SETTLING_SECONDS="-2")
    arguments = ("reconcile", "--generate", "--since", "2d", "--prompt", "it moves", "--max-spend")
    stopped, done = forked_i2v(*arguments, "0.10", env=env), forked_i2v(*arguments, "1", "--json", env=env)
    assert (stopped.code, "max_spend_usd has $0.10 left" in stopped.err) == (3, True), stopped
    assert done.code == 0, done
    assert (json.loads(done.out)["stored"], json.loads(done.out)["spent_usd"]) == (1, 0.192)
    assert provider.billed().total() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--generate"], "since and max_spend_usd must be given"),
        (["--since", "2d"], "Add --generate"),
    ],
)
def test_the_command_names_the_missing_options(arguments: list[str], message: str) -> None:
    """Incomplete options exit with 2 and name what to add, before any request is sent."""
    completed = forked_i2v("reconcile", *arguments, env=bare_env(I2V_BUCKET="b-1", APIXO_API_KEY="k"))
    assert (completed.code, message in completed.err) == (2, True), completed
