"""A prompt that a person typed is used, or the report says which images keep their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from i2v.inputs.prompts import RunOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.generate import Steps, generate
from i2v.reports.run_report import Report
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.forked_command import forked_i2v
from tests.support.i2v_command import Result, bare_env
from tests.support.orders import OpenRun

OWN = {"metadata": "it sleeps", "sidecar": "it runs", "flag": "wind"}


def estimate(sandbox: Sandbox, *words: str) -> Result:
    """Estimate in the sandbox, with JSON on stdout."""
    return forked_i2v("estimate", *words, "--json", env=bare_env(**sandbox.env))


def put_images(sandbox: Sandbox) -> str:
    """Put an image with a prompt in its metadata, one with a sidecar and one without a prompt; return their prefix."""
    metadata = {"prompt": OWN["metadata"], "mode": "pro"}
    sandbox.put_image("images/metadata.jpg", make_jpeg(400, 400, seed=1), **metadata)
    sandbox.put_image("images/sidecar.jpg", make_jpeg(400, 400, seed=2))
    sandbox.put_image("images/sidecar.jpg.txt", OWN["sidecar"].encode())
    sandbox.put_image("images/flag.jpg", make_jpeg(400, 400, seed=3))
    return f"s3://{sandbox.bucket}/images/"


def sources(result: Result) -> dict[str, str]:
    """Return the prompts by their source."""
    return {item["prompt_source"]: item["prompt"] for item in result.report["items"]}


def test_images_that_keep_their_own_prompt_are_counted(sandbox: Sandbox) -> None:
    """Each prompt has its source in the JSON, and the flag that two images override is not ignored in silence."""
    result = estimate(sandbox, put_images(sandbox), "--prompt", "wind", "--duration", "10")
    assert sources(result) == OWN
    assert "2 images keep their own prompt and duration; --override-prompts uses yours" in result.err


def test_an_option_typed_at_its_default_is_counted(sandbox: Sandbox) -> None:
    """A typed `--mode standard` that an image's pro overrides is contradicted; the default that nobody typed is not."""
    sandbox.put_image("images/pro.jpg", make_jpeg(400, 400), prompt="it sleeps", mode="pro")
    uri = f"s3://{sandbox.bucket}/images/"
    assert (
        "1 image keeps its own mode; --override-prompts uses yours" in estimate(sandbox, uri, "--mode", "standard").err
    )
    assert "keep" not in estimate(sandbox, uri).err
    overridden = estimate(sandbox, uri, "--mode", "standard", "--prompt", "wind", "--override-prompts")
    assert ("keep" in overridden.err, overridden.report["items"][0]["cost_usd"]) == (False, 0.192)


def test_override_prompts_replaces_those_of_images(sandbox: Sandbox) -> None:
    """With the option, the typed request replaces metadata and sidecars, and nothing is left to say."""
    result = estimate(sandbox, put_images(sandbox), "--prompt", "wind", "--override-prompts")
    assert sources(result) == {"flag": "wind"}
    assert [item["cost_usd"] for item in result.report["items"]] == [0.192] * 3
    assert "keep" not in result.err


def test_override_prompts_replaces_invalid_metadata(sandbox: Sandbox) -> None:
    """An image that its metadata would refuse is valid with a request that needs none of it."""
    uri = sandbox.put_image("images/bad.jpg", make_jpeg(400, 400), prompt="it moves", mode="best")
    assert estimate(sandbox, uri, "--prompt", "wind").report["refused"] == 1
    assert estimate(sandbox, uri, "--prompt", "wind", "--override-prompts").report["planned"] == 1


def test_a_row_keeps_its_own_prompt(sandbox: Sandbox, tmp_path: Path) -> None:
    """The prompt in a batch file was typed too: it stays, with or without the option, and is counted."""
    uri = sandbox.put_image("images/a.jpg", make_jpeg(400, 400), prompt="it sleeps")
    file = tmp_path / "rows.csv"
    file.write_text(f"image,prompt\n{uri},it jumps\n")
    result = estimate(sandbox, str(file), "--prompt", "wind", "--override-prompts")
    assert sources(result) == {"column": "it jumps"}
    assert "1 row keeps its own prompt\n" in result.err


def test_a_local_file_keeps_the_prompt_of_its_sidecar(sandbox: Sandbox, tmp_path: Path) -> None:
    """A prompt file beside a local image counts as the image's own."""
    (tmp_path / "a.jpg").write_bytes(make_jpeg(400, 400))
    (tmp_path / "a.jpg.txt").write_text("it runs")
    result = estimate(sandbox, str(tmp_path), "--prompt", "wind")
    assert (sources(result), "1 image keeps its own prompt" in result.err) == ({"sidecar": "it runs"}, True)
    assert sources(estimate(sandbox, str(tmp_path), "--prompt", "wind", "--override-prompts")) == {"flag": "wind"}


@pytest.mark.parametrize("command", [("run", "x.jpg"), ("estimate", "x.jpg"), ("reconcile",)])
def test_pro_with_10_seconds_is_refused(sandbox: Sandbox, command: tuple[str, ...]) -> None:
    """The options contradict each other, as they do in a batch file: no 6 s pro video is bought instead."""
    result = forked_i2v(*command, "--mode", "pro", "--duration", "10", env=bare_env(**sandbox.env))
    assert (result.code, result.errors) == (2, ["pro is always 6 s, not 10 s"])


async def test_only_a_request_that_differs_is_paid(sandbox: Sandbox, new_run: OpenRun) -> None:
    """Another prompt is cached and contradicted; overriding pays for one more video; the same again is free."""
    uri = sandbox.put_image("images/a.jpg", make_jpeg(400, 400), prompt="it sleeps")

    async def generate_with(options: RunOptions) -> Report:
        async with new_run() as run:
            report, _ = await generate(run, await find_items(uri, run.storage, run.settings), options, Steps())
            return report

    wind = RunOptions(prompt="wind", mode="standard", duration=6, take=1)
    over = wind.model_copy(update={"override_prompts": True})
    reports = [await generate_with(options) for options in (RunOptions(), wind, over, over)]
    assert [report.summary for report in reports] == ["1 stored · $0.192", "1 cached · $0.00"] * 2
    assert [bool(report.notes) for report in reports] == [False, True, False, False]
    assert len(sandbox.provider.billed()) == 2
