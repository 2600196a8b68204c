"""The commands that need no Prefect, as processes in the sandbox: estimate, jobs, pause and resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.generate import Steps, generate
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.forked_command import forked_i2v
from tests.support.i2v_command import Result, bare_env, i2v
from tests.support.orders import OpenRun
from tests.support.paths import ROOT

PROMPT = "it moves"


def run_i2v(sandbox: Sandbox, *words: str, **variables: str) -> Result:
    """Run the command in the sandbox."""
    return forked_i2v(*words, env=bare_env(**{**sandbox.env, **variables}))


async def generate_all(sandbox: Sandbox, new_run: OpenRun) -> None:
    """Generate a video of each image in the bucket, with the library."""
    async with new_run() as run:
        items = await find_items(f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
        await generate(run, items, RequestOptions(prompt=PROMPT), Steps())


def put_images(sandbox: Sandbox) -> None:
    """Put two valid images, and one that is too small."""
    for number in range(2):
        sandbox.put_image(f"images/{number}.jpg", make_jpeg(400, 400, seed=number))
    sandbox.put_image("images/small.jpg", make_jpeg(300, 400))


def test_an_estimate_needs_no_key_and_leaves_no_trace(sandbox: Sandbox, tmp_path: Path) -> None:
    """Images in S3 and local files are validated and priced; no uploads and no request to the provider."""
    put_images(sandbox)
    (tmp_path / "new.jpg").write_bytes(make_jpeg(400, 400, seed=5))
    before = sandbox.keys()
    result = run_i2v(
        sandbox,
        "estimate",
        f"s3://{sandbox.bucket}/images/",
        str(tmp_path),
        "--prompt",
        PROMPT,
        "--mode",
        "pro",
        "--json",
        APIXO_API_KEY="",
    )
    assert (result.code, result.report["planned"], result.report["refused"]) == (0, 3, 1)
    assert [item["cost_usd"] for item in result.report["items"] if item["outcome"] == "planned"] == [0.33] * 3
    assert (before, 0.0, []) == (sandbox.keys(), result.report["spent_usd"], sandbox.provider.request_log.entries)


async def test_an_estimate_leaves_out_existing_videos(sandbox: Sandbox, new_run: OpenRun, tmp_path: Path) -> None:
    """An image with a video costs nothing, in S3 and as a local file with the same content."""
    put_images(sandbox)
    await generate_all(sandbox, new_run)
    (tmp_path / "same.jpg").write_bytes(make_jpeg(400, 400, seed=0))
    result = run_i2v(sandbox, "estimate", f"s3://{sandbox.bucket}/images/", str(tmp_path), "--prompt", PROMPT, "--json")
    assert (result.report["cached"], result.report["planned"], result.report["refused"]) == (3, 0, 1)


def test_an_estimate_without_a_valid_image_exits_3(sandbox: Sandbox) -> None:
    """Exit code 3 says that a run would do nothing."""
    sandbox.put_image("images/small.jpg", make_jpeg(300, 400))
    result = run_i2v(sandbox, "estimate", f"s3://{sandbox.bucket}/images/", "--prompt", PROMPT, "--json")
    assert (result.code, result.report["refused"]) == (3, 1)


async def test_jobs_lists_the_ledger(sandbox: Sandbox, new_run: OpenRun) -> None:
    """`i2v jobs` lists each job with its state and cost, and the totals last."""
    put_images(sandbox)
    await generate_all(sandbox, new_run)
    lines = run_i2v(sandbox, "jobs").out.splitlines()
    assert ([line.split()[1:2] for line in lines[1:3]], lines[-1]) == ([["stored"]] * 2, "2 stored · $0.384")
    assert json.loads(run_i2v(sandbox, "jobs", "--state", "failed", "--json").out)["jobs"] == []
    jobs = json.loads(run_i2v(sandbox, "jobs", "--since", "1h", "--json").out)["jobs"]
    assert [job["cost_usd"] for job in jobs] == [0.192] * 2


async def test_a_job_is_found_by_the_start_of_its_key(sandbox: Sandbox, new_run: OpenRun) -> None:
    """`i2v jobs show` accepts the first digits of a key, and shows the details and the next step."""
    put_images(sandbox)
    await generate_all(sandbox, new_run)
    key = json.loads(run_i2v(sandbox, "jobs", "--json").out)["jobs"][0]["key"]
    result = run_i2v(sandbox, "jobs", "show", key[:8])
    assert (result.code, all(words in result.out for words in (key, PROMPT, "task_", ".mp4", "Done:"))) == (0, True)
    assert json.loads(run_i2v(sandbox, "jobs", "show", key, "--json").out)["next"].startswith("Done:")


@pytest.mark.parametrize("key", ["abcde", "no-hex", "abcdef123456"])
def test_a_key_that_names_no_job_is_wrong_usage(sandbox: Sandbox, key: str) -> None:
    """A key that is invalid or matches no job exits 2."""
    result = run_i2v(sandbox, "jobs", "show", key)
    assert (result.code, len(result.errors), result.out) == (2, 1, "")


def test_pause_and_resume_change_the_ledger(sandbox: Sandbox) -> None:
    """`pause` works before the first run and again when paused; `resume` undoes it."""
    for word, paused in (("pause", True), ("pause", True), ("resume", False)):
        assert (0, paused) == (run_i2v(sandbox, word).code, sandbox.read_json("jobs/ledger.json")["paused"])


def test_resuming_the_ledger_of_another_account_is_wrong_usage(sandbox: Sandbox) -> None:
    """The ledger of one account is not changed under another."""
    run_i2v(sandbox, "pause")
    result = run_i2v(sandbox, "resume", I2V_ACCOUNT_LABEL="other")
    assert (result.code, sandbox.read_json("jobs/ledger.json")["paused"]) == (2, True)


def test_a_library_without_the_project_cannot_run_flows(sandbox: Sandbox, tmp_path: Path) -> None:
    """From the wheel alone `i2v run` exits 2 and says how to install the project."""
    shutil.copytree(ROOT / "src/i2v", tmp_path / "site/i2v", ignore=shutil.ignore_patterns("__pycache__"))
    env = bare_env(**sandbox.env, PYTHONPATH=str(tmp_path / "site"))
    result = i2v("run", f"s3://{sandbox.bucket}/images/", "--prompt", PROMPT, env=env, folder=tmp_path)
    assert (result.code, "make setup" in result.err) == (2, True)
