"""The three policies of `deployments/aws/template.yaml`, under an S3 and SQS that enforce them."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prometheus_client import CollectorRegistry

from doors.gallery.details import read_details
from doors.gallery.filters import Filters
from doors.gallery.listing import GalleryReader
from doors.ledger_gauges import LedgerGauges
from doors.sqs_queue import SqsQueue
from i2v.doctor.checks import examine
from i2v.doctor.findings import Level
from i2v.errors import I2vError
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.ledger.keys import version_of
from i2v.ledger.ledger import Ledger
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.run import open_run
from i2v.recovery.resolve_by_hand import Resolver
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.provider import ProviderOptions
from sandbox.server import TIMEOUT_SECONDS
from sandbox.synthetic_images import make_jpeg
from tests.support.aws_account import AwsAccount, Right, aws_account, rights, without
from tests.support.settings import MakeSettings

PHOTO = make_jpeg(400, 400)
FAULT = "FaultOfTheTest"
TakeTour = Callable[[str, dict[str, Any]], Awaitable[list[str]]]
Tour = Callable[[AwsAccount, Settings], Awaitable[list[str]]]
"""Does everything that a policy is for, and returns what went wrong, in i2v's words."""


@pytest.fixture(scope="module")
def account(no_outside: None) -> Iterator[AwsAccount]:
    """The stack, once for all tests here."""
    with aws_account(Sandbox(ProviderOptions(render_seconds=0.2, fast=True))) as account:
        yield account


@asynccontextmanager
async def _errors_in(said: list[str]) -> AsyncIterator[None]:
    try:
        yield
    except I2vError as error:
        said.append(str(error))


async def _run(settings: Settings, uri: str, prompt: str, said: list[str]) -> str:
    """Generate one video; return its job's key."""
    async with _errors_in(said), open_run(settings, str(uuid4())) as run:
        items = await find_items(uri, run.storage, settings)
        report, stopped = await generate(run, items, RequestOptions(prompt=prompt), Steps())
        said += [str(stopped)] if stopped else [item.reason for item in report.items if item.reason]
        return report.items[0].job or ""
    return ""


async def _store_one(account: AwsAccount, make_settings: MakeSettings) -> None:
    """Store a video as root, for the door and the jobs to show."""
    with pytest.MonkeyPatch.context() as environment:
        for variable, value in account.sandbox.env.items():
            environment.setenv(variable, value)
        said: list[str] = []
        await _run(make_settings(**account.sandbox.env), account.sandbox.put_image("images/0.jpg", PHOTO), "one", said)
        assert said == []


async def _forget(account: AwsAccount, settings: Settings, uri: str) -> None:
    """Mark an image as erased, as root; a run of this image deletes the marker."""
    with Storage(account.sandbox.s3()) as storage:
        ledger, image = Ledger(storage, settings), S3Uri.parse(uri)
        await ledger.info.set_forgotten()
        etag = (await storage.head(image)).etag
        assert await ledger.forgotten.add(version_of(image.key.removeprefix("images/"), etag))


async def _doctor(settings: Settings) -> list[str]:
    with Storage() as storage:
        findings = await examine(settings, storage)
    return [f"{each.check}: {each.message}" for each in findings if each.level is not Level.OK]


async def tour_worker(account: AwsAccount, settings: Settings) -> list[str]:
    """Store a video with tags of an erased image, copy it for an equal one, resubmit a failed job, and run doctor."""
    said: list[str] = []
    prompt = uuid4().hex
    first, second, third = (account.sandbox.put_image(f"images/{prompt}-{n}.jpg", PHOTO) for n in range(3))
    await _forget(account, settings, first)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("I2V_S3_EXTRA_ARGS", '{"Tagging": "team=cats"}')
        await _run(settings, first, prompt, said)
    await _run(settings, second, prompt, said)
    account.sandbox.provider.add_fault(on="task", kind="fails", code=FAULT)
    failed = await _run(settings, third, f"{prompt} again", said)
    async with _errors_in(said):
        with Storage() as storage:
            await Resolver(storage, settings).resubmit(failed)
    account.sandbox.provider.clear_faults()
    return [*said, *(line for line in await _doctor(settings) if not line.startswith("rights images"))]


async def tour_door(account: AwsAccount, settings: Settings) -> list[str]:
    """Receive, hide, delete and dead-letter a notification, read the ledger for metrics, and show the gallery."""
    said: list[str] = []
    assert settings.sqs_queue_url
    account.sandbox.sqs().purge_queue(QueueUrl=settings.sqs_queue_url)  # what earlier tours left, hidden or not
    for _ in range(2):
        account.sandbox.put_image(f"images/{uuid4().hex}.jpg", PHOTO)
    queue = SqsQueue(settings.sqs_queue_url)
    async with _errors_in(said):
        await queue.read_attributes()
        messages = await queue.receive(60)
        await queue.extend_visibility(messages, 60)
        assert await queue.dead_letter(messages[0], "a test")
        await queue.delete(messages[1:])
        assert await queue.count_messages() == 0
        assert await queue.count_dead_letters()
    with Storage() as storage:
        LedgerGauges(storage, settings, CollectorRegistry()).refresh()
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
        async with _errors_in(said), httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_SECONDS) as browser:
            page = await GalleryReader(storage, settings).read(Filters())
            card = next((card for card in page.cards if card.links), None)
            assert page.unreadable or card
            if card:
                links = card.links or ()
                said += [answer.text for link in links if (answer := await browser.get(link)).is_error]
                await read_details(storage, settings, card)
    return said


async def tour_deploy(account: AwsAccount, settings: Settings) -> list[str]:
    """Run doctor, list the jobs, pause and resume."""
    said: list[str] = []
    with Storage() as storage:
        async with _errors_in(said):
            ledger = Ledger(storage, settings)
            await ledger.read_existing((await ledger.find_keys())[0])
            assert await ledger.info.set_paused(True)
            assert await ledger.info.set_paused(False)
    return [*said, *await _doctor(settings)]


TOURS: dict[str, Tour] = {"Worker": tour_worker, "Door": tour_door, "Deploy": tour_deploy}


@pytest.fixture
def tour(
    account: AwsAccount,
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> TakeTour:
    """Take a policy's tour as a user who has the policy that is given; return what went wrong, with all warnings."""

    async def take(name: str, policy: dict[str, Any]) -> list[str]:
        environment = account.environment(policy)
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        settings = make_settings(**environment, I2V_DEFAULT_PROMPT="it moves")
        if not account.sandbox.keys("jobs/recent/"):
            await _store_one(account, make_settings)
        said = await TOURS[name](account, settings)
        said += [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        return [line for line in said if FAULT not in line]

    return take


async def test_each_policy_grants_what_its_process_needs(tour: TakeTour, account: AwsAccount) -> None:
    """With its policy alone, everything that a process does succeeds without a warning."""
    for name in TOURS:
        assert (name, await tour(name, account.policy(name))) == (name, [])


@pytest.mark.skipif(not os.environ.get("TEST_DEPLOYMENTS"), reason="make test-deployments runs it")
@pytest.mark.parametrize("right", rights(), ids=str)
async def test_a_missing_right_is_named(tour: TakeTour, account: AwsAccount, right: Right) -> None:
    """If a policy lacks one right, the run, the door or doctor says which, so the policy grants nothing in excess."""
    said = "\n".join(await tour(right.policy, without(account.policy(right.policy), right)))

    service, name = right.action.split(":")
    assert re.search(rf" for {name}(Batch)? on " if service == "sqs" else rf"{right.action}\b", said), said
