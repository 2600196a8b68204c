"""The spans and metrics of real runs, as OpenTelemetry's SDK records them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.logs import JsonLines
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.submit import submit
from i2v.recovery.reconcile import settle_open
from i2v.request import Mode
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.orders import OpenRun, job_records, order_for, put_photo
from tests.support.recorded_spans import Recorder, record_telemetry
from tests.support.secret_search import SecretSearch

PROMPT = "a very private wish of the customer"


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Record what happens in this test."""
    with record_telemetry() as recorder:
        yield recorder


def _attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


async def test_a_run_has_spans_for_images_and_steps(sandbox: Sandbox, new_run: OpenRun, recorder: Recorder) -> None:
    """A run is one trace: the run, its images and each image's steps, with job, outcome and cost."""
    uris = [put_photo(sandbox), sandbox.put_image("images/broken.jpg", b"not an image")]
    before = recorder.sums()
    async with new_run(run_id="run-7") as run:
        items = await find_items(uris, run.storage, run.settings)
        await generate(run, items, RequestOptions(prompt=PROMPT, mode=Mode.STANDARD, duration=6, take=1), Steps())
    (record,) = job_records(sandbox)

    (whole,) = recorder.spans("i2v.run")
    assert _attributes(whole) == {
        "i2v.run_id": "run-7",
        "i2v.dry_run": False,
        "i2v.images.stored": 1,
        "i2v.images.refused": 1,
        "i2v.cost_usd": 0.192,
        "i2v.possibly_charged_usd": 0.0,
    }
    images = {str(_attributes(span)["i2v.image"]): span for span in recorder.spans("i2v.image")}
    assert _attributes(images[uris[0]]) == {
        "i2v.image": uris[0],
        "i2v.outcome": "stored",
        "i2v.job": record.key,
        "i2v.task_id": record.task_id,
        "i2v.mode": "standard",
        "i2v.duration": 6,
        "i2v.take": 1,
        "i2v.cost_usd": 0.192,
        "i2v.possibly_charged_usd": 0.0,
    }
    assert _attributes(images[uris[1]])["i2v.outcome"] == "refused"
    assert {span.parent and span.parent.span_id for span in images.values()} == {whole.context.span_id}
    steps = {name: recorder.spans(f"i2v.{name}") for name in ("validate", "submit", "poll", "store")}
    assert {name: len(spans) for name, spans in steps.items()} == {"validate": 2, "submit": 1, "poll": 1, "store": 1}
    parent = images[uris[0]].context.span_id
    assert {spans[-1].parent and spans[-1].parent.span_id for name, spans in steps.items() if name != "validate"} == {
        parent
    }
    assert _attributes(steps["store"][0])["i2v.job.state"] == "stored"
    assert _attributes(steps["submit"][0])["i2v.job.cost_usd"] == 0.192

    after = recorder.sums()
    counted = {name: round(after[name] - before.get(name, 0), 3) for name in after}
    assert counted == {"i2v.images": 2, "i2v.charged": 0.192, "i2v.possibly_charged": 0, "i2v.render.duration": 1}


async def test_a_lost_answer_is_an_error_with_its_cost(sandbox: Sandbox, new_run: OpenRun, recorder: Recorder) -> None:
    """The spans of an unknown job and its run are errors, and say what was possibly charged."""
    sandbox.provider.add_fault(on="submit", kind="lost_answer")
    async with new_run() as run:
        items = await find_items(put_photo(sandbox), run.storage, run.settings)
        await generate(run, items, RequestOptions(prompt=PROMPT), Steps())

    (image,), (whole,) = recorder.spans("i2v.image"), recorder.spans("i2v.run")
    assert _attributes(image)["i2v.outcome"] == "unknown"
    assert [_attributes(span)["i2v.possibly_charged_usd"] for span in (image, whole)] == [0.192, 0.192]
    assert {span.status.status_code for span in (image, whole)} == {StatusCode.ERROR}


async def test_reconcile_has_a_span_per_job(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, recorder: Recorder
) -> None:
    """A job that reconcile settles has a span with its outcome, and its steps below."""
    uri = put_photo(sandbox)
    async with new_run() as dead:
        await submit(dead, await order_for(dead, uri))
    provider.wait(lambda: all(task.state == "success" for task in provider.tasks.values()))
    async with new_run() as run:
        (line,) = await settle_open(run)

    (image,), (store,) = recorder.spans("i2v.image"), recorder.spans("i2v.store")
    assert _attributes(image)["i2v.outcome"] == line.outcome == "stored"
    assert store.parent
    assert store.parent.span_id == image.context.span_id


async def test_nothing_secret_or_private_is_exported(sandbox: Sandbox, new_run: OpenRun, recorder: Recorder) -> None:
    """Neither spans nor metrics contain the key, a signature, a prompt or the text of an error."""
    signed = sandbox.presign(put_photo(sandbox, "other.jpg", seed=2))
    (signature,) = parse_qs(urlsplit(signed).query)["X-Amz-Signature"]
    sandbox.provider.add_fault(on="submit", kind="answer", status=401)
    async with new_run() as run:
        items = await find_items([put_photo(sandbox), signed], run.storage, run.settings)
        await generate(run, items, RequestOptions(prompt=PROMPT), Steps())
        key = run.settings.require_key().get_secret_value()

    assert len(recorder.spans("i2v.image")) == 2
    assert any("error.type" in _attributes(span) for span in recorder.spans("i2v.submit")), "a step has failed"
    assert not any(span.events for span in recorder.exporter.get_finished_spans())
    search = SecretSearch({"signature": signature, "prompt": PROMPT, "any": "X-Amz-Signature=", "key": key.ljust(16)})
    search.search("telemetry", recorder.text())
    assert search.found == set()
    assert key not in recorder.text()


async def test_json_lines_name_their_span(
    sandbox: Sandbox, new_run: OpenRun, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """A JSON line that is logged inside a step has the ids of the trace and of the step's span."""
    caplog.set_level(logging.INFO, "i2v")
    caplog.handler.setFormatter(JsonLines())
    async with new_run() as run:
        items = await find_items(put_photo(sandbox), run.storage, run.settings)
        await generate(run, items, RequestOptions(prompt=PROMPT), Steps())

    (whole,), (validate,) = recorder.spans("i2v.run"), recorder.spans("i2v.validate")
    lines = [json.loads(line) for line in caplog.text.splitlines()]
    assert {line.get("trace_id") for line in lines} == {f"{whole.context.trace_id:032x}"}
    assert f"{validate.context.span_id:016x}" in {line["span_id"] for line in lines}
