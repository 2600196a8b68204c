"""Reconcile finds what has no answer in a real bucket, and pays for exactly that, once."""

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
from i2v.recovery.missing import MissingSearch, versions_with_outcome
from i2v.reports.run_report import Outcome, Report
from i2v.s3.listing import S3Entry
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.i2v_command import bare_env, i2v
from tests.support.listing_server import START, listing_server, name_of
from tests.support.orders import OpenRun, order_for, put_photo
from tests.support.settings import SealedSettings

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
# S3's Date has whole seconds, listings may have fractions of one
ALL = BackfillOptions(LONG_AGO, RequestOptions(prompt="it moves"), settling=timedelta(seconds=-2))
PROMPTLESS = BackfillOptions(LONG_AGO, RequestOptions(), settling=timedelta(seconds=-2))


async def caught_up(new_run: OpenRun, wanted: BackfillOptions = ALL, *, limit: int = 100) -> ReconcileResult:
    """One reconcile that generates, as a process of its own would do it."""
    async with new_run() as run:
        return await reconcile_and_backfill(run, wanted, limit=limit)


def generated(ended: ReconcileResult) -> dict[str, Outcome]:
    """What became of each image that was missing, by its name."""
    assert ended.generated
    return {item.image.rpartition("images/")[2]: item.outcome for item in ended.generated.items}


def names(sandbox: Sandbox, *numbers: int) -> list[str]:
    """Put so many different good images."""
    for number in numbers:
        put_photo(sandbox, f"{number}.jpg", seed=number)
    return [f"{number}.jpg" for number in numbers]


async def animated(run: RunContext, *uris: str, prompt: str = "another prompt") -> Report:
    """Generate these by an ordinary run."""
    items = await find_items(list(uris), run.storage, run.settings)
    report, _ = await generate(run, items, RequestOptions(prompt=prompt), Steps())
    return report


async def test_exactly_the_missing_are_paid_once(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Stored, refused, failed, unknown and open images are not paid again; new, replaced and odd ones are, and once."""
    several = ("stored", "replaced", "failed", "unknown", "open")
    uris = {name: put_photo(sandbox, f"{name}.jpg", seed) for seed, name in enumerate(several)}
    refused = sandbox.put_image("images/refused.jpg", make_jpeg(200, 200))
    async with new_run() as run:
        await animated(run, uris["stored"], uris["replaced"], refused)
        provider.add_fault(on="submit", kind="fail_code", code="Timeout")
        await animated(run, uris["failed"])
        provider.add_fault(on="submit", kind="lost_answer")
        await animated(run, uris["unknown"])
        await submit(run, await order_for(run, uris["open"]))
    billed = provider.billed_usd
    odd = {"replaced.jpg", "replaced.jpg.png", "replaced.jpg/Zo\u00eb a+b%20c.jpg"}
    for seed, name in enumerate(sorted(odd), 10):
        put_photo(sandbox, name, seed)
    first, again = await caught_up(new_run), await caught_up(new_run)
    assert generated(first) == dict.fromkeys(odd, Outcome.STORED)
    assert generated(again) == {}
    assert provider.billed_usd - billed == Decimal("0.192") * 3
    assert {item.image for item in first.settled.items} == {uris["unknown"], uris["open"]}
    assert len({item.image for item in first.report.items}) == len(first.report.items)


async def test_two_reconciles_at_once_pay_once(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Both find the same images, and each is billed once."""
    names(sandbox, 1, 2, 3)
    both = await asyncio.gather(caught_up(new_run), caught_up(new_run))
    assert [set(generated(ended).values()) <= {Outcome.STORED, Outcome.CACHED} for ended in both] == [True, True]
    assert Counter(provider.billed().values()) == {1: 3}


async def test_a_dry_run_names_them_and_changes_nothing(
    sandbox: Sandbox, provider: Provider, settings: Settings, aws: None
) -> None:
    """What is missing is planned with its price, without a key; neither bucket nor provider notice it."""
    names(sandbox, 1, 2)
    before = sandbox.keys()
    async with open_run(settings.model_copy(update={"api_key": None}), "dry", dry_run=True) as run:
        ended = await reconcile_and_backfill(run, ALL)
    assert ended.summary == "2 planned · would cost $0.384"
    assert (ended.succeeded, sandbox.keys(), provider.request_log.entries) == (True, before, [])


async def test_the_oldest_come_first_and_no_more_than_the_limit(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A limit of 2 takes the two that wait longest, and the next reconcile the others."""
    for number in (3, 1, 2):
        names(sandbox, number)
        await asyncio.sleep(0.05)  # listings of the sandbox's S3 tell milliseconds
    first, second = await caught_up(new_run, limit=2), await caught_up(new_run, limit=2)
    assert list(generated(first)) == ["3.jpg", "1.jpg"]
    assert list(generated(second)) == ["2.jpg"]
    assert provider.billed().total() == 3


async def test_images_without_a_prompt_starve_nobody(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Old images without a prompt are named as refused each time, and the newer one behind them is generated."""
    old = names(sandbox, *range(20))
    await asyncio.sleep(0.05)  # listings of the sandbox's S3 tell milliseconds
    sandbox.put_image("images/new.jpg", make_jpeg(400, 400), prompt="it moves")
    ended = await caught_up(new_run, PROMPTLESS, limit=1)
    assert generated(ended) == {"new.jpg": Outcome.STORED} | dict.fromkeys(old, Outcome.REFUSED)
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key="images/7.jpg.txt", Body=b"it purrs")
    ended = await caught_up(new_run, PROMPTLESS, limit=1)
    assert generated(ended)["7.jpg"] is Outcome.STORED
    assert provider.billed().total() == 2


async def test_what_waits_for_a_person_starves_nobody(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Images whose video was taken away, or whose equal is unknown, are named each time and block no newer one."""
    gone = put_photo(sandbox, "gone.jpg", seed=1)
    async with new_run() as run:
        await animated(run, gone, prompt="it moves")
        provider.add_fault(on="submit", kind="lost_answer")
        await animated(run, put_photo(sandbox, "unknown.jpg", seed=2), prompt="it moves")
    for key in sandbox.keys("videos/"):
        sandbox.s3().delete_object(Bucket=sandbox.bucket, Key=key)
    put_photo(sandbox, "equal.jpg", seed=2)
    await asyncio.sleep(0.05)  # listings of the sandbox's S3 tell milliseconds
    put_photo(sandbox, "new.jpg", seed=3)
    ended = await caught_up(new_run, limit=1)
    told = {"gone.jpg": Outcome.FAILED, "equal.jpg": Outcome.UNKNOWN, "new.jpg": Outcome.STORED}
    assert (generated(ended), ended.succeeded) == (told, False)
    assert provider.billed().total() == 3


async def test_it_goes_as_far_as_the_money_goes(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Money for two of three: two are stored, the third is not tried, which is no success, and comes next time."""
    names(sandbox, 1, 2, 3)
    async with new_run(max_spend_usd=Decimal("0.50")) as run:
        ended = await reconcile_and_backfill(run, ALL)
    async with new_run(max_spend_usd=Decimal("0.10")) as run:
        stopped = await reconcile_and_backfill(run, ALL)
    assert (ended.summary, ended.succeeded) == ("2 stored · 1 not tried · $0.384", False)
    assert stopped.stopped
    assert "max_spend_usd has $0.10 left" in stopped.stopped.message
    assert list(generated(await caught_up(new_run)).values()) == [Outcome.STORED]


async def test_young_images_are_left_to_the_door(
    sandbox: Sandbox, provider: Provider, settings: Settings, new_run: OpenRun
) -> None:
    """What was put in the last two minutes, by S3's clock, may still get its prompt and its event."""
    names(sandbox, 1)
    asked = RequestOptions(prompt="it moves")
    wanted = backfill_options(settings, asked, generate=True, since=LONG_AGO, max_spend_usd=Decimal(1))
    assert wanted == BackfillOptions(LONG_AGO, asked, timedelta(minutes=2))
    ended = await caught_up(new_run, wanted)
    assert (generated(ended), ended.summary) == ({}, "nothing is open, and every image has an outcome")


class Meanwhile(Storage):
    """S3, where something happens just after the images were listed."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self._happens = happens

    async def pages(
        self, prefix: S3Uri, *, start_after: str = "", deep: bool = True
    ) -> AsyncGenerator[Sequence[S3Entry], None]:
        """List, and then let it happen."""
        async for page in super().pages(prefix, start_after=start_after, deep=deep):
            yield page
        if prefix.key == "images/":
            self._happens()


async def test_what_changes_after_the_listing_is_left_alone(
    sandbox: Sandbox, provider: Provider, settings: Settings, new_run: OpenRun
) -> None:
    """An image that is deleted, replaced, or answered after it was listed costs nothing and fails nothing."""
    gone, replaced, answered = (
        put_photo(sandbox, f"{name}.jpg", seed) for seed, name in enumerate(("gone", "new", "told"))
    )
    assert gone
    assert replaced
    async with new_run() as run:
        await animated(run, answered)
    (manifest,) = [key for key in sandbox.keys("videos/") if key.endswith(".json")]
    body = sandbox.read(manifest)
    sandbox.s3().delete_object(Bucket=sandbox.bucket, Key=manifest)

    def happens() -> None:
        sandbox.s3().delete_object(Bucket=sandbox.bucket, Key="images/gone.jpg")
        put_photo(sandbox, "new.jpg", seed=9)
        sandbox.s3().put_object(Bucket=sandbox.bucket, Key=manifest, Body=body)

    async with open_run(settings, "meanwhile", storage=Meanwhile(happens)) as run:
        ended = await reconcile_and_backfill(run, ALL)
    assert (ended.summary, ended.succeeded) == ("nothing is open, and every image has an outcome", True)
    assert provider.billed().total() == 1


async def test_an_interrupted_search_ends_at_once(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A person's Ctrl-C during the search ends it: nothing is looked at, and nothing is paid."""
    names(sandbox, 1)
    async with new_run() as run:
        run.brake.interrupt()
        ended = await reconcile_and_backfill(run, ALL)
    assert ended.summary == "stopped before all images were checked: interrupted"
    assert (generated(ended), provider.billed().total()) == ({}, 0)


@pytest.mark.parametrize("given", [{}, {"since": LONG_AGO}, {"max_spend_usd": Decimal(1)}])
def test_to_generate_needs_a_time_and_a_limit(settings: Settings, given: dict[str, Any]) -> None:
    """Nobody animates an archive by forgetting a word; the error names what lacks."""
    with pytest.raises(UsageError) as caught:
        backfill_options(settings, RequestOptions(), **{"since": None, "max_spend_usd": None, **given}, generate=True)
    assert {name for name in ("since", "max_spend_usd") if name in caught.value.message} == {
        "since",
        "max_spend_usd",
    } - given.keys()


@asynccontextmanager
async def listed(images: int, each: int, environment: pytest.MonkeyPatch) -> AsyncIterator[RunContext]:
    """A run over a made-up bucket of so many images, of which every `each`-th has no answer."""
    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}.items():
        environment.setenv(f"AWS_{name}", value)
    with listing_server(images, each) as address:
        environment.setenv("AWS_ENDPOINT_URL", address)
        async with open_run(SealedSettings(I2V_BUCKET="big"), "many", dry_run=True) as run:
            yield run


async def test_ten_are_found_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of some thousand images (I2V_LISTED_IMAGES for more) are found, oldest first, also beside odd names."""
    images = int(os.environ.get("I2V_LISTED_IMAGES", "3000"))
    async with listed(images, images // 10, monkeypatch) as run:
        search = MissingSearch(run, await versions_with_outcome(run), LONG_AGO, START)
        found = [entry.uri.key for entry in await search.next_batch(100)]
    assert found == [f"images/{name_of(number)}" for number in range(images - 1, 0, -images // 10)]
    assert len(search.taken) == images - 10


def test_the_command_generates_and_tells(sandbox: Sandbox, provider: Provider) -> None:
    """Too little money is code 3 and says which limit; enough is code 0, and the report is one JSON object."""
    names(sandbox, 1)
    env = bare_env(**sandbox.env, I2V_SETTLING_SECONDS="-2")
    words = ("reconcile", "--generate", "--since", "2d", "--prompt", "it moves", "--max-spend")
    poor, done = i2v(*words, "0.10", env=env), i2v(*words, "1", "--json", env=env)
    assert (poor.code, "max_spend_usd has $0.10 left" in poor.err) == (3, True), poor
    assert done.code == 0, done
    assert (json.loads(done.out)["stored"], json.loads(done.out)["spent_usd"]) == (1, 0.192)
    assert provider.billed().total() == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--generate"], "since and max_spend_usd must be given"),
        (["--since", "2d"], "Add --generate"),
    ],
)
def test_the_command_says_what_lacks(words: list[str], told: str) -> None:
    """Half of what generating needs is code 2, with the words to add; nothing is reached."""
    said = i2v("reconcile", *words, env=bare_env(I2V_BUCKET="b-1", APIXO_API_KEY="k"))
    assert (said.code, told in said.err) == (2, True), said
