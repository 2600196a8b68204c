"""A fault of one image ends that image alone, in the flow as Prefect runs it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from i2v.request import Request
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.fault_proxy import FaultProxy, FaultRule
from tests.support.flow_runs import RunFlow
from tests.support.orders import put_photos

PROMPT = "it moves"
NESTED = b"[" * 100_000
"""Invalid JSON, nested so deeply that Python's parser raises `RecursionError`."""


async def test_a_failed_read_is_not_cached(
    sandbox: Sandbox, provider: Provider, s3_proxy: FaultProxy, run_flow: RunFlow
) -> None:
    """If S3 denies one image once, the others are stored, and the next run validates and stores it."""
    zero, one, two = put_photos(sandbox, 3)
    s3_proxy.add(FaultRule("fail", "GET", r"/images/001\.jpg$", status=403, code="RequestTimeTooSkewed"))
    first = await run_flow()
    again = await run_flow()
    assert first.outcomes == {zero: "stored", one: "failed", two: "stored"}
    assert first.message == "2 stored · 1 failed · $0.384"
    assert again.outcomes == {zero: "cached", one: "stored", two: "cached"}
    assert again.message == "1 stored · 2 cached · $0.192"


@pytest.mark.parametrize("body", [b"{", NESTED], ids=["truncated", "nested"])
async def test_a_corrupt_record_fails_its_image_alone(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, body: bytes
) -> None:
    """A corrupt job record fails its own image; all others are stored and the report is complete."""
    zero, one, two = put_photos(sandbox, 3)
    key = Request(prompt=PROMPT).job_key(hashlib.sha256(sandbox.read("images/001.jpg")).hexdigest())
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/{key}.json", Body=body)
    first = await run_flow(prompt=PROMPT)
    assert first.outcomes == {zero: "stored", one: "failed", two: "stored"}
    assert first.message == "2 stored · 1 failed · $0.384"
    assert sandbox.read(f"jobs/{key}.json") == body


async def test_a_missing_temporary_folder_costs_nothing_twice(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no video can be downloaded, each paid image fails with its task id, and the next run stores it at no cost."""
    uris = put_photos(sandbox, 2)
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
        first = await run_flow()
    again = await run_flow()
    assert first.outcomes == dict.fromkeys(uris, "failed")
    assert {item["task_id"] for item in first.report["items"]} == set(provider.tasks)
    assert first.message == "2 failed · $0.384"
    assert again.message == "2 stored · $0.00"
