"""Every command that i2v advises works as typed: each is run here, and the outcome changes.

`SCENARIOS` has one entry for each situation of `i2v.reports.advice`, and `HINTS` one for each command elsewhere; a new
one without an entry fails a check. Commands are split by a real shell. `i2v run` gets `--dry-run`, which needs no
Prefect: what it plans is what it would submit.
"""

from __future__ import annotations

import ast
import asyncio
import json
import re
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from i2v.erasure.erase import erase
from i2v.erasure.search import search
from i2v.erasure.selection import Selection
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import RunOptions
from i2v.inputs.sources import find_items
from i2v.ledger.job import JobRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, generate, process_order
from i2v.pipeline.run import open_run
from i2v.pipeline.submit import submit
from i2v.recovery.resolve_by_hand import Resolver
from i2v.reports.advice import Advice, Situation, about, advise, advise_job
from i2v.reports.recent import recent_item
from i2v.reports.run_report import ItemReport, Outcome
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.forked_command import forked_i2v
from tests.support.i2v_command import Result, bare_env
from tests.support.orders import OpenRun, order_for, put_photo
from tests.support.paths import ROOT

PROMPT = 'the cat\'s {tail} moves\n"slowly" & $HOME `pwd`'
RUN = RunOptions(prompt=PROMPT.replace("{", "{{").replace("}", "}}"), mode="standard", duration=10, take=2)
LABEL = "spring sale; rm -rf"
SOURCES = ("src", "doors", "prefect_support", "flows", "tasks", "deployments", "sandbox")


@dataclass(frozen=True)
class World:
    """A sandbox in which things go wrong."""

    box: Sandbox
    provider: Provider
    new_run: OpenRun
    settings: Settings

    def type_in(self, command: str, *more: str) -> Result:
        """Run a command as a shell splits it."""
        split = subprocess.run(  # noqa: S603 - what i2v advises
            ["/bin/bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True
        )
        name, *words = split.stdout.split("\0")[:-1]
        assert name == "i2v"
        return forked_i2v(*words, *more, env=bare_env(**self.box.env))

    async def report(
        self, *images: str | BatchRow, limit: str | None = None, run: RunOptions = RUN
    ) -> list[ItemReport]:
        """Generate videos with the library; return the report's items."""
        spend = Decimal(limit) if limit else None
        async with open_run(self.settings, str(uuid4()), max_spend_usd=spend, label=LABEL) as context:
            items = await find_items(list(images), context.storage, context.settings)
            report, _ = await generate(context, items, run, Steps(), partial=True)
        return list(report.items)

    async def record(self, work: Callable[[RunContext, Any], Awaitable[object]]) -> JobRecord:
        """Do something with the order of a photo; return its job."""
        async with self.new_run() as run:
            order = await order_for(run, put_photo(self.box), PROMPT.replace("{", "{{").replace("}", "}}"))
            await work(run, order)
            return (await run.ledger.read_existing(order.key)).record

    async def processed(self) -> JobRecord:
        """Process a photo; return its job."""
        return await self.record(lambda run, order: process_order(run, order, Steps()))


def planned(result: Result) -> tuple[int, str]:
    """Return the exit code and the job of the one image that a dry run plans."""
    (item,) = result.report["items"]
    assert item["outcome"] == "planned", item
    return result.code, item["job"]


def advice_of(line: ItemReport) -> Advice:
    """Return what the run's page advises about an image."""
    advice = advise(recent_item(line), line.state)
    assert advice is not None
    return advice


async def ready(world: World) -> None:
    """A job that is ready is planned by the advised run, with the same request."""
    world.provider.add_fault(on="task", kind="fails", code="Weird")
    record = await world.processed()
    async with world.new_run() as run:
        record = await Resolver(run.storage, run.settings).resubmit(record.key)
    assert planned(world.type_in(advise_job(record).command, "--dry-run", "--json")) == (0, record.key)


async def stored(world: World) -> None:
    """Another version of a stored video is a new job."""
    record = await world.processed()
    code, job = planned(world.type_in(advise_job(record).command, "--dry-run", "--json"))
    assert (code, job != record.key) == (0, True)


async def submitted(world: World) -> None:
    """Reconcile stores the video of a run that ended while it was rendering, once it is ready."""
    world.provider.set_options(render_seconds=0)
    record = await world.record(submit)
    await asyncio.sleep(world.settings.poll_first_seconds + world.settings.poll_every_seconds)
    result = world.type_in(advise_job(record).command, "--json")
    assert (result.code, result.report["stored"]) == (0, 1), result


async def claimed(world: World) -> None:
    """Reconcile names the job; it is unknown once its lease is over."""
    command = about(Situation.CLAIMED, "a" * 64).command
    assert (command, world.type_in(command).code) == ("i2v reconcile", 0)


async def refused(world: World) -> None:
    """A job that the provider refused is ready after the advised command."""
    world.provider.add_fault(on="task", kind="fails", code="NSFW")
    await resolved(world, await world.processed(), "ready")


async def failed(world: World) -> None:
    """A failed job is ready after the advised command."""
    world.provider.add_fault(on="task", kind="fails", code="Weird")
    await resolved(world, await world.processed(), "ready")


async def unknown(world: World) -> None:
    """A lost task is the job's after the advised command, with the task's id in it."""
    world.provider.add_fault(on="submit", kind="lost_answer")
    record = await world.processed()
    (task_id,) = world.provider.tasks
    command = advise_job(record).command.replace("TASKID", task_id)
    assert [job["state"] for job in world.type_in(command, "--json").report["jobs"]] == ["submitted"]


async def unverified(world: World) -> None:
    """An unverified video is accepted: nothing is left to decide."""
    world.provider.add_fault(on="file", kind="truncated", times=None)
    record = await resolved(world, await world.processed(), "stored")
    assert record["attempts"][0]["kept"]


async def resolved(world: World, record: JobRecord, state: str) -> dict[str, Any]:
    """Type the advised resolution, confirmed; the job then has this state."""
    result = world.type_in(advise_job(record).command, *(["--yes"] if state == "ready" else []), "--json")
    (job,) = result.report["jobs"]
    assert (result.code, job["key"], job["state"]) == (0, record.key, state)
    return dict(job)


async def open_too_long(world: World) -> None:
    """The details of a job are shown, with its task."""
    record = await world.record(submit)
    result = world.type_in(about(Situation.OPEN_TOO_LONG, record.key).command)
    assert (result.code, f"{record.task_id}" in result.out) == (0, True)


async def unreadable(world: World) -> None:
    """The command says what is wrong with the record."""
    world.box.s3().put_object(Bucket=world.box.bucket, Key=f"jobs/{'a' * 64}.json", Body=b"{")
    result = world.type_in(about(Situation.UNREADABLE, "a" * 64).command)
    assert (result.code, f"{'a' * 64}.json" in result.err) == (3, True)


async def not_tried(world: World) -> None:
    """An image beyond the limit is planned as the same job, wherever its prompt was from."""
    photos = [put_photo(world.box, f"{number}.jpg", number) for number in range(4)]
    world.box.put_image("images/3.jpg", make_jpeg(640, 480, seed=3), prompt="it sleeps", mode="pro")
    world.box.put_image("images/2.jpg.txt", b"it runs")
    world.box.put_image("images/1.jpg", make_jpeg(640, 480, seed=1), prompt="it sleeps")
    column = BatchRow(image=photos[1], prompt="it jumps", take=3)
    lines = await world.report(photos[0], column, *photos[2:], limit="0.33")
    left = [line for line in lines if line.outcome is Outcome.NOT_TRIED]
    assert len(left) >= 2
    for line in left:
        command = advice_of(line).command
        assert "--label 'spring sale; rm -rf' --max-spend 0.33" in command
        assert planned(world.type_in(command, "--dry-run", "--json")) == (0, line.job)


async def no_prompt(world: World) -> None:
    """Whatever is wrong with the prompts of images, the advised command is not refused."""
    put_photo(world.box, "none.jpg", 1)
    put_photo(world.box, "sidecar.jpg", 2)
    world.box.put_image("images/sidecar.jpg.txt", b"\xff\xfe")
    world.box.put_image("images/mode.jpg", make_jpeg(640, 480, seed=3), prompt="it moves", mode="best")
    long = BatchRow(image=put_photo(world.box, "long.jpg", 4), prompt="x" * 2001)
    lines = await world.report(
        *(f"s3://{world.box.bucket}/images/{n}.jpg" for n in ("none", "sidecar", "mode")), long, run=RunOptions()
    )
    assert {line.outcome for line in lines} == {Outcome.REFUSED}
    for line in lines:
        assert planned(world.type_in(advice_of(line).command, "--dry-run", "--json"))[0] == 0


async def invalid_image(world: World) -> None:
    """Once the image is replaced, the advised command plans it."""
    uri = world.box.put_image("images/a b.jpg", make_jpeg(300, 400))
    (line,) = await world.report(uri)
    world.box.put_image("images/a b.jpg", make_jpeg(640, 480))
    result = world.type_in(advice_of(line).command, "--dry-run", "--json")
    assert (planned(result)[0], result.report["items"][0]["prompt"]) == (0, PROMPT)


async def broken(world: World) -> None:
    """Once the cause is gone, here a missing object, the advised command plans the same request."""
    (line,) = await world.report(f"s3://{world.box.bucket}/images/late.jpg")
    put_photo(world.box, "late.jpg")
    result = world.type_in(advice_of(line).command, "--dry-run", "--json")
    assert (planned(result)[0], result.report["items"][0]["prompt"]) == (0, PROMPT)


async def forgotten(world: World) -> None:
    """An erased image, which its prefix does not make again, is planned once it is named."""
    photo = put_photo(world.box)
    record = await world.processed()
    async with world.new_run() as run:
        selection = Selection(run.settings)
        selection.add([photo])
        await search(run.ledger, selection)
        await erase(run.ledger, selection)
        erased = (await run.ledger.read_existing(record.key)).record
    (line,) = await world.report(f"s3://{world.box.bucket}/images/")
    assert (line.outcome, advise_job(erased).command) == (Outcome.REFUSED, "")
    assert planned(world.type_in(advice_of(line).command, "--dry-run", "--json"))[0] == 0


SCENARIOS: dict[Situation, Callable[[World], Awaitable[None]]] = {
    Situation.READY: ready,
    Situation.CLAIMED: claimed,
    Situation.SUBMITTED: submitted,
    Situation.STORED: stored,
    Situation.REFUSED: refused,
    Situation.FAILED: failed,
    Situation.UNKNOWN: unknown,
    Situation.FORGOTTEN: forgotten,
    Situation.UNVERIFIED: unverified,
    Situation.OPEN_TOO_LONG: open_too_long,
    Situation.UNREADABLE: unreadable,
    Situation.NOT_TRIED: not_tried,
    Situation.NO_PROMPT: no_prompt,
    Situation.INVALID_IMAGE: invalid_image,
    Situation.BROKEN: broken,
}


@pytest.mark.parametrize("situation", Situation)
async def test_the_advised_command_changes_the_outcome(
    situation: Situation, sandbox: Sandbox, provider: Provider, new_run: OpenRun, settings: Settings
) -> None:
    """What is advised in each situation works as typed in a shell."""
    await SCENARIOS[situation](World(sandbox, provider, new_run, settings))


HINTS = {
    ("doctor",): 0,
    ("forget", "--help"): 0,
    ("jobs",): 0,
    ("jobs", "--state", "submitted"): 0,
    ("jobs", "--state", "unknown"): 0,
    ("jobs", "resolve", "--help"): 0,
    ("limits",): 0,
    ("reconcile",): 0,
    ("resume",): 0,
    ("run", "FILE"): 2,
}
"""Commands of hints, whose arguments are literal, and their exit codes; FILE stands for one."""
WITH_A_JOB = {("jobs", "show"), ("jobs", "resolve")}
"""The beginnings of commands with a job's key; `SCENARIOS` runs them."""


def _calls() -> Iterator[tuple[str, ...]]:
    """Yield the literal words at the beginning of each advised command in the code."""
    for path in (path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command":
                words = [str(word.value) if isinstance(word, ast.Constant) else "" for word in node.args]
                yield tuple(words[: words.index("")] if "" in words else words)


def test_every_advised_command_has_a_test() -> None:
    """Each call of `command` in the code is in `HINTS`, or in the scenarios of jobs."""
    calls = set(_calls())
    assert {("doctor",), ("jobs", "show")} <= calls
    assert calls == set(HINTS) | WITH_A_JOB


def test_no_message_names_a_command_itself() -> None:
    """Messages take commands from `i2v.advised_commands`, which knows how this installation types them."""
    advised = re.compile(r"\bi2v (run|estimate|doctor|jobs|forget|reconcile|pause|resume)\b")
    found = []
    for path in (path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        strings = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs)
        found += [f"{path.name}: {text}" for node in strings if advised.search(text := str(node.value))]
    templates = [path for folder in SOURCES for path in (ROOT / folder).rglob("*.html")]
    found += [path.name for path in templates if advised.search(path.read_text())]
    assert found == []


@pytest.mark.parametrize("words", HINTS)
def test_the_command_of_a_hint_works(words: tuple[str, ...], sandbox: Sandbox) -> None:
    """Commands without a job run in an empty ledger."""
    result = forked_i2v(*words, env=bare_env(**sandbox.env))
    assert result.code == HINTS[words], result.err
    assert json.dumps(result.out + result.err) != '""'
