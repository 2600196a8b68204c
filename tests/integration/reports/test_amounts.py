"""Amounts agree: message, progress, page, gallery, JSON, manifest, ledger and spend report say what was billed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from html import unescape

import pytest

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.money import Charges, sum_charges
from i2v.pipeline.events import Event, update_progress
from i2v.pipeline.generate import Steps, generate
from i2v.reports.live_page import live_page
from i2v.reports.progress import RunProgress
from i2v.reports.run_page import RunPageInfo, run_page
from i2v.reports.run_report import Report
from i2v.reports.spend import sum_spend
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.gallery_client import open_gallery
from tests.support.orders import OpenRun, job_records, put_photo
from tests.support.reconciling import reconcile

PRICE = Decimal("0.192")
OPTIONS = RequestOptions.model_validate({"prompt": "a slow zoom"})
NAMES = ("cached.jpg", "stored.jpg", "failed.jpg", "lost.jpg", "slow.jpg", "small.jpg", "left.jpg")
OUTCOMES = {"cached", "stored", "failed", "unknown", "submitted", "refused", "not_tried"}


class Follower(RunProgress):
    """The progress that a listener of a run sees."""

    def on_event(self, event: Event) -> None:
        """Count the event."""
        update_progress(self, event)


@dataclass
class Story:
    """A run with each outcome, and the reconcile that later stores what it left open."""

    report: Report
    progress: Follower
    later: Report
    later_progress: Follower


@pytest.fixture
async def story(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> Story:
    """Run them, with scripted faults."""
    for seed, name in enumerate(NAMES):
        put_photo(sandbox, name, seed + 1)
    sandbox.put_image("images/small.jpg", make_jpeg(200, 200))
    await _generate(new_run, "cached.jpg")
    provider.add_fault(on="task", kind="fails", code="Weird", message="it broke", image="failed.jpg")
    provider.add_fault(on="submit", kind="lost_answer", image="lost.jpg")
    provider.add_fault(on="task", kind="state", state="processing", times=None, image="slow.jpg")
    spendable = {"max_in_flight": 1, "max_spend_usd": 4 * PRICE, "poll_deadline_seconds": 2}
    report, progress = await _generate(new_run, *NAMES, run_id="mixed", **spendable)
    for task in provider.tasks.values():  # the slow one is ready after all
        task.fault = None if task.fault and task.fault.kind == "state" else task.fault
    provider.wait(lambda: all(task.state in {"success", "failed"} for task in provider.tasks.values()))
    async with new_run(run_id="later") as run:
        follower = Follower()
        run.add_listener(follower)
        later = await reconcile(run)
    return Story(report, progress, later, follower)


async def _generate(new_run: OpenRun, *names: str, **options: object) -> tuple[Report, Follower]:
    async with new_run(**options) as run:
        follower = Follower()
        run.add_listener(follower)
        uris = [f"s3://{run.settings.bucket}/images/{name}" for name in names]
        items = await find_items(uris, run.storage, run.settings)
        report, _ = await generate(run, items, OPTIONS, Steps(), partial=True)
    return report, follower


def _amounts(text: str) -> Charges:
    """Return the amounts in a text such as `$0.576 charged, $0.192 possibly charged`."""
    possibly = re.search(r"\\?\$([0-9.]+) possibly charged", text)
    charged = re.search(r"\\?\$([0-9.]+)(?! possibly)(?![0-9.])", text)
    return Charges(*(Decimal(found[1]) if found else Decimal(0) for found in (charged, possibly)))


async def test_a_runs_amounts_agree_everywhere(sandbox: Sandbox, provider: Provider, story: Story) -> None:
    """Message, progress, live page, page, JSON, rows and record have the same amounts, by run."""
    assert {item.outcome.value for item in story.report.items} == OUTCOMES
    [stored] = [item.outcome.value for item in story.later.items if item.image.endswith("slow.jpg")]
    expected = {"mixed": Charges(3 * PRICE, PRICE), "later": Charges()}
    for name, report, progress in (
        ("mixed", story.report, story.progress),
        ("later", story.later, story.later_progress),
    ):
        as_json = report.for_json()
        shown = {
            "report": report.charges,
            "message": _amounts(report.summary),
            "progress": progress.charges,
            "live page": _amounts(live_page(progress).split("so far")[0].rpartition("\n")[2]),
            "page": _amounts(run_page(report, RunPageInfo(), {}).splitlines()[0]),
            "json": Charges(*(_exact(as_json[field]) for field in ("spent_usd", "possibly_charged_usd"))),
            "items": sum_charges(map(_of_line, as_json["items"])),
            "rows": sum_charges(map(_of_line, map(json.loads, sandbox.read(f"jobs/runs/{name}.jsonl").splitlines()))),
        }
        if name == "later":
            del shown["rows"]  # a reconcile that generates nothing writes none
        assert shown == dict.fromkeys(shown, expected[name]), name
        assert sandbox.read_json(f"jobs/runs/{name}.json")["report"] == report.for_record()
    assert stored == "stored"


def _of_line(line: dict[str, float]) -> Charges:
    return Charges(_exact(line["cost_usd"]), _exact(line["possibly_charged_usd"]))


def _exact(amount: float) -> Decimal:
    return Decimal(str(amount))


async def test_a_jobs_amounts_agree_everywhere(
    sandbox: Sandbox, provider: Provider, settings: Settings, new_run: OpenRun, story: Story
) -> None:
    """Ledger, manifest, gallery and spend report have the same amounts, by job; also a video that reconcile stored."""
    records = {record.image.label: record for record in job_records(sandbox)}
    charges = {label.rpartition("/")[2]: record.charges for label, record in records.items()}
    paid, lost = Charges(PRICE), Charges(possibly=PRICE)
    assert {name: charges[name] for name in NAMES if charges.get(name)} == {
        "cached.jpg": paid,
        "stored.jpg": paid,
        "failed.jpg": paid,
        "lost.jpg": lost,
        "slow.jpg": paid,
    }
    for record in records.values():
        if record.video:
            manifest = json.loads(sandbox.read(record.video.manifest.key))
            assert Decimal(manifest["cost_usd"]) == record.charges.total
    async with open_gallery(settings) as gallery:
        page = (await gallery.get()).text
    cards = dict(re.findall(r'data-name="([^"]+)".*?class="price">([^<]+)<', page, re.DOTALL))
    free = {"small.jpg": "$0.00"}
    assert {name: unescape(text) for name, text in cards.items()} == {
        name: str(amount) for name, amount in charges.items() if amount
    } | free
    async with new_run() as run:
        spend = await sum_spend(run.storage, run.settings, days=1)
    total = sum_charges(charges.values())
    assert (spend.totals.total_usd, spend.totals.possibly_charged_usd) == (total.total, total.possibly)
    assert provider.billed_usd == total.total


def test_the_text_of_amounts() -> None:
    """What was possibly charged is never added to what was charged."""
    assert str(Charges(Decimal("0.96"), PRICE)) == "$0.96 charged, $0.192 possibly charged"
    assert _amounts(str(Charges(possibly=PRICE))) == Charges(possibly=PRICE)
