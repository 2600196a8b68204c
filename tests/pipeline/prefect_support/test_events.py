"""A run's name, tags and events on a real Prefect server."""

from __future__ import annotations

import re
from types import SimpleNamespace
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.objects import FlowRun

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.run_names import run_name
from i2v.inputs.sources import InputItem
from i2v.media.images import ImageRef
from i2v.request import Mode
from prefect_support import run_names
from prefect_support.run_names import run_tags
from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.flow_runs import FinishedFlowRun, RunFlow, wait_for_i2v_events

STANDARD = RequestOptions(mode=Mode.STANDARD, duration=6, take=1)


async def _flow_run(finished: FinishedFlowRun) -> FlowRun:
    async with get_client() as client:
        return await client.read_flow_run(finished.run_id)


async def test_each_outcome_is_an_event(
    prefect_server: PrefectServer, sandbox: Sandbox, provider: Provider, run_flow: RunFlow
) -> None:
    """Submitted, stored, refused, failed and unknown jobs and the end of a run each emit an event with its resource."""
    for seed, name in enumerate(("good", "nsfw", "gone", "lost")):
        sandbox.put_image(f"images/{name}.jpg", make_jpeg(400, 400, seed=seed), prompt=name)
    sandbox.put_image("images/small.jpg", make_jpeg(200, 200))
    provider.add_fault(on="task", kind="fails", code="NSFW", prompt="nsfw", times=None)
    provider.add_fault(on="task", kind="fails", code="MODEL_X", prompt="gone", times=None)
    provider.add_fault(on="submit", kind="lost_answer", prompt="lost")
    finished = await run_flow()
    items = {item["image"].rpartition("/")[2]: item for item in finished.report["items"]}

    events = await wait_for_i2v_events(prefect_server, sandbox, 9)

    emitted = sorted((event["event"], event["resource"]["prefect.resource.id"]) for event in events)
    jobs = {name: f"i2v.job.{item['job']}" for name, item in items.items()}
    small = f"i2v.image.s3://{sandbox.bucket}/images/small.jpg"
    assert emitted == sorted(
        [
            *(("i2v.job.submitted", jobs[f"{name}.jpg"]) for name in ("good", "nsfw", "gone")),
            ("i2v.job.stored", jobs["good.jpg"]),
            ("i2v.job.refused", jobs["nsfw.jpg"]),
            ("i2v.job.refused", small),
            ("i2v.job.failed", jobs["gone.jpg"]),
            ("i2v.job.unknown", jobs["lost.jpg"]),
            ("i2v.run.finished", f"i2v.run.{finished.run_id}"),
        ]
    )
    (stored,) = (event for event in events if event["event"] == "i2v.job.stored")
    assert stored["payload"]["video"] == items["good.jpg"]["video"]
    assert (stored["payload"]["cost_usd"], stored["payload"]["prompt"]) == (0.192, "good")
    (ended,) = (event for event in events if event["event"] == "i2v.run.finished")
    named = {one["image"].rpartition("/")[2]: one["outcome"] for one in ended["payload"]["needs_person"]}
    assert (ended["payload"]["images"], ended["resource"]["i2v.images"]) == (5, "5")
    assert (named, ended["payload"]["needs_person_count"]) == ({"gone.jpg": "failed", "lost.jpg": "unknown"}, 2)
    assert ended["payload"]["url"].endswith(f"/runs/flow-run/{finished.run_id}")
    assert "X-Amz" not in str(events)


async def test_reaching_most_of_the_daily_cap_is_an_event(
    prefect_server: PrefectServer, sandbox: Sandbox, run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event is emitted when spending reaches 80% of the daily cap, with both amounts."""
    monkeypatch.setenv("I2V_DAILY_CAP_USD", "0.48")
    for number in range(2):
        sandbox.put_image(f"images/{number}.jpg", make_jpeg(400, 400, seed=number))
    await run_flow(images=f"s3://{sandbox.bucket}/images/0.jpg")
    await run_flow(images=f"s3://{sandbox.bucket}/images/1.jpg")

    events = await wait_for_i2v_events(prefect_server, sandbox, 7)

    near = [event for event in events if event["event"] == "i2v.budget.near"]
    limit = {"limit": "I2V_DAILY_CAP_USD", "label": "*", "period": "day"}
    assert [event["payload"] for event in near] == [{"spent_usd": 0.384, "cap_usd": 0.48, **limit}]
    assert near[0]["resource"]["prefect.resource.id"] == f"i2v.ledger.{sandbox.bucket}"
    assert near[0]["resource"]["i2v.limit"] == "I2V_DAILY_CAP_USD"


async def test_a_dry_run_emits_no_event(prefect_server: PrefectServer, sandbox: Sandbox, run_flow: RunFlow) -> None:
    """All events come from the real run, none from the dry run."""
    sandbox.put_image("images/tom.jpg", make_jpeg(400, 400))
    dry = await run_flow(dry_run=True)
    real = await run_flow()

    events = await wait_for_i2v_events(prefect_server, sandbox, 3)

    assert (await _flow_run(dry)).name.startswith("1 image · images/tom.jpg · standard 6 s · dry run · ")
    assert {event["payload"].get("run_id") for event in events} - {None} == {str(real.run_id)}


async def test_a_run_is_named_after_its_images(sandbox: Sandbox, run_flow: RunFlow) -> None:
    """A run's name has the number of images, their folder and the request; its tags have source, label and mode."""
    for number in range(2):
        sandbox.put_image(f"images/cats/{number}.jpg", make_jpeg(400, 400, seed=number))
    run = await _flow_run(await run_flow(label="spring"))
    assert re.fullmatch(r"2 images · images/cats/ · standard 6 s · \d\d:\d\d:\d\d UTC", run.name)
    assert run.tags == ["hand", "i2v", "spring", "standard"]


@pytest.mark.parametrize(
    ("images", "options", "name"),
    [
        (["s3://b-1/images/a/x.jpg", "s3://b-1/images/b/y.jpg"], STANDARD, "2 images · images/ · standard 6 s"),
        (["s3://b-1/a/x.jpg", "s3://b-2/b/y.jpg"], STANDARD, "2 images · several locations · standard 6 s"),
        (
            ["https://example.org/x.jpg?sig=1"],
            RequestOptions(mode=Mode.PRO, duration=10),
            "1 image · example.org · pro 6 s",
        ),
        (
            ["s3://b-1/images/x.jpg"],
            RequestOptions(mode=Mode.STANDARD, duration=10, take=2),
            "1 image · images/x.jpg · standard 10 s take 2",
        ),
    ],
)
def test_a_run_name_has_the_common_folder(images: list[str], options: RequestOptions, name: str) -> None:
    """The name has the folder that all images share, and no query of a URL."""
    items = [InputItem(ref=ImageRef.parse(image)) for image in images]
    assert run_name(items, options, dry_run=False) == name


@pytest.mark.parametrize(
    ("tags", "scheduled", "source"),
    [
        (["i2v", "bucket"], False, "bucket"),
        ([], True, "schedule"),
        (["callback"], False, "callback"),
        ([], False, "hand"),
    ],
)
def test_the_source_of_a_run_is_a_tag(tags: list[str], scheduled: bool, source: str) -> None:
    """The source is a person, a schedule, the bucket or a callback."""
    run = FlowRun.model_construct(flow_id=UUID(int=0), tags=tags, auto_scheduled=scheduled)
    assert set(run_tags(run, Mode.PRO, "spring")) == {*tags, "i2v", source, "pro", "spring"}


@pytest.mark.parametrize(("tags", "is_by_door"), [(["i2v", "bucket"], True), (["i2v"], False)])
def test_the_tag_of_on_image_tells_that_no_person_named_the_images(
    tags: list[str], is_by_door: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The door's runs have it from their deployment; a run by hand does not, and code outside a run has none."""
    monkeypatch.setattr(run_names, "current_run", lambda: SimpleNamespace(tags=tags))
    assert run_names.is_started_by_door() is is_by_door
    monkeypatch.setattr(run_names, "current_run", lambda: None)
    assert not run_names.is_started_by_door()
