"""The commands that need no Prefect, as real processes against the sandbox: estimate, jobs, pause and resume."""

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
from tests.support.i2v_command import Said, bare_env, i2v
from tests.support.orders import OpenRun
from tests.support.paths import ROOT

PROMPT = "it moves"


def ask(sandbox: Sandbox, *words: str, **variables: str) -> Said:
    """The command in the sandbox."""
    return i2v(*words, env=bare_env(**{**sandbox.env, **variables}))


async def animated(sandbox: Sandbox, new_run: OpenRun) -> None:
    """A run over the bucket, by the library."""
    async with new_run() as run:
        items = await find_items(f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
        await generate(run, items, RequestOptions(prompt=PROMPT), Steps())


def put_images(sandbox: Sandbox) -> None:
    """Two good images, and one that is too small."""
    for number in range(2):
        sandbox.put_image(f"images/{number}.jpg", make_jpeg(400, 400, seed=number))
    sandbox.put_image("images/small.jpg", make_jpeg(300, 400))


def test_an_estimate_needs_no_key_and_leaves_no_trace(sandbox: Sandbox, tmp_path: Path) -> None:
    """Images in S3 and local files are validated and priced; nothing is put, asked of the provider or billed."""
    put_images(sandbox)
    (tmp_path / "new.jpg").write_bytes(make_jpeg(400, 400, seed=5))
    before = sandbox.keys()
    said = ask(
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
    assert (said.code, said.report["planned"], said.report["refused"]) == (0, 3, 1)
    assert [item["cost_usd"] for item in said.report["items"] if item["outcome"] == "planned"] == [0.33] * 3
    assert (before, 0.0, []) == (sandbox.keys(), said.report["spent_usd"], sandbox.provider.request_log.entries)


async def test_an_estimate_knows_what_is_there_already(sandbox: Sandbox, new_run: OpenRun, tmp_path: Path) -> None:
    """What the ledger has costs nothing again, in S3 and as a local file with the same content."""
    put_images(sandbox)
    await animated(sandbox, new_run)
    (tmp_path / "same.jpg").write_bytes(make_jpeg(400, 400, seed=0))
    said = ask(sandbox, "estimate", f"s3://{sandbox.bucket}/images/", str(tmp_path), "--prompt", PROMPT, "--json")
    assert (said.report["cached"], said.report["planned"], said.report["refused"]) == (3, 0, 1)


def test_an_estimate_without_a_valid_image_is_code_3(sandbox: Sandbox) -> None:
    """A script learns that a run would do nothing."""
    sandbox.put_image("images/small.jpg", make_jpeg(300, 400))
    said = ask(sandbox, "estimate", f"s3://{sandbox.bucket}/images/", "--prompt", PROMPT, "--json")
    assert (said.code, said.report["refused"]) == (3, 1)


async def test_jobs_lists_the_ledger(sandbox: Sandbox, new_run: OpenRun) -> None:
    """Each job with its state and cost, and the totals last."""
    put_images(sandbox)
    await animated(sandbox, new_run)
    lines = ask(sandbox, "jobs").out.splitlines()
    assert ([line.split()[1:2] for line in lines[1:3]], lines[-1]) == ([["stored"]] * 2, "2 stored · $0.384")
    assert json.loads(ask(sandbox, "jobs", "--state", "failed", "--json").out)["jobs"] == []
    jobs = json.loads(ask(sandbox, "jobs", "--since", "1h", "--json").out)["jobs"]
    assert [job["cost_usd"] for job in jobs] == [0.192] * 2


async def test_a_job_is_found_by_its_beginning(sandbox: Sandbox, new_run: OpenRun) -> None:
    """People copy the first digits; all is told, and what to do next."""
    put_images(sandbox)
    await animated(sandbox, new_run)
    key = json.loads(ask(sandbox, "jobs", "--json").out)["jobs"][0]["key"]
    said = ask(sandbox, "jobs", "show", key[:8])
    assert (said.code, all(words in said.out for words in (key, PROMPT, "task_", ".mp4", "Done."))) == (0, True)
    assert json.loads(ask(sandbox, "jobs", "show", key, "--json").out)["next"].startswith("Done.")


@pytest.mark.parametrize("key", ["abcde", "no-hex", "abcdef123456"])
def test_a_key_that_names_no_job_is_wrong_usage(sandbox: Sandbox, key: str) -> None:
    """A mistyped key is told as such."""
    said = ask(sandbox, "jobs", "show", key)
    assert (said.code, len(said.errors), said.out) == (2, 1, "")


def test_pause_and_resume_change_the_ledgers_page(sandbox: Sandbox) -> None:
    """A person stops all runs, also before the first one, and lets them go on."""
    for word, paused in (("pause", True), ("pause", True), ("resume", False)):
        assert (0, paused) == (ask(sandbox, word).code, sandbox.read_json("jobs/ledger.json")["paused"])


def test_pausing_anothers_ledger_is_refused(sandbox: Sandbox) -> None:
    """A sandbox's ledger is not changed under a real account."""
    ask(sandbox, "pause")
    said = ask(sandbox, "resume", I2V_ACCOUNT_LABEL="other")
    assert (said.code, sandbox.read_json("jobs/ledger.json")["paused"]) == (2, True)


def test_a_library_without_the_project_says_so(sandbox: Sandbox, tmp_path: Path) -> None:
    """From a bare wheel there are no flows to run: exit 2, and where to get them."""
    shutil.copytree(ROOT / "src/i2v", tmp_path / "site/i2v", ignore=shutil.ignore_patterns("__pycache__"))
    env = bare_env(**sandbox.env, PYTHONPATH=str(tmp_path / "site"))
    said = i2v("run", f"s3://{sandbox.bucket}/images/", "--prompt", PROMPT, env=env, folder=tmp_path)
    assert (said.code, "make setup" in said.err) == (2, True)
